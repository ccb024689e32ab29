//! What the routes of the API have in common: which parameters a request has, and how many items an answer has.
//!
//! A parameter that a route does not have, or that comes twice, is refused: whoever sent it would take the answer for that to
//! another question.

use std::collections::BTreeMap;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;

use super::problem::Problem;

/// Items in an answer that does not ask for another number: a screenful or four.
pub(super) const DEFAULT_LIMIT: usize = 100;
/// Most items in an answer: an open span with 128 attributes makes some megabytes of it, an event with 256 measurements some
/// tens.
pub(super) const MAX_LIMIT: usize = 1000;

/// The query of a request, as it is extracted.
pub(super) type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Parameters that a route has, each once.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Of a route that has these.
    ///
    /// # Errors
    /// When the query cannot be read, or has another one, or one of them twice.
    pub(super) fn read(asked: Asked, known: &[&'static str]) -> Result<Self, Problem> {
        let Query(pairs) = asked.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
        let mut given = BTreeMap::new();
        for (name, value) in pairs {
            let Some(known) = known.iter().find(|known| **known == name) else {
                return Err(unknown(&name, known));
            };
            if given.insert(*known, value).is_some() {
                return Err(Problem::parameter(known, format!("`{known}` is given more than once")));
            }
        }
        Ok(Self(given))
    }

    /// What one says. An empty one is as good as none, so that a form may send all of its fields.
    pub(super) fn value(&self, name: &'static str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value of `limit`, or the default.
    ///
    /// # Errors
    /// When it is not a number from 1 to [`MAX_LIMIT`].
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        let Some(value) = self.value("limit") else { return Ok(DEFAULT_LIMIT) };
        value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
            let detail = format!("`limit` is `{}`, not a number from 1 to {MAX_LIMIT}", value.escape_debug());
            Problem::parameter("limit", detail)
        })
    }
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let known = if known.is_empty() {
        "there are none".to_owned()
    } else {
        format!("known are {}", known.join(", "))
    };
    Problem::new(StatusCode::BAD_REQUEST, format!("unknown parameter `{}`; {known}", name.escape_debug()))
}
