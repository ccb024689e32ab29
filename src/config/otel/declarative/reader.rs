//! Reads values of a declarative configuration, and notes everything that is wrong with its line and key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::env::{Origin, Setting, Warning, parse_choice};
use crate::config::file::{Node, Value};
use crate::config::provenance::{Problem, Source};
use crate::config::schema::nearest;
use crate::engine::sampler::Ratio;

/// What was found wrong so far.
pub(super) struct Reader {
    pub(super) path: Arc<str>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

/// A mapping whose keys are known.
pub(super) struct Section<'n> {
    /// Its path.
    pub(super) at: String,
    pub(super) line: u64,
    entries: &'n [(crate::config::file::Key, Node)],
}

/// One of several things that may stand somewhere, by its only key.
pub(super) struct Plugin<'n> {
    pub(super) name: &'n str,
    pub(super) node: &'n Node,
    pub(super) at: String,
    pub(super) line: u64,
}

pub(super) fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

/// What stands at a path, for a message. What stands where headers are said may be a secret.
fn shown(at: &str, value: &Value) -> String {
    let is_of_headers = |part: &str| part == "headers_list" || part.split('[').next() == Some("headers");
    if at.split('.').any(is_of_headers) { value.kind().to_owned() } else { value.to_string() }
}

impl<'n> Section<'n> {
    /// The value of a key that is there and not null.
    pub(super) fn node(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).filter(|node| node.value != Value::Null)
    }

    /// The value of a key, null too.
    pub(super) fn entry(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(name, _)| name.name == key).map(|(_, node)| node)
    }
}

impl Reader {
    pub(super) fn problem(&mut self, line: u64, key: &str, message: String) {
        let source = Source::File { path: Arc::clone(&self.path), line };
        self.problems.push(Problem { source, key: Some(key.to_owned()), message });
    }

    pub(super) fn warn(&mut self, line: u64, key: &str, problem: &str) {
        let place = format!("{}:{line}: {key}", self.path);
        self.warnings.push(Warning { variable: place.into(), value: None, problem: problem.to_owned() });
    }

    /// A mapping with no other keys than these. Null is an empty one.
    pub(super) fn section<'n>(&mut self, node: &'n Node, at: &str, known: &[&str]) -> Section<'n> {
        let entries: &[_] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            other @ (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_)) => {
                self.problem(
                    node.line,
                    at,
                    format!("a mapping is expected here, found {}", shown(at, other)),
                );
                &[]
            }
        };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let message = match nearest(&key.name, known.iter().copied()) {
                Some(near) => format!("unknown key; did you mean `{near}`?"),
                None => format!("unknown key; known here: `{}`", known.join("`, `")),
            };
            self.problem(key.line, &join(at, &key.name), message);
        }
        Section { at: at.to_owned(), line: node.line, entries }
    }

    /// A section within another; an empty one where there is none.
    pub(super) fn subsection<'n>(&mut self, section: &Section<'n>, key: &str, known: &[&str]) -> Section<'n> {
        static NOTHING: Node = Node::NOTHING;
        self.section(section.node(key).unwrap_or(&NOTHING), &join(&section.at, key), known)
    }

    pub(super) fn list<'n>(&mut self, section: &Section<'n>, key: &str) -> &'n [Node] {
        let Some(node) = section.node(key) else { return &[] };
        if let Value::List(list) = &node.value {
            return list;
        }
        let at = join(&section.at, key);
        self.problem(node.line, &at, format!("a list is expected here, found {}", shown(&at, &node.value)));
        &[]
    }

    /// A mapping with exactly one key, which says what this is.
    pub(super) fn plugin<'n>(&mut self, node: &'n Node, at: &str) -> Option<Plugin<'n>> {
        if let Value::Map(entries) = &node.value
            && let [(key, value)] = &entries[..]
        {
            return Some(Plugin { name: &key.name, node: value, at: join(at, &key.name), line: key.line });
        }
        self.problem(node.line, at, "a mapping with exactly one key is expected here".to_owned());
        None
    }

    /// There is no such thing.
    pub(super) fn unknown_plugin(&mut self, plugin: &Plugin<'_>, known: &[&str]) {
        let hint = nearest(plugin.name, known.iter().copied()).map_or_else(
            || format!("known here: `{}`", known.join("`, `")),
            |near| format!("did you mean `{near}`?"),
        );
        self.problem(plugin.line, &plugin.at, format!("this does not exist here; {hint}"));
    }

    fn value<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<Setting<T>> {
        let node = section.node(key)?;
        let value = read(&node.value);
        if value.is_none() {
            let at = join(&section.at, key);
            self.problem(node.line, &at, format!("{} is not {expected}", shown(&at, &node.value)));
        }
        value.map(|value| Setting { value, origin: Origin::File(node.line) })
    }

    pub(super) fn text(&mut self, section: &Section<'_>, key: &str) -> Option<Setting<String>> {
        self.value(section, key, "text; put it in quotes", |value| {
            let Value::Text(text) = value else { return None };
            Some(text.clone())
        })
    }

    pub(super) fn boolean(&mut self, section: &Section<'_>, key: &str) -> Option<Setting<bool>> {
        self.value(section, key, "`true` or `false`", |value| {
            let Value::Bool(boolean) = value else { return None };
            Some(*boolean)
        })
    }

    pub(super) fn number(&mut self, section: &Section<'_>, key: &str, min: u32) -> Option<Setting<usize>> {
        let max = i32::MAX.unsigned_abs();
        self.value(section, key, &format!("a whole number from {min} to {max}"), |value| {
            let Value::Int(int) = value else { return None };
            let number = u32::try_from(*int).ok().filter(|number| (min..=max).contains(number))?;
            usize::try_from(number).ok()
        })
    }

    pub(super) fn millis(&mut self, section: &Section<'_>, key: &str) -> Option<Setting<Duration>> {
        let number = self.number(section, key, 0)?;
        Some(Setting { value: Duration::from_millis(number.value as u64), origin: number.origin })
    }

    pub(super) fn ratio(&mut self, section: &Section<'_>, key: &str) -> Option<Setting<Ratio>> {
        self.value(section, key, "a number from 0 to 1", |value| match value {
            Value::Int(0) => Ratio::new(0.0).ok(),
            Value::Int(1) => Ratio::new(1.0).ok(),
            Value::Float(float) => Ratio::new(*float).ok(),
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => None,
        })
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<Setting<T>> {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        self.value(section, key, &format!("one of {}", names.join(", ")), |value| {
            let Value::Text(text) = value else { return None };
            parse_choice(text, choices).ok()
        })
    }

    /// A path that does not depend on where the bridge was started.
    pub(super) fn file(&mut self, section: &Section<'_>, key: &str) -> Option<Setting<Option<PathBuf>>> {
        let Setting { value, origin } = self.text(section, key)?;
        let path = PathBuf::from(&value);
        if let (false, Origin::File(line)) = (path.is_absolute(), origin) {
            self.problem(
                line,
                &join(&section.at, key),
                format!("`{}` is not an absolute path", value.escape_debug()),
            );
        }
        Some(Setting { value: Some(path), origin })
    }
}
