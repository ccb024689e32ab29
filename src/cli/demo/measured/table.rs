//! Values as people read them, and the tables that they stand in.

use super::MAX_TEXT;
use crate::cli::demo::style::{Style, Tone, duration, escaped};

/// The value below which this share of the measurements lies, as far as buckets tell: within its bucket they are taken for
/// evenly spread, the first bucket for beginning at 0, and the last one says no more than its lower bound.
pub(super) fn quantile(share: f64, bounds: &[f64], counts: &[u64]) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    if all == 0 || counts.len() != bounds.len() + 1 {
        return None;
    }
    let rank = share * all as f64;
    let mut below = 0;
    for (number, count) in counts.iter().enumerate() {
        let until = below + count;
        if *count > 0 && until as f64 >= rank {
            let lower = number.checked_sub(1).map_or(0.0, |before| bounds[before]);
            let Some(upper) = bounds.get(number) else { return bounds.last().copied() };
            return Some(lower + (upper - lower) * (rank - below as f64) / *count as f64);
        }
        below = until;
    }
    None
}

/// A value in its unit, for people.
pub(super) fn shown(value: f64, unit: &str) -> String {
    const BYTES: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    match unit {
        // Durations of a demo are far from what an integer of nanoseconds cannot hold.
        "s" => duration((value * 1e9).round() as u64),
        "By" => {
            let (mut value, mut unit) = (value, 0);
            while value >= 1024.0 && unit + 1 < BYTES.len() {
                value /= 1024.0;
                unit += 1;
            }
            if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", BYTES[unit]) }
        }
        "" | "1" => plain(value),
        // `{token}` is a word about the number, and not a unit to convert.
        unit => format!("{} {}", plain(value), escaped(unit.trim_matches(['{', '}']), MAX_TEXT)),
    }
}

fn plain(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Rows below a heading, the first column to the left and the others to the right; nothing without rows.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>], style: Style) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heading: Vec<String> = heading.iter().map(|&word| word.to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&heading]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..heading.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  "))
    };
    let mut text = format!("{}\n", style.paint(Tone::Faint, &line(&heading)));
    for row in rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Prometheus reads buckets.
    #[test]
    fn quantiles_lie_within_their_buckets() {
        let bounds = [1.0, 2.0, 4.0];
        assert_eq!(quantile(0.5, &bounds, &[4, 0, 4, 0]), Some(1.0));
        assert_eq!(quantile(0.75, &bounds, &[4, 0, 4, 0]), Some(3.0));
        assert_eq!(quantile(0.25, &bounds, &[4, 0, 0, 0]), Some(0.25));
        assert_eq!(quantile(0.95, &bounds, &[0, 0, 0, 3]), Some(4.0), "beyond all bounds");
        assert_eq!(quantile(0.5, &bounds, &[0, 0, 0, 0]), None);
        assert_eq!(quantile(0.5, &[], &[]), None);
    }
}
