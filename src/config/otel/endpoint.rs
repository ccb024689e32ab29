//! Where spans are sent: the rules of the endpoint variables.

use reqwest::Url;

use crate::config::env::{EnvSource, MASKED, Origin, Setting, Variables};
use crate::config::otel::{ENDPOINT, HEADERS, INSECURE, OtelError, TRACES_ENDPOINT};
use crate::exporter::settings::Protocol;

/// By the specification.
pub(super) const fn default_endpoint(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Grpc => "http://localhost:4317",
        Protocol::HttpProtobuf | Protocol::HttpJson => "http://localhost:4318/v1/traces",
    }
}

/// The endpoint that counts, with what the specification appends.
pub(super) fn read_endpoint<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
    protocol: Protocol,
) -> Result<Setting<String>, OtelError> {
    let insecure = variables.boolean(&INSECURE).value;
    let set = [TRACES_ENDPOINT, ENDPOINT].iter().find_map(|name| Some((*name, variables.text(name)?)));
    let Some((variable, text)) = set else {
        return Ok(Setting::default(default_endpoint(protocol).to_owned()));
    };
    let endpoint = match protocol {
        Protocol::Grpc => grpc_endpoint(&text, insecure),
        Protocol::HttpProtobuf | Protocol::HttpJson => http_endpoint(&text, variable == ENDPOINT),
    };
    let shown = without_password(&text);
    match endpoint {
        Ok((value, hints)) => {
            hints.into_iter().for_each(|hint| variables.warn(variable, &shown, hint));
            Ok(Setting { value, origin: Origin::Variable(variable) })
        }
        Err(reason) => Err(OtelError { variable, value: shown, reason }),
    }
}

type Endpoint = Result<(String, Vec<&'static str>), String>;

/// The generic variable is a base, to which the path of traces is added; the signal's variable is used as it is.
fn http_endpoint(text: &str, is_generic: bool) -> Endpoint {
    let mut url = parse_url(text)?;
    let mut hints = Vec::new();
    if url.port() == Some(4317) {
        hints.push(
            "4317 is the usual port of gRPC, and the protocol is http/protobuf, which usually has 4318",
        );
    }
    if is_generic {
        if url.path().trim_end_matches('/').ends_with("/v1/traces") {
            hints.push("v1/traces is added to this variable, though it is there already");
        }
        let base = url.path().strip_suffix('/').unwrap_or(url.path());
        let path = format!("{base}/v1/traces");
        url.set_path(&path);
    } else if url.path() == "/" {
        hints.push("this variable is used as it is; a Collector expects the path /v1/traces");
    }
    Ok((url.into(), hints))
}

/// A scheme decides about TLS; without one, `OTEL_EXPORTER_OTLP_INSECURE` does.
fn grpc_endpoint(text: &str, insecure: bool) -> Endpoint {
    let url = if text.contains("://") {
        parse_url(text)?
    } else if text.starts_with("unix:") {
        return Err(
            "sockets of the file system are not supported; use host:port or an http(s) URL".to_owned()
        );
    } else {
        parse_url(&format!("{}://{text}", if insecure { "http" } else { "https" }))?
    };
    let mut hints = Vec::new();
    if url.port() == Some(4318) {
        hints.push("4318 is the usual port of HTTP, and the protocol is grpc, which usually has 4317");
    }
    if url.path() != "/" {
        hints.push("a path means nothing to gRPC; left out");
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
        return Err(format!("a user in the URL is not supported; use {}", HEADERS[1]));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a query or a fragment in the URL is not supported".to_owned());
    }
    Ok(url)
}

fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://{MASKED}{}", &text[..scheme], &text[at..]),
        (None, Some(at)) => format!("{MASKED}{}", &text[at..]),
        (_, None) | (Some(_), Some(_)) => text.to_owned(),
    }
}
