//! How the demo's lines look: colours where they are wanted, durations that are read at a glance, and text from workers
//! that cannot move the cursor.

use std::fmt::Write as _;

use crate::diagnostics::is_treacherous;

/// Columns that the layout reckons with where there is no terminal to ask.
pub(super) const DEFAULT_WIDTH: usize = 110;
/// Below it there is no room for a name, a bar and a duration side by side.
const MIN_WIDTH: usize = 80;
/// Wider bars say nothing more.
const MAX_WIDTH: usize = 160;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    /// Colours are wanted.
    colours: bool,
    /// Columns.
    pub(super) width: usize,
    /// Lines end at the width, with an ellipsis.
    pub(super) cuts: bool,
}

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// A heading.
    Heading,
    /// What there is to see.
    Caption,
    /// Less important.
    Faint,
    /// Went well.
    Good,
    /// Failed.
    Bad,
    /// Known only in part.
    Doubtful,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Heading => "1",
            Self::Caption => "36",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Doubtful => "33",
        }
    }
}

impl Style {
    /// No colours, nothing cut.
    pub(super) const PLAIN: Self = Self { colours: false, width: DEFAULT_WIDTH, cuts: false };

    /// The style of a terminal of so many columns, if it says how many it has.
    pub(super) fn terminal(columns: Option<usize>, colours: bool) -> Self {
        let width = columns.map_or(DEFAULT_WIDTH, |columns| columns.clamp(MIN_WIDTH, MAX_WIDTH));
        Self { colours, width, cuts: columns.is_some() }
    }

    /// `text` in its tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }

    /// As much of `text` as there is room for behind `used` columns.
    pub(super) fn cut(self, text: &str, used: usize) -> String {
        let room = self.width.saturating_sub(used);
        if !self.cuts || text.chars().count() <= room {
            return text.to_owned();
        }
        let kept: String = text.chars().take(room.saturating_sub(1)).collect();
        if room == 0 { kept } else { format!("{kept}…") }
    }
}

/// `text` with everything escaped that would not stay in its place: control characters and those that change the
/// direction of writing. At most `max` characters of it.
pub(super) fn escaped(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(max));
    let mut characters = text.chars();
    for character in characters.by_ref().take(max) {
        if is_treacherous(character) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "{}", character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Four digits or so, with the unit that suits.
pub(super) fn duration(nanos: u64) -> String {
    let value = nanos as f64;
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        1_000_000_000.. => format!("{:.2} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_workers_stays_in_its_place() {
        assert_eq!(escaped("two\nlines \x1b[2J", 80), "two\\nlines \\u{1b}[2J");
        assert_eq!(escaped("\u{202e}olleh", 80), "\\u{202e}olleh");
        assert_eq!(escaped("naïve \"日本\"", 80), "naïve \"日本\"");
        assert_eq!(escaped("abcdef", 3), "abc…");
    }

    #[test]
    fn durations_have_the_unit_that_suits() {
        let shown = [1, 1_500, 12_345_678, 2_500_000_000].map(duration);
        assert_eq!(shown, ["1 ns", "1.5 µs", "12.3 ms", "2.50 s"]);
    }

    #[test]
    fn lines_end_at_the_width_of_a_terminal_only() {
        let terminal = Style::terminal(Some(80), false);
        assert_eq!(terminal.cut("abcdef", 76), "abc…");
        assert_eq!(terminal.cut("abcd", 76), "abcd");
        assert_eq!(terminal.cut("abcd", 90), "");
        assert_eq!(Style::PLAIN.cut("abcdef", 200), "abcdef");
    }

    #[test]
    fn colours_are_for_those_who_want_them() {
        assert_eq!(Style::terminal(Some(100), true).paint(Tone::Bad, "no"), "\x1b[31mno\x1b[0m");
        assert_eq!(Style::terminal(Some(100), false).paint(Tone::Bad, "no"), "no");
    }
}
