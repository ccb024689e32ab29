//! From what was written to what is meant: one reader a type, used for flags, variables and the file alike.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::file::Value;
use crate::control::policy::Rate;
use crate::diagnostics::LogFormat;
use crate::exporter::signal::Signal;
use crate::receiver::tls::ClientId;

/// A value before it is understood.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    /// Of a flag or a variable.
    Text(&'a str),
    /// Of the file.
    Node(&'a Value),
}

/// A type of value that the configuration knows.
pub(super) trait Setting: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// A fragment that names the value and says what is expected.
    fn read(raw: Raw<'_>) -> Result<Self, String>;

    /// As `check` prints it; reading that again gives the same value.
    fn show(&self) -> Json;
}

impl<'a> Raw<'a> {
    fn text(self, expected: &str) -> Result<&'a str, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Node(Value::Text(text)) => Ok(text),
            Self::Node(value) => Err(wrong(value, expected)),
        }
    }
}

fn wrong(value: &impl std::fmt::Display, expected: &str) -> String {
    format!("{value} is not {expected}")
}

fn quoted(text: &str) -> String {
    format!("`{}`", text.escape_debug())
}

impl Setting for bool {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        match raw {
            Raw::Text("true") | Raw::Node(Value::Bool(true)) => Ok(true),
            Raw::Text("false") | Raw::Node(Value::Bool(false)) => Ok(false),
            Raw::Text(text) => Err(wrong(&quoted(text), "a boolean (`true` or `false`)")),
            Raw::Node(value) => Err(wrong(value, "a boolean (`true` or `false`)")),
        }
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

impl Setting for usize {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a whole number from 0 up";
        match raw {
            Raw::Text(text) => text.parse().map_err(|_| wrong(&quoted(text), EXPECTED)),
            Raw::Node(value @ Value::Int(int)) => Self::try_from(*int).map_err(|_| wrong(value, EXPECTED)),
            Raw::Node(value) => Err(wrong(value, EXPECTED)),
        }
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

impl Setting for Rate {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a sampling rate (a number from 0 to 1)";
        #[expect(clippy::cast_precision_loss, reason = "whatever is lost is far outside 0..1")]
        let number = match raw {
            Raw::Node(Value::Float(float)) => *float,
            Raw::Node(Value::Int(int)) => *int as f64,
            Raw::Text(text) => text.parse().map_err(|_| wrong(&quoted(text), EXPECTED))?,
            Raw::Node(value) => return Err(wrong(value, EXPECTED)),
        };
        Self::new(number).map_err(|_| wrong(&format!("`{number}`"), EXPECTED))
    }

    fn show(&self) -> Json {
        json!(self.value())
    }
}

impl Setting for Duration {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a duration with its unit (for example `500ms`, `5s`, `10m`, `1h 30m`)";
        let text = raw.text(EXPECTED)?;
        humantime::parse_duration(text).map_err(|_| wrong(&quoted(text), EXPECTED))
    }

    fn show(&self) -> Json {
        json!(humantime::format_duration(*self).to_string())
    }
}

impl Setting for SocketAddr {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str =
            "an address with a port (for example `127.0.0.1:50061`, `0.0.0.0:50061`, `[::1]:50061`)";
        let text = raw.text(EXPECTED)?;
        // The one name that means the same everywhere; others would be looked up at a moment nobody chose.
        if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            return Ok(Self::from((Ipv4Addr::LOCALHOST, port)));
        }
        text.parse().map_err(|_| wrong(&quoted(text), EXPECTED))
    }

    fn show(&self) -> Json {
        json!(self.to_string())
    }
}

impl Setting for LogFormat {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a log format (`text` or `json`)";
        match raw.text(EXPECTED)? {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(wrong(&quoted(other), EXPECTED)),
        }
    }

    fn show(&self) -> Json {
        json!(self.as_str())
    }
}

impl Setting for ClientId {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a field of a certificate (`none`, `cn`, `dns` or `uri`)";
        match raw.text(EXPECTED)? {
            "none" => Ok(Self::None),
            "cn" => Ok(Self::CommonName),
            "dns" => Ok(Self::Dns),
            "uri" => Ok(Self::Uri),
            other => Err(wrong(&quoted(other), EXPECTED)),
        }
    }

    fn show(&self) -> Json {
        json!(self.as_str())
    }
}

impl Setting for String {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        match raw {
            Raw::Node(value @ (Value::Bool(_) | Value::Int(_) | Value::Float(_))) => {
                Err(format!("{value} is not text; put it in quotes if it is meant as text"))
            }
            Raw::Text(_) | Raw::Node(_) => raw.text("text").map(str::to_owned),
        }
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

impl Setting for PathBuf {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        raw.text("a path").map(Self::from)
    }

    fn show(&self) -> Json {
        json!(self.to_string_lossy())
    }
}

/// On the command line and in the environment: with commas between.
impl Setting for Vec<String> {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        match raw {
            Raw::Text(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()),
            Raw::Node(Value::List(list)) => {
                list.iter().map(|node| String::read(Raw::Node(&node.value))).collect()
            }
            Raw::Node(value) => Err(wrong(value, "a list of texts")),
        }
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

impl Setting for Vec<f64> {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a list of numbers";
        #[expect(clippy::cast_precision_loss, reason = "a double is what is asked for")]
        let number = |node: &super::file::Node| match &node.value {
            Value::Int(int) => Ok(*int as f64),
            Value::Float(float) => Ok(*float),
            other @ (Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_)) => {
                Err(wrong(other, "a number"))
            }
        };
        match raw {
            Raw::Node(Value::List(list)) => list.iter().map(number).collect(),
            Raw::Node(value) => Err(wrong(value, EXPECTED)),
            Raw::Text(text) => Err(wrong(&quoted(text), EXPECTED)),
        }
    }

    fn show(&self) -> Json {
        json!(self)
    }
}

/// Texts by key, in the order of the file.
impl Setting for Vec<(String, String)> {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a mapping of keys to texts";
        match raw {
            Raw::Node(Value::Map(entries)) => entries
                .iter()
                .map(|(key, node)| Ok((key.name.clone(), String::read(Raw::Node(&node.value))?)))
                .collect(),
            Raw::Node(value) => Err(wrong(value, EXPECTED)),
            Raw::Text(text) => Err(wrong(&quoted(text), EXPECTED)),
        }
    }

    fn show(&self) -> Json {
        self.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
    }
}

/// Each once, in their own order.
impl Setting for Vec<Signal> {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        let names = Vec::<String>::read(raw)?;
        let known = |name: &str| Signal::ALL.into_iter().any(|signal| signal.as_str() == name);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            return Err(wrong(&quoted(unknown), "a signal (`traces`, `metrics` or `logs`)"));
        }
        let asked = |signal: &Signal| names.iter().any(|name| name == signal.as_str());
        Ok(Signal::ALL.into_iter().filter(asked).collect())
    }

    fn show(&self) -> Json {
        json!(self.iter().map(|signal| signal.as_str()).collect::<Vec<_>>())
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(raw: Raw<'_>) -> Result<Self, String> {
        T::read(raw).map(Some)
    }

    fn show(&self) -> Json {
        self.as_ref().map_or(Json::Null, Setting::show)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_literal_or_localhost() {
        let read = |text| SocketAddr::read(Raw::Text(text)).map(|address| address.to_string());
        assert_eq!(read("localhost:0").unwrap(), "127.0.0.1:0");
        assert_eq!(read("[::1]:50061").unwrap(), "[::1]:50061");
        for bad in ["", "50061", ":50061", "127.0.0.1", "127.0.0.1:66000", "example.org:1"] {
            assert!(read(bad).unwrap_err().contains("is not an address with a port"), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(Duration::read(Raw::Text("1h 30m")).unwrap(), Duration::from_secs(5400));
        for bad in ["10", "-1s", "1.5.2s", "soon", "99999999999999999999s"] {
            assert!(
                Duration::read(Raw::Text(bad)).unwrap_err().starts_with(&format!("`{bad}` is not")),
                "{bad}"
            );
        }
        assert!(
            Duration::read(Raw::Node(&Value::Int(10))).unwrap_err().starts_with("`10` is not a duration")
        );
    }

    #[test]
    fn rates_are_numbers_from_0_to_1() {
        let read = |value| Rate::read(Raw::Node(&value)).map(Rate::value);
        assert_eq!(read(Value::Int(1)), Ok(1.0));
        assert_eq!(read(Value::Float(0.25)), Ok(0.25));
        for bad in [Value::Float(1.5), Value::Int(-1), Value::Float(f64::NAN), Value::Text("0.5".to_owned())]
        {
            assert!(read(bad.clone()).unwrap_err().contains("is not a sampling rate"), "{bad}");
        }
    }

    #[test]
    fn booleans_are_true_and_false_only() {
        assert_eq!(bool::read(Raw::Text("true")), Ok(true));
        for bad in ["yes", "1", "True", "on"] {
            assert!(bool::read(Raw::Text(bad)).is_err(), "{bad}");
            assert!(bool::read(Raw::Node(&Value::Text(bad.to_owned()))).is_err(), "{bad}");
        }
    }
}
