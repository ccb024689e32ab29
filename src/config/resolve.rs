//! One value out of four places: flag, then variable, then file, then default; and the notes that are taken on the way.

use std::sync::Arc;

use super::env::{EnvSource, non_empty};
use super::file::{Node, Value};
use super::flags::Flags;
use super::provenance::{Effective, Problem, Source};
use super::schema::Key;
use super::value::{Raw, Setting};

/// Reads values, and remembers what counts and what is wrong.
pub(super) struct Resolver<'a> {
    pub(super) flags: &'a Flags,
    pub(super) env: &'a dyn EnvSource,
    pub(super) path: Arc<str>,
    pub(super) root: Node,
    pub(super) problems: Vec<Problem>,
    pub(super) effective: Vec<Effective>,
    pub(super) warnings: Vec<String>,
}

impl Resolver<'_> {
    /// A value that a flag or a variable may give.
    pub(super) fn keyed<T: Setting>(
        &mut self,
        key: &Key,
        default: T,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> (T, Source) {
        let flag = self.flags.value(key).map(|text| (text.trim().to_owned(), Source::Flag(key.flag)));
        let given =
            flag.or_else(|| Some((non_empty(self.env, key.variable)?, Source::Variable(key.variable))));
        let filed = self.node(key.path).map(|node| (T::read(Raw::Node(&node.value)), self.at(node.line)));
        let Some((text, source)) = given else { return self.settle(key.path, filed, default, check) };
        // What is beaten is still judged: a file is right or wrong, whatever else is said today.
        if let Some((read, place)) = filed
            && let Err(message) = read.and_then(|value| check(&value))
        {
            self.problem(place, key.path, message);
        }
        let read = Some((T::read(Raw::Text(&text)), source));
        self.settle(key.path, read, default, check)
    }

    /// A value that only the file may give.
    pub(super) fn filed<T: Setting>(
        &mut self,
        path: &str,
        default: T,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> T {
        let read = self.node(path).map(|node| (T::read(Raw::Node(&node.value)), self.at(node.line)));
        self.settle(path, read, default, check).0
    }

    fn settle<T: Setting>(
        &mut self,
        path: &str,
        read: Option<(Result<T, String>, Source)>,
        default: T,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> (T, Source) {
        let (value, source) = match read {
            None => (default, Source::Default),
            Some((read, source)) => match read.and_then(|value| check(&value).map(|()| value)) {
                Ok(value) => (value, source),
                Err(message) => {
                    self.problem(source.clone(), path, message);
                    return (default, source);
                }
            },
        };
        self.record(path, value.show(), source.clone());
        (value, source)
    }

    /// The values of a table, in the order of the file, each with its key.
    pub(super) fn table<T: Setting>(
        &mut self,
        path: &str,
        check: impl Fn(&str, &T) -> Result<(), String>,
    ) -> Vec<(String, T)> {
        let mut values = Vec::new();
        for (key, node) in self.entries(path) {
            let source = self.at(node.line);
            let full = format!("{path}.{}", key.escape_debug());
            match T::read(Raw::Node(&node.value)).and_then(|value| check(&key, &value).map(|()| value)) {
                Ok(value) => {
                    self.record(&full, value.show(), source);
                    values.push((key, value));
                }
                Err(message) => self.problem(source, &full, message),
            }
        }
        if values.is_empty() {
            self.record(path, serde_json::json!({}), Source::Default);
        }
        values
    }

    /// A field of an item of a list; `None` where it is absent or wrong.
    pub(super) fn field<T: Setting>(
        &mut self,
        item: &Node,
        path: &str,
        name: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        let node = member(item, name)?.clone();
        match T::read(Raw::Node(&node.value)).and_then(|value| check(&value).map(|()| value)) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(self.at(node.line), &format!("{path}.{name}"), message);
                None
            }
        }
    }

    /// The items of a list of mappings, each with its path. What is no mapping has been reported already.
    pub(super) fn items(&self, path: &str) -> Vec<(String, Node)> {
        let Some(Node { value: Value::List(items), .. }) = self.node(path) else { return Vec::new() };
        items.iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item.clone())).collect()
    }

    fn entries(&self, path: &str) -> Vec<(String, Node)> {
        let Some(Node { value: Value::Map(entries), .. }) = self.node(path) else { return Vec::new() };
        entries.iter().map(|(key, node)| (key.name.clone(), node.clone())).collect()
    }

    /// What stands in the file at a dotted path; nothing and `null` alike are `None`.
    pub(super) fn node(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(&self.root, |node, name| member(node, name))
    }

    /// A line of the file.
    pub(super) fn at(&self, line: u64) -> Source {
        Source::File { path: Arc::clone(&self.path), line }
    }

    pub(super) fn problem(&mut self, source: Source, key: &str, message: String) {
        let key = (!key.is_empty()).then(|| key.to_owned());
        self.problems.push(Problem { source, key, message });
    }

    pub(super) fn record(&mut self, key: &str, value: serde_json::Value, source: Source) {
        self.effective.push(Effective { key: key.to_owned(), value, source });
    }
}

fn member<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    let (_, found) = entries.iter().find(|(key, _)| key.name == name)?;
    (found.value != Value::Null).then_some(found)
}
