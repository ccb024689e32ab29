//! Names of instruments and annotation units, which are made of untrusted text.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::engine::settings::MAX_NAME_CHARS;

/// Characters of an annotation unit's word: a unit has at most 63, braces included.
const MAX_ANNOTATION_CHARS: usize = 40;

/// `<title>.<measurement>` by OpenTelemetry's syntax. One that is too long ends in a hash of the whole, so that two of
/// them are not taken for one.
pub(super) fn instrument_name(title: &str, measurement: &str) -> Arc<str> {
    let mut name = String::with_capacity(title.len() + 1 + measurement.len());
    name.push_str(title);
    name.push('.');
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    name.extend(measurement.chars().map(|c| if allowed(c) { c } else { '_' }));
    if measurement.is_empty() {
        name.push('_');
    }
    if name.len() > MAX_NAME_CHARS {
        let mark = format!("-{:016x}", xxh3_64(name.as_bytes()));
        // Titles and what was pushed are ASCII, so any byte is a boundary.
        name.truncate(MAX_NAME_CHARS - mark.len());
        name.push_str(&mark);
    }
    name.into()
}

/// Whether OpenTelemetry takes this for an instrument's name.
pub(crate) fn is_instrument_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= MAX_NAME_CHARS
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'))
}

/// The unit of a number of things: `{message}`; `{event}` where the word will not do.
pub(super) fn annotation(word: &str) -> String {
    let fits = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let word = if fits && (1..=MAX_ANNOTATION_CHARS).contains(&word.len()) { word } else { "event" };
    format!("{{{word}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_measured_the_name_is_valid() {
        let long = "x".repeat(300);
        for (title, measurement, name) in [
            ("a.b", "bytes", "a.b.bytes"),
            ("a.b", "rss bytes%", "a.b.rss_bytes_"),
            ("a.b", "größe", "a.b.gr__e"),
            ("a.b", "", "a.b._"),
        ] {
            assert_eq!(&*instrument_name(title, measurement), name);
        }
        let cut = instrument_name("a.b", &long);
        assert_eq!(cut.len(), MAX_NAME_CHARS);
        assert!(is_instrument_name(&cut));
        assert_ne!(cut, instrument_name("a.b", &format!("{long}y")), "they are two instruments");
        assert!(is_instrument_name(&instrument_name(&format!("a{long}")[..255], "bytes")));
    }

    #[test]
    fn an_annotation_is_a_plain_word() {
        assert_eq!(annotation("hit"), "{hit}");
        for word in ["", "a b", "a}b", "é", &"x".repeat(50)] {
            assert_eq!(annotation(word), "{event}", "{word}");
        }
    }

    #[test]
    fn names_that_specification_forbids_are_known() {
        for name in ["", "1a", ".a", "a b", "é", &"a".repeat(256)] {
            assert!(!is_instrument_name(name), "{name}");
        }
        assert!(is_instrument_name("Ab_1.-/"));
    }
}
