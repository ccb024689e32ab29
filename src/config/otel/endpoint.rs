//! Where a signal is sent: the rules of the endpoint variables.

use reqwest::Url;

use crate::config::env::{EnvSource, MASKED, Origin, Setting, Variables};
use crate::config::otel::OtelError;
use crate::config::otel::names::Names;
use crate::exporter::settings::Protocol;
use crate::exporter::signal::Signal;

/// By the specification.
pub(super) fn default_endpoint(protocol: Protocol, signal: Signal) -> String {
    match protocol {
        Protocol::Grpc => "http://localhost:4317".to_owned(),
        Protocol::HttpProtobuf | Protocol::HttpJson => {
            format!("http://localhost:4318/{}", signal.http_path())
        }
    }
}

/// The endpoint that counts, with what the specification appends.
pub(super) fn read<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
    signal: Signal,
    names: &Names,
    protocol: Protocol,
    insecure: bool,
) -> Result<Setting<String>, OtelError> {
    let set = names.endpoint.iter().find_map(|name| Some((*name, variables.text(name)?)));
    let Some((variable, text)) = set else {
        return Ok(Setting::default(default_endpoint(protocol, signal)));
    };
    let endpoint = match protocol {
        Protocol::Grpc => grpc_endpoint(&text, insecure),
        Protocol::HttpProtobuf | Protocol::HttpJson if variable == names.endpoint[1] => {
            http_base(&text, signal)
        }
        Protocol::HttpProtobuf | Protocol::HttpJson => http_endpoint(&text, signal),
    };
    let shown = without_secrets(&text);
    match endpoint {
        Ok((value, hints)) => {
            hints.into_iter().for_each(|hint| variables.warn(variable, &shown, &hint));
            Ok(Setting { value, origin: Origin::Variable(variable) })
        }
        Err(reason) => Err(OtelError { variable, value: shown, reason }),
    }
}

/// An endpoint as it may be used, and what seems odd about it.
pub(super) type Endpoint = Result<(String, Vec<String>), String>;

/// The generic variable is a base, to which the signal's path is added, even if it is there already.
fn http_base(text: &str, signal: Signal) -> Endpoint {
    let (mut url, mut hints) = http_url(text)?;
    let path = signal.http_path();
    if url.path().trim_end_matches('/').ends_with(&format!("/{path}")) {
        hints.push(format!("{path} is added to this variable, though it is there already"));
    }
    let base = url.path().strip_suffix('/').unwrap_or(url.path()).to_owned();
    url.set_path(&format!("{base}/{path}"));
    Ok((url.into(), hints))
}

/// The signal's variable is used as it is.
pub(super) fn http_endpoint(text: &str, signal: Signal) -> Endpoint {
    let (url, mut hints) = http_url(text)?;
    if url.path() == "/" {
        let path = signal.http_path();
        hints.push(format!("this is used as it is; a Collector expects the path /{path}"));
    }
    Ok((url.into(), hints))
}

fn http_url(text: &str) -> Result<(Url, Vec<String>), String> {
    let url = parse_url(text)?;
    let mut hints = Vec::new();
    if url.port() == Some(4317) {
        hints.push(
            "4317 is the usual port of gRPC, and the protocol is HTTP, which usually has 4318".to_owned(),
        );
    }
    Ok((url, hints))
}

/// A scheme decides about TLS; without one, `insecure` does. A socket of the file system needs none.
pub(super) fn grpc_endpoint(text: &str, insecure: bool) -> Endpoint {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.trim_end_matches('/').is_empty() {
            return Err("a socket's path is missing".to_owned());
        }
        return Ok((format!("unix:{path}"), Vec::new()));
    }
    let url = if text.contains("://") {
        parse_url(text)?
    } else {
        parse_url(&format!("{}://{text}", if insecure { "http" } else { "https" }))?
    };
    let mut hints = Vec::new();
    if url.port() == Some(4318) {
        hints.push(
            "4318 is the usual port of HTTP, and the protocol is grpc, which usually has 4317".to_owned(),
        );
    }
    if url.path() != "/" {
        hints.push("a path means nothing to gRPC; left out".to_owned());
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok((format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default()), hints))
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("not an http or https URL".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user in the URL is not supported; use OTEL_EXPORTER_OTLP_HEADERS".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a query or a fragment in the URL is not supported".to_owned());
    }
    Ok(url)
}

/// A URL as it may be shown: without its user, and without what follows a `?` or a `#`.
pub(super) fn without_secrets(text: &str) -> String {
    let (address, rest) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let scheme = address.find("://").map_or("", |at| &address[..at + "://".len()]);
    let (address, tail) = match rest.chars().next() {
        None => (address, String::new()),
        // A password may hold a `?`, and a query an `@`: no more is certain than the scheme.
        Some(_) if rest.contains('@') => (scheme, MASKED.to_owned()),
        Some(mark) => (address, format!("{mark}{MASKED}")),
    };
    let shown = match address.rfind('@') {
        Some(at) => format!("{scheme}{MASKED}{}", &address[at..]),
        None => address.to_owned(),
    };
    shown + &tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_an_endpoint_are_not_shown() {
        for (text, shown) in [
            ("https://c:4318/v1/traces", "https://c:4318/v1/traces"),
            ("https://user:hidden@c:4318/x", "https://***@c:4318/x"),
            ("user:hidden@c:4317", "***@c:4317"),
            ("https://c/x?key=hidden", "https://c/x?***"),
            ("https://c/x#hidden?hidden", "https://c/x#***"),
            ("https://hidden@c?hidden", "https://***@c?***"),
            ("https://user:hid?den@c/x", "https://***"),
            ("https://c/x?key=hidden@hidden", "https://***"),
            ("c?hidden", "c?***"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}
