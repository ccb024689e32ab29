//! `OTEL_EXPORTER_OTLP_*HEADERS`.

use http::{HeaderName, HeaderValue};

use crate::config::env::{EnvSource, MASKED, Origin, Setting, Variables};
use crate::exporter::settings::SecretHeaders;

/// A comma separated list of `name=value`. Only values are percent-decoded; a value may hold `=` and blanks. What is no
/// header, or would replace what the exporter itself must say, is left out.
pub(super) fn read_headers<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
    names: &[&'static str; 2],
) -> Setting<SecretHeaders> {
    let set = names.iter().find_map(|name| Some((*name, variables.text(name)?)));
    let Some((variable, text)) = set else { return Setting::default(SecretHeaders::default()) };
    let (headers, problems) = parse_headers(&text);
    for problem in problems {
        variables.warn(variable, MASKED, &format!("{problem}; left out"));
    }
    Setting { value: headers, origin: Origin::Variable(variable) }
}

/// What a list says, and what in it is no header.
pub(super) fn parse_headers(text: &str) -> (SecretHeaders, Vec<String>) {
    let mut headers = SecretHeaders::default();
    let mut problems = Vec::new();
    let elements = text.split(',').map(str::trim).enumerate();
    for (index, element) in elements.filter(|(_, element)| !element.is_empty()) {
        match parse_header(element) {
            Ok((name, value)) => headers.insert(name, value),
            Err(problem) => problems.push(format!("element {} {problem}", index + 1)),
        }
    }
    (headers, problems)
}

/// An element may be a secret that lost its name, so nothing of one that is wrong is repeated.
fn parse_header(element: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = element.split_once('=').ok_or("is not name=value")?;
    // Base64 without a name ends so.
    if value.trim().bytes().all(|byte| byte == b'=') {
        return Err("is not name=value: it has no name, or no value");
    }
    let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
    header(name.trim(), &value)
}

/// A header that the exporter does not say itself.
///
/// # Errors
/// If it is none: what is to be said of it, without its name or its value.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    const RESERVED: [&str; 11] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    ];
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "has no valid header name")?;
    if RESERVED.contains(&header.as_str()) || header.as_str().starts_with("grpc-") {
        return Err("has a name that only the exporter itself may use");
    }
    let value = HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| "has a value with characters that no header may hold")?;
    Ok((header, value))
}
