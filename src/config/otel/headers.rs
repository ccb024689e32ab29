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
    for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        match parse_header(element) {
            Ok((name, value)) => headers.insert(name, value),
            Err(problem) => problems.push(problem),
        }
    }
    (headers, problems)
}

fn parse_header(element: &str) -> Result<(HeaderName, HeaderValue), String> {
    // An element without `=` may be a secret that lost its name, so it is not repeated.
    let (name, value) = element.split_once('=').ok_or("an element is not name=value")?;
    let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
    header(name.trim(), &value)
}

/// A header that the exporter does not say itself.
///
/// # Errors
/// If it is none.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
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
    let header =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?;
    if RESERVED.contains(&header.as_str()) || header.as_str().starts_with("grpc-") {
        return Err(format!("{header} is the exporter's own"));
    }
    let value = HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| format!("the value of {header} holds characters that no header may"))?;
    Ok((header, value))
}
