//! What may be done about a trial that went wrong: the usual mistakes, by what they look like.

use http::Uri;

use super::{Answer, Speech, Step, Trial};
use crate::exporter::settings::{OtlpSettings, Protocol};

/// How an endpoint's origin begins where nobody chose it.
const IS_DEFAULT: &str = "the default";

/// In the order of the steps.
pub(super) fn hints(trial: &Trial, settings: &OtlpSettings) -> Vec<String> {
    if trial.is_well() {
        return Vec::new();
    }
    let mut hints = Vec::new();
    if let Some(trouble) = &trial.trouble {
        match trouble.step {
            Step::Settings => {}
            Step::Dns => hints.push("no address was found for the name; is it spelt right?".to_owned()),
            Step::Tcp if trouble.is_refusal && settings.endpoint_origin.starts_with(IS_DEFAULT) => hints.push(
                "nobody listens there; is a Collector running? OTEL_EXPORTER_OTLP_ENDPOINT names another place"
                    .to_owned(),
            ),
            Step::Tcp if trouble.is_refusal => hints.push(
                "nobody listens there; OTLP's usual ports are 4317 for gRPC and 4318 for HTTP".to_owned(),
            ),
            Step::Tcp => hints.push("a firewall between may drop what is sent".to_owned()),
            Step::Tls => hints.extend(tls_hint(&trouble.error)),
        }
    }
    let answer = match &trial.answer {
        Some((Answer::Failed(error), _)) => error.as_str(),
        Some((Answer::Taken(_), _)) | None => "",
    };
    hints.extend(speech_hint(trial, settings, answer));
    hints.extend(answer_hint(settings, answer));
    if trial.trouble.is_none() {
        hints.extend(tls_hint(answer));
    }
    hints
}

fn tls_hint(error: &str) -> Option<String> {
    let hint = if error.contains("does not speak TLS") {
        "the endpoint says https, the peer speaks plaintext: http?"
    } else if error.contains("not trusted here") {
        "OTEL_EXPORTER_OTLP_CERTIFICATE names a file with the certificate of the authority to trust"
    } else if error.contains("certificate is not for") {
        "the endpoint's host must be a name that the certificate has"
    } else if error.contains("wants a client certificate") {
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY name the files of one"
    } else if error.contains("does not speak HTTP/2") {
        "that is not gRPC's port: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf?"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

/// Whoever answers in the wrong protocol is at the wrong port.
fn speech_hint(trial: &Trial, settings: &OtlpSettings, answer: &str) -> Option<String> {
    // An HTTP status is an answer in the right protocol.
    let has_status = answer.get(..3).is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
    let is_grpc_unknown = trial.speaks == Some(Speech::Http1) || answer.contains("missing grpc-status");
    if settings.protocol == Protocol::Grpc && is_grpc_unknown {
        let hint = "the peer speaks HTTP there, not gRPC: gRPC's port is usually 4317; or \
                    OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf";
        return Some(hint.to_owned());
    }
    match (trial.speaks?, settings.protocol) {
        (Speech::Http2, Protocol::HttpProtobuf | Protocol::HttpJson) if !has_status => Some(
            "the peer speaks HTTP/2 only, as gRPC's ports do: HTTP's port is usually 4318; or \
             OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
                .to_owned(),
        ),
        (Speech::Tls, _) => Some("the peer speaks TLS there: https instead of http?".to_owned()),
        (Speech::Nothing | Speech::Other, _) if !has_status && trial.trouble.is_none() => {
            Some("whoever listens there does not seem to speak OTLP".to_owned())
        }
        (Speech::Http1 | Speech::Http2 | Speech::Nothing | Speech::Other, _) => None,
    }
}

fn answer_hint(settings: &OtlpSettings, answer: &str) -> Option<String> {
    let begins = |start: &str| answer.starts_with(start);
    if begins("404") {
        let path = settings.endpoint.parse::<Uri>().map(|uri| uri.path().to_owned()).unwrap_or_default();
        let usual = settings.signal.http_path();
        if path.ends_with(&format!("/{usual}")) {
            let hint = settings.signal.without_pipeline();
            return Some(format!("the peer does not know the path {path}: {hint}"));
        }
        return Some(format!(
            "the peer does not know the path {path}; the usual one is /{usual}. A signal's own variable is used as it \
             is, OTEL_EXPORTER_OTLP_ENDPOINT gets it appended"
        ));
    }
    if begins("401") || begins("403") || begins("Unauthenticated") || begins("PermissionDenied") {
        return Some("OTEL_EXPORTER_OTLP_HEADERS carries credentials".to_owned());
    }
    if begins("Unimplemented") {
        return Some(format!(
            "the peer takes no {} by gRPC: {}; or it does not take this compression",
            settings.signal,
            settings.signal.without_pipeline()
        ));
    }
    if begins("415") {
        return Some(format!("the peer does not take {}, or not this compression", settings.protocol));
    }
    None
}
