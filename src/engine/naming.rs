//! From the parts of a name on the wire to everything that the bridge calls it.
//!
//! The Elixir name is `[:snakepit, :python | parts]`; dotted, `snakepit.python.inference.start`. The last of at least
//! two parts may be a phase, and the rest is the operation. Names are untrusted: empty parts vanish, characters that
//! OpenTelemetry's names forbid become `_`, the length is capped, and the table of known names is bounded.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::settings::MAX_NAME_CHARS;
use crate::engine::short::is_same;

/// Distinct names that are remembered; beyond it the table starts anew. It is a cache: forgetting costs time only.
const MAX_CACHED_NAMES: usize = 4096;

/// Bytes of a name that is remembered. A longer one is cut anyway, and is resolved anew each time.
const MAX_CACHED_NAME_BYTES: usize = 1024;

/// Characters of an operation that leave room for the longest phase and its dot.
const MAX_OPERATION_CHARS: usize = MAX_NAME_CHARS - 1 - Phase::Exception.as_str().len();

/// What the last part of a name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// `start`
    Start,
    /// `stop`
    Stop,
    /// `exception`
    Exception,
}

impl Phase {
    fn of(part: &str) -> Option<Self> {
        match part {
            "start" => Some(Self::Start),
            "stop" => Some(Self::Stop),
            "exception" => Some(Self::Exception),
            _ => None,
        }
    }

    /// The part that says so.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Exception => "exception",
        }
    }
}

/// The operation in a dotted name that ends in a phase.
pub(crate) fn operation(dotted: &str) -> Option<&str> {
    let (operation, last) = dotted.rsplit_once('.')?;
    Phase::of(last).map(|_| operation)
}

/// A name, resolved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Absent for a standalone event.
    pub(crate) phase: Option<Phase>,
    /// Dotted, as the worker emits it, without the prefix: what policies match. At most [`MAX_NAME_CHARS`] characters;
    /// where there are more, the operation is cut and the phase is kept, so that all phases of it are judged alike.
    pub(crate) emitted: Box<str>,
    /// The prefixed operation for a half of a span, the whole prefixed name for a standalone event.
    pub(crate) title: Arc<str>,
    /// `title` in Elixir's form: `[:snakepit, :python, :tool, :execution]`.
    pub(crate) elixir: Arc<str>,
    /// Stands for `title` in tables.
    pub(crate) hash: u64,
    /// It is remembered, so all that have it share it.
    is_shared: bool,
    /// Where in `title` the operation as emitted begins, if `emitted` and `elixir` follow from `title`: in most names.
    own_from: Option<u16>,
}

impl Name {
    /// What the name costs whoever keeps it: those that are remembered are shared.
    pub(crate) fn own_bytes(&self) -> usize {
        if !self.is_shared { self.emitted.len() + self.title.len() + self.elixir.len() } else { 0 }
    }
}

/// Resolves names and remembers what it resolved.
#[derive(Debug)]
pub(crate) struct Naming {
    prefix: String,
    /// By the hash of the parts.
    cache: HashTable<Known>,
    hasher: DefaultHashBuilder,
}

/// A name that was resolved before.
#[derive(Debug)]
struct Known {
    hash: u64,
    /// The parts as sent.
    raw: Box<[Box<str>]>,
    name: Arc<Name>,
}

impl Naming {
    /// A resolver for this dotted prefix.
    #[must_use]
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), cache: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    /// The name of these parts; `None` if nothing is left of them.
    pub(crate) fn resolve(&mut self, parts: &[&str]) -> Option<Arc<Name>> {
        let hash = self.hasher.hash_one(parts);
        match self.cache.find(hash, |known| known.is_of(parts)) {
            Some(known) => Some(Arc::clone(&known.name)),
            None => self.learn(parts, hash),
        }
    }

    #[cold]
    fn learn(&mut self, parts: &[&str], hash: u64) -> Option<Arc<Name>> {
        let mut name = self.build(parts)?;
        name.is_shared = parts.iter().map(|part| part.len() + 1).sum::<usize>() <= MAX_CACHED_NAME_BYTES;
        let name = Arc::new(name);
        if !name.is_shared {
            return Some(name);
        }
        if self.cache.len() >= MAX_CACHED_NAMES {
            self.cache.clear();
        }
        let raw = parts.iter().map(|part| Box::from(*part)).collect();
        self.cache.insert_unique(hash, Known { hash, raw, name: Arc::clone(&name) }, |known| known.hash);
        Some(name)
    }

    fn build(&self, parts: &[&str]) -> Option<Name> {
        let kept: SmallVec<[&str; 8]> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
        let (last, before) = kept.split_last()?;
        let phase = if before.is_empty() { None } else { Phase::of(last) };
        let mut own = if phase.is_some() { before } else { &kept[..] };
        if let Some(("python", rest)) = own.split_first().map(|(first, rest)| (*first, rest))
            && self.prefix.rsplit('.').next() == Some("python")
        {
            own = rest;
        }
        let prefix_parts = self.prefix.split('.').filter(|part| !part.is_empty());
        let mut dotted = String::new();
        let mut elixir = String::from("[");
        for part in prefix_parts.chain(own.iter().copied()) {
            if dotted.len() >= MAX_NAME_CHARS {
                break;
            }
            let sanitised = sanitise(part);
            push_separated(&mut dotted, ".", &sanitised);
            if elixir.len() > 1 {
                elixir.push_str(", ");
            }
            push_atom(&mut elixir, &sanitised);
        }
        elixir.push(']');
        // Sanitised text is ASCII, so any byte is a boundary.
        dotted.truncate(MAX_NAME_CHARS);
        let emitted = emitted(&kept, phase);
        let follows = |from: &u16| {
            emitted_of(&dotted, *from, phase).as_deref() == Some(&*emitted) && elixir_of(&dotted) == elixir
        };
        Some(Name {
            phase,
            own_from: u16::try_from(self.prefix.len() + 1).ok().filter(follows),
            emitted,
            hash: xxh3_64(dotted.as_bytes()),
            title: dotted.into(),
            elixir: elixir.into(),
            is_shared: false,
        })
    }
}

/// The parts with dots between them, cut as [`Name::emitted`] says.
fn emitted(kept: &[&str], phase: Option<Phase>) -> Box<str> {
    let (operation, room, end) = match (kept.split_last(), phase) {
        (Some((_, operation)), Some(phase)) => (operation, MAX_OPERATION_CHARS, Some(phase.as_str())),
        _ => (kept, MAX_NAME_CHARS, None),
    };
    let separated = operation.iter().enumerate().flat_map(|(index, part)| {
        let dot = if index == 0 { "" } else { "." };
        dot.chars().chain(part.chars())
    });
    let mut emitted: String = separated.take(room).collect();
    if let Some(part) = end {
        emitted.push('.');
        emitted.push_str(part);
    }
    emitted.into()
}

/// Without what follows from the title.
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let other_forms = self.own_from.is_none().then_some((&*self.emitted, &*self.elixir));
        (&*self.title, self.phase, self.is_shared, self.own_from, other_forms).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Stored<'a> = (&'a str, Option<Phase>, bool, Option<u16>, Option<(&'a str, &'a str)>);
        let (title, phase, is_shared, own_from, other_forms) = Stored::deserialize(deserializer)?;
        let forms = match (own_from, other_forms) {
            (_, Some((emitted, elixir))) => Some((emitted.into(), elixir.into())),
            (Some(from), None) => {
                emitted_of(title, from, phase).map(|emitted| (emitted.into(), elixir_of(title).into()))
            }
            (None, None) => None,
        };
        let (emitted, elixir) = forms.ok_or_else(|| D::Error::custom("a name without its forms"))?;
        let hash = xxh3_64(title.as_bytes());
        Ok(Self { phase, emitted, title: title.into(), elixir, hash, is_shared, own_from })
    }
}

/// [`Name::emitted`] of a title whose operation begins at `from`.
fn emitted_of(title: &str, from: u16, phase: Option<Phase>) -> Option<String> {
    let mut emitted = title.get(usize::from(from)..)?.to_owned();
    if let Some(phase) = phase {
        push_separated(&mut emitted, ".", phase.as_str());
    }
    Some(emitted)
}

/// [`Name::elixir`] of a title of which no part has a dot.
fn elixir_of(title: &str) -> String {
    let mut elixir = String::from("[");
    for part in title.split('.') {
        if elixir.len() > 1 {
            elixir.push_str(", ");
        }
        push_atom(&mut elixir, part);
    }
    elixir.push(']');
    elixir
}

impl Known {
    fn is_of(&self, parts: &[&str]) -> bool {
        self.raw.len() == parts.len() && self.raw.iter().zip(parts).all(|(known, part)| is_same(known, part))
    }
}

fn push_separated(text: &mut String, separator: &str, part: &str) {
    if !text.is_empty() {
        text.push_str(separator);
    }
    text.push_str(part);
}

/// At most [`MAX_NAME_CHARS`] characters; each that an instrument name may not have becomes `_`.
fn sanitise(part: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    part.chars().take(MAX_NAME_CHARS).map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// An atom as `inspect/1` writes it: quoted unless it is a plain identifier.
fn push_atom(elixir: &mut String, part: &str) {
    let plain = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    elixir.push(':');
    if plain {
        elixir.push_str(part);
    } else {
        elixir.push('"');
        elixir.push_str(part);
        elixir.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(parts: &[&str]) -> Option<(Option<Phase>, String, String)> {
        let name = Naming::new("snakepit.python").resolve(parts)?;
        Some((name.phase, name.title.to_string(), name.elixir.to_string()))
    }

    fn resolved(phase: Option<Phase>, title: &str, elixir: &str) -> Option<(Option<Phase>, String, String)> {
        Some((phase, title.to_owned(), elixir.to_owned()))
    }

    #[test]
    fn the_last_of_two_parts_decides_the_phase() {
        let elixir = "[:snakepit, :python, :tool, :execution]";
        let title = "snakepit.python.tool.execution";
        for phase in [Phase::Start, Phase::Stop, Phase::Exception] {
            assert_eq!(resolve(&["tool", "execution", phase.as_str()]), resolved(Some(phase), title, elixir));
        }
    }

    #[test]
    fn a_phase_alone_and_an_unknown_phase_are_standalone() {
        assert_eq!(
            resolve(&["start"]),
            resolved(None, "snakepit.python.start", "[:snakepit, :python, :start]")
        );
        assert_eq!(resolve(&["", "stop"]), resolve(&["stop"]));
        assert_eq!(
            resolve(&["tool", "paused"]),
            resolved(None, "snakepit.python.tool.paused", "[:snakepit, :python, :tool, :paused]")
        );
    }

    #[test]
    fn a_leading_python_is_not_repeated() {
        let expected = resolved(Some(Phase::Start), "snakepit.python.call", "[:snakepit, :python, :call]");
        assert_eq!(resolve(&["python", "call", "start"]), expected);
        assert_eq!(resolve(&["call", "start"]), expected);
    }

    #[test]
    fn empty_parts_vanish_and_a_name_without_parts_is_none() {
        assert_eq!(resolve(&["", "a", "", "b", ""]), resolve(&["a", "b"]));
        assert_eq!(resolve(&[]), None);
        assert_eq!(resolve(&["", ""]), None);
    }

    #[test]
    fn forbidden_characters_become_underscores_and_length_is_capped() {
        let (_, title, elixir) = resolve(&["a b", "naïve%", "x-y/z"]).unwrap();
        assert_eq!(title, "snakepit.python.a_b.na_ve_.x-y/z");
        assert_eq!(elixir, "[:snakepit, :python, :a_b, :na_ve_, :\"x-y/z\"]");
        let (phase, title, _) = resolve(&[&"n".repeat(10_000), "start"]).unwrap();
        assert_eq!((phase, title.len()), (Some(Phase::Start), MAX_NAME_CHARS));
    }

    #[test]
    fn what_policies_match_is_capped_and_keeps_the_phase() {
        let emitted =
            |parts: &[&str]| Naming::new("snakepit.python").resolve(parts).unwrap().emitted.to_string();
        assert_eq!(emitted(&["", "tool", "execution", "start"]), "tool.execution.start");
        assert_eq!(emitted(&["cache", "hit"]), "cache.hit");

        let long = "ö".repeat(10_000);
        assert_eq!(emitted(&[&long, "hit"]), "ö".repeat(MAX_NAME_CHARS));
        let operation = "ö".repeat(MAX_OPERATION_CHARS);
        for phase in ["start", "stop", "exception"] {
            let emitted = emitted(&[&long, phase]);
            assert_eq!(emitted, format!("{operation}.{phase}"));
            assert!(emitted.chars().count() <= MAX_NAME_CHARS);
        }
    }

    #[test]
    fn a_very_long_name_is_not_remembered() {
        let mut naming = Naming::new("snakepit.python");
        let long = "n".repeat(MAX_CACHED_NAME_BYTES);
        assert_eq!(naming.resolve(&[&long, "start"]), naming.resolve(&[&long, "start"]));
        assert!(naming.cache.is_empty());
        assert!(naming.resolve(&["n", "start"]).is_some());
        assert_eq!(naming.cache.len(), 1);
    }

    #[test]
    fn the_table_of_names_is_bounded() {
        let mut naming = Naming::new("snakepit.python");
        for number in 0..10_000 {
            assert!(naming.resolve(&["name", &number.to_string()]).is_some());
            assert!(naming.cache.len() <= MAX_CACHED_NAMES);
        }
        naming.cache.clear();
        let name = naming.resolve(&["name", &"x".repeat(5_000), "start"]).unwrap();
        assert!(naming.cache.is_empty() && name.own_bytes() > 0, "whoever keeps it pays for it");
    }

    /// What follows from the title is not written, and what does not is.
    #[test]
    fn a_name_comes_back_as_it_was_written() {
        let parts: [&[&str]; 8] = [
            &["tool", "execution", "start"],
            &["python", "tool", "stop"],
            &["cache.hit"],
            &["a.b", "c", "exception"],
            &["start"],
            &["", "Großes", "Ding", "stop"],
            &["x", &"y".repeat(300), "start"],
            &["x", &"y".repeat(2_000), "stop"],
        ];
        for prefix in ["snakepit.python", "", "other"] {
            for parts in parts {
                let name = Naming::new(prefix).resolve(parts).expect("a name");
                let written = postcard::to_stdvec(&name).expect("it can be written");
                let read: Name = postcard::from_bytes(&written).expect("it can be read");
                assert_eq!(read, *name);
            }
        }
        let usual = Naming::new("snakepit.python").resolve(&["tool", "execution", "start"]).expect("a name");
        assert!(postcard::to_stdvec(&usual).expect("it can be written").len() < 40);
    }
}
