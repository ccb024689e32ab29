//! Reads environment variables by the OpenTelemetry specification's rules.
//!
//! | | |
//! |---|---|
//! | empty, or blanks only | as if unset |
//! | boolean | `true` in any case is true, everything else false; warned of unless it is `false` |
//! | number, duration | a plain decimal within its range; else warned of and as if unset |
//! | choice | in any case; unknown: warned of and as if unset |
//! | not UTF-8 | warned of and as if unset |
//!
//! Nothing is logged here: warnings are values, for `check` to print and for the start to log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

/// Where variables come from: the process, or a map in tests.
pub trait EnvSource {
    /// The variable's value, if it is set.
    fn value(&self, name: &str) -> Option<OsString>;

    /// The names of all variables that are set, in order.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnv;

/// Who decided a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// This variable.
    Variable(&'static str),
    /// This line of the file that `OTEL_CONFIG_FILE` names.
    File(u64),
}

/// A value, and who decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who decided it.
    pub origin: Origin,
}

/// Something about a variable that its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The variable.
    pub variable: Cow<'static, str>,
    /// Its value as given, or stars if it may be a secret; nothing where the name is what is wrong.
    pub value: Option<String>,
    /// What is wrong with it, and what happens instead.
    pub problem: String,
}

/// What stands for a secret.
pub const MASKED: &str = "***";

/// Reads variables and collects what is wrong with them.
#[derive(Debug)]
pub struct Variables<'a, E: ?Sized> {
    env: &'a E,
    /// What is wrong, in the order in which it was found.
    pub warnings: Vec<Warning>,
}

impl EnvSource for ProcessEnv {
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
    fn value(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        names.sort_unstable();
        names
    }
}

/// The names that begin with `prefix`, in order.
#[must_use]
pub fn names_from(env: &impl EnvSource, prefix: &str) -> Vec<String> {
    env.names().into_iter().filter(|name| name.starts_with(prefix)).collect()
}

/// The value of `name` without blanks around it, where an empty one is as good as none: the rule of the `OTEL_*`
/// variables, kept for our own. What is not UTF-8 gets replacement characters, so that it is refused by name and not
/// overlooked.
#[must_use]
pub fn non_empty(env: &(impl EnvSource + ?Sized), name: &str) -> Option<String> {
    let value = env.value(name)?;
    Some(value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
}

impl EnvSource for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Variable(name) => f.write_str(name),
            Self::File(line) => write!(f, "line {line}"),
        }
    }
}

impl<T> Setting<T> {
    /// A value that nobody decided.
    pub const fn default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: {}", self.variable, self.problem),
            None => write!(f, "{}: {}", self.variable, self.problem),
        }
    }
}

impl<'a, E: EnvSource + ?Sized> Variables<'a, E> {
    /// Nothing is read yet.
    pub const fn new(env: &'a E) -> Self {
        Self { env, warnings: Vec::new() }
    }

    /// The variable's value without blanks around it, unless it is unset, empty or not UTF-8.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        match self.env.value(name)?.into_string() {
            Ok(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            // Any variable may hold a secret, and this one is not understood.
            Err(_) => {
                self.warn(name, MASKED, "not UTF-8; ignored");
                None
            }
        }
    }

    /// The first of `names` that is set and makes sense: the signal's variable before the generic one.
    pub fn first<T>(
        &mut self,
        names: &[&'static str],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        names.iter().find_map(|name| {
            let text = self.text(name)?;
            match parse(&text) {
                Ok(value) => Some(Setting { value, origin: Origin::Variable(name) }),
                Err(problem) => {
                    self.warn(name, &text, &format!("{problem}; ignored"));
                    None
                }
            }
        })
    }

    /// The first of `names` that makes sense, or the default.
    pub fn first_or<T>(
        &mut self,
        names: &[&'static str],
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<T> {
        self.first(names, parse).unwrap_or(Setting::default(default))
    }

    /// The first of `names` that is set, or false.
    pub fn boolean(&mut self, names: &[&'static str]) -> Setting<bool> {
        let Some((name, text)) = names.iter().find_map(|name| Some((*name, self.text(name)?))) else {
            return Setting::default(false);
        };
        let value = text.eq_ignore_ascii_case("true");
        if !value && !text.eq_ignore_ascii_case("false") {
            self.warn(name, &text, "neither true nor false; taken as false");
        }
        Setting { value, origin: Origin::Variable(name) }
    }

    /// Notes something about a variable.
    pub fn warn(&mut self, variable: &'static str, value: &str, problem: &str) {
        self.push(Warning {
            variable: variable.into(),
            value: Some(value.to_owned()),
            problem: problem.to_owned(),
        });
    }

    /// Notes something about a variable's name.
    pub fn warn_of_name(&mut self, name: String, problem: &str) {
        self.push(Warning { variable: name.into(), value: None, problem: problem.to_owned() });
    }

    /// A generic variable is read once for each signal, and what is wrong with it is said once.
    fn push(&mut self, warning: Warning) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// A plain decimal number from `min` to 2^31 - 1.
///
/// # Errors
/// If it is none.
pub fn parse_number(text: &str, min: u32) -> Result<u32, String> {
    const MAX: u32 = i32::MAX.unsigned_abs();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_plain && (min..=MAX).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("not a number from {min} to {MAX}")),
    }
}

/// Whole milliseconds, without a unit.
///
/// # Errors
/// If it is something else.
pub fn parse_millis(text: &str) -> Result<Duration, String> {
    let millis =
        parse_number(text, 0).map_err(|problem| format!("{problem} (milliseconds, without a unit)"))?;
    Ok(Duration::from_millis(u64::from(millis)))
}

/// One of `choices`, in any case.
///
/// # Errors
/// If it is none of them; names them all.
pub fn parse_choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let choice = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    choice.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("not one of {}", names.join(", "))
    })
}

/// `k=v,k=v` as in `OTEL_RESOURCE_ATTRIBUTES`: percent-encoded, and any mistake spoils the whole. A key that is repeated
/// has its last value.
///
/// # Errors
/// If a part is not `key=value`, or an escape is broken.
pub fn parse_attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut attributes = BTreeMap::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not key=value"))?;
        if value.contains('=') {
            return Err(format!("{part:?} has a second `=`, which must be written %3D"));
        }
        let (key, value) = (percent_decoded(key.trim())?, percent_decoded(value.trim())?);
        if key.is_empty() {
            return Err(format!("{part:?} has no key"));
        }
        attributes.insert(key, value);
    }
    Ok(attributes.into_iter().collect())
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let is_broken = text.split('%').skip(1).any(|escape| {
        let digits = escape.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if is_broken {
        return Err(format!("{text:?} has a `%` without two hex digits"));
    }
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| format!("{text:?} does not decode to UTF-8"))?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn empty_is_unset_and_falls_through() {
        let env = env(&[("SIGNAL", "  "), ("GENERIC", " 5 ")]);
        let mut variables = Variables::new(&env);
        let number = variables.first(&["SIGNAL", "GENERIC"], |text| parse_number(text, 0));
        assert_eq!(number, Some(Setting { value: 5, origin: Origin::Variable("GENERIC") }));
        assert!(variables.warnings.is_empty());
    }

    #[test]
    fn junk_is_warned_of_and_falls_through() {
        let env = env(&[("SIGNAL", "10s"), ("GENERIC", "5")]);
        let mut variables = Variables::new(&env);
        let wait = variables.first_or(&["SIGNAL", "GENERIC"], Duration::ZERO, parse_millis);
        assert_eq!(wait.value, Duration::from_millis(5));
        assert_eq!(
            variables.warnings[0].to_string(),
            r#"SIGNAL="10s": not a number from 0 to 2147483647 (milliseconds, without a unit); ignored"#
        );
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_utf_8_is_warned_of_and_unset() {
        struct Latin1;
        impl EnvSource for Latin1 {
            fn value(&self, _: &str) -> Option<OsString> {
                Some(std::os::unix::ffi::OsStringExt::from_vec(vec![b'a', 0xe9]))
            }

            fn names(&self) -> Vec<String> {
                vec!["NAME".to_owned()]
            }
        }
        let mut variables = Variables::new(&Latin1);
        assert_eq!(variables.text("NAME"), None);
        assert_eq!(variables.warnings[0].to_string(), r#"NAME="***": not UTF-8; ignored"#);
        assert_eq!(variables.warnings.len(), 1);
    }

    #[test]
    fn only_true_is_true() {
        for (text, value, warnings) in [
            ("true", true, 0),
            ("TRUE", true, 0),
            ("False", false, 0),
            ("", false, 0),
            ("1", false, 1),
            ("yes", false, 1),
        ] {
            let env = env(&[("NAME", text)]);
            let mut variables = Variables::new(&env);
            assert_eq!(variables.boolean(&["NAME"]).value, value, "{text}");
            assert_eq!(variables.warnings.len(), warnings, "{text}");
        }
    }

    #[test]
    fn numbers_are_plain_and_within_their_range() {
        assert_eq!(parse_number("0", 0), Ok(0));
        assert_eq!(parse_number("2147483647", 1), Ok(2_147_483_647));
        for junk in ["-1", "+1", "1.5", "0x1", "1e3", "2147483648", "99999999999999999999"] {
            assert!(parse_number(junk, 0).is_err(), "{junk}");
        }
        assert!(parse_number("0", 1).is_err());
    }

    #[test]
    fn choices_ignore_case() {
        let choices = [("grpc", 1), ("http/protobuf", 2)];
        assert_eq!(parse_choice("GRPC", &choices), Ok(1));
        assert_eq!(parse_choice("thrift", &choices), Err("not one of grpc, http/protobuf".to_owned()));
    }

    #[test]
    fn attributes_are_decoded_and_any_mistake_spoils_the_whole() {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(
            parse_attributes(" b = x%2Cy%3Dz , a=%C3%A9+,b=last,empty="),
            Ok(owned(&[("a", "é+"), ("b", "last"), ("empty", "")]))
        );
        for junk in ["a", "a=1,b", "=1", "a=1,", "a=b=c", "a=%", "a=%4", "a=%zz", "a=%ff", "a=1,,b=2"] {
            assert!(parse_attributes(junk).is_err(), "{junk}");
        }
    }
}
