//! The entry `ot` of a W3C trace state: OpenTelemetry's own, with the randomness (`rv`) and the threshold (`th`) of
//! consistent sampling. Entries of others, and other keys of ours, stay as they are.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters of the value of `ot`, from the specification.
const MAX_ENTRY_CHARS: usize = 256;
/// Entries of a trace state, from W3C Trace Context.
const MAX_ENTRIES: usize = 32;
/// Characters of a trace state that others can be relied upon to keep.
const MAX_STATE_CHARS: usize = 512;
/// Hex digits of 56 bits.
const DIGITS: usize = 14;

/// What `ot` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `rv`, if it is exactly 14 lower-case hex digits.
    pub(crate) randomness: Option<u64>,
    /// `th`, if it is 1 to 14 of them.
    pub(crate) threshold: Option<u64>,
}

impl Entry {
    pub(crate) fn of(state: &str) -> Self {
        let mut entry = Self::default();
        for (key, value) in
            entry_of(state).unwrap_or_default().split(';').filter_map(|part| part.split_once(':'))
        {
            match key {
                "rv" if value.len() == DIGITS => entry.randomness = padded(value),
                "th" => entry.threshold = padded(value),
                _ => {}
            }
        }
        entry
    }
}

/// The value of `ot`.
fn entry_of(state: &str) -> Option<&str> {
    state.split(',').find_map(|member| member.trim().strip_prefix("ot="))
}

/// 1 to 14 lower-case hex digits, padded with zeros at the right.
fn padded(digits: &str) -> Option<u64> {
    let is_hex = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex || digits.is_empty() || digits.len() > DIGITS {
        return None;
    }
    let number = u64::from_str_radix(digits, 16).ok()?;
    Some(number << (4 * (DIGITS - digits.len())))
}

/// The threshold as `th` says it: without the zeros at its end.
pub(crate) fn threshold_digits(threshold: u64) -> String {
    let digits = format!("{threshold:014x}");
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
}

/// The trace state with this threshold. Nothing if `ot` would be too long.
pub(crate) fn set_threshold(state: &str, threshold: u64) -> Option<String> {
    let mut entry = format!("th:{}", threshold_digits(threshold));
    for part in other_parts(state) {
        write!(entry, ";{part}").expect("a String takes everything");
    }
    (entry.len() <= MAX_ENTRY_CHARS).then(|| with_entry(state, &entry))
}

/// The trace state without a threshold.
pub(crate) fn erase_threshold(state: &str) -> Cow<'_, str> {
    let has_threshold = entry_of(state).is_some_and(|entry| entry.split(';').any(is_threshold));
    if !has_threshold {
        return state.into();
    }
    let parts: Vec<_> = other_parts(state).collect();
    with_entry(state, &parts.join(";")).into()
}

/// Whether there may be a threshold: a look that is cheap enough for every span.
pub(crate) fn may_have_threshold(state: &str) -> bool {
    state.contains("th:")
}

fn is_threshold(part: &str) -> bool {
    part.starts_with("th:")
}

/// What `ot` says besides the threshold.
fn other_parts(state: &str) -> impl Iterator<Item = &str> {
    entry_of(state).unwrap_or_default().split(';').filter(|part| !part.is_empty() && !is_threshold(part))
}

/// By W3C what was changed stands first, and what is too much goes from the end.
fn with_entry(state: &str, entry: &str) -> String {
    let mut changed = if entry.is_empty() { String::new() } else { format!("ot={entry}") };
    let others =
        state.split(',').map(str::trim).filter(|member| !member.is_empty() && !member.starts_with("ot="));
    for (number, member) in others.enumerate() {
        if number + 1 >= MAX_ENTRIES || changed.len() + 1 + member.len() > MAX_STATE_CHARS {
            break;
        }
        if !changed.is_empty() {
            changed.push(',');
        }
        changed.push_str(member);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_is_fourteen_digits_or_none() {
        assert_eq!(Entry::of("ot=rv:6e6d1a75832a2f").randomness, Some(0x6e_6d1a_7583_2a2f));
        assert_eq!(Entry::of("a=1, ot=x:y;rv:00000000000001 ,b=2").randomness, Some(1));
        for state in
            ["ot=rv:6e6d1a75832a2", "ot=rv:6E6D1A75832A2F", "rv:6e6d1a75832a2f", "ot=rv:6e6d1a75832a2ff", ""]
        {
            assert_eq!(Entry::of(state).randomness, None, "{state}");
        }
    }

    #[test]
    fn thresholds_are_padded_at_the_right() {
        assert_eq!(Entry::of("ot=th:8").threshold, Some(1 << 55));
        assert_eq!(Entry::of("ot=th:0").threshold, Some(0));
        assert_eq!(Entry::of("ot=th:e6660000000000").threshold, Some(0xe6_6600_0000_0000));
        for state in ["ot=th:", "ot=th:E", "ot=th:123456789abcdef", "ot=th:-1"] {
            assert_eq!(Entry::of(state).threshold, None, "{state}");
        }
    }

    #[test]
    fn what_others_said_stays() {
        assert_eq!(set_threshold("", 1 << 55).as_deref(), Some("ot=th:8"));
        assert_eq!(
            set_threshold("a=1,ot=rv:6e6d1a75832a2f;th:4;x:y,b=2", 0).as_deref(),
            Some("ot=th:0;rv:6e6d1a75832a2f;x:y,a=1,b=2")
        );
        assert_eq!(erase_threshold("a=1,ot=th:4;rv:6e6d1a75832a2f"), "ot=rv:6e6d1a75832a2f,a=1");
        assert_eq!(erase_threshold("a=1,ot=th:4"), "a=1");
        let untouched = erase_threshold(" a=1,ot=x:y");
        assert!(matches!(untouched, Cow::Borrowed(" a=1,ot=x:y")), "{untouched}");
    }

    #[test]
    fn a_trace_state_keeps_its_limits() {
        let long = format!("ot=x:{}", "y".repeat(250));
        assert_eq!(set_threshold(&long, 1 << 55), None);
        let many: Vec<_> = (0..32).map(|number| format!("k{number}=v")).collect();
        let changed = set_threshold(&many.join(","), 1 << 55).unwrap();
        assert_eq!(changed.split(',').count(), 32);
        assert!(changed.starts_with("ot=th:8,k0=v") && changed.ends_with("k30=v"), "{changed}");
        let wide = format!("a={},b={}", "x".repeat(300), "y".repeat(206));
        assert!(set_threshold(&wide, 1 << 55).unwrap().len() <= 512);
    }
}
