//! The specification's rules for endpoints, a test a row.

use super::*;

const GENERIC: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const INSECURE: &str = "OTEL_EXPORTER_OTLP_INSECURE";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

/// Where traces go, and how many warnings there are.
fn http(pairs: &[(&str, &str)]) -> (String, usize) {
    let settings = read(pairs);
    (settings.traces.otlp.endpoint.value, settings.warnings.len())
}

fn grpc(pairs: &[(&str, &str)]) -> (String, usize) {
    http(&[pairs, &[(PROTOCOL, "grpc")]].concat())
}

fn to(endpoint: &str, warnings: usize) -> (String, usize) {
    (endpoint.to_owned(), warnings)
}

#[test]
fn row_1_http_by_default_goes_to_localhost() {
    assert_eq!(http(&[]), to("http://localhost:4318/v1/traces", 0));
    let settings = read(&[]);
    assert_eq!(settings.metrics.otlp.endpoint.value, "http://localhost:4318/v1/metrics");
    assert_eq!(settings.logs.otlp.endpoint.value, "http://localhost:4318/v1/logs");
}

#[test]
fn row_2_a_base_with_or_without_its_slash_has_one_slash() {
    assert_eq!(http(&[(GENERIC, "http://c:4318")]), to("http://c:4318/v1/traces", 0));
    assert_eq!(http(&[(GENERIC, "http://c:4318/")]), to("http://c:4318/v1/traces", 0));
}

#[test]
fn row_3_a_base_keeps_its_path() {
    assert_eq!(http(&[(GENERIC, "http://c:4318/base")]), to("http://c:4318/base/v1/traces", 0));
    assert_eq!(http(&[(GENERIC, "http://c:4318/base/")]), to("http://c:4318/base/v1/traces", 0));
}

#[test]
fn row_4_the_path_is_added_to_the_generic_variable_even_if_it_is_there() {
    assert_eq!(http(&[(GENERIC, "http://c:4318/v1/traces")]), to("http://c:4318/v1/traces/v1/traces", 1));
}

#[test]
fn row_5_the_signals_variable_gets_nothing_added() {
    assert_eq!(http(&[(TRACES, "http://c:4318")]), to("http://c:4318/", 1));
}

#[test]
fn row_6_the_signals_variable_keeps_its_slash() {
    assert_eq!(http(&[(TRACES, "https://c/v1/traces/")]), to("https://c/v1/traces/", 0));
}

#[test]
fn row_7_no_port_is_that_of_the_scheme_and_ipv6_has_brackets() {
    assert_eq!(http(&[(GENERIC, "http://c")]), to("http://c/v1/traces", 0));
    assert_eq!(http(&[(GENERIC, "http://[::1]:4318")]), to("http://[::1]:4318/v1/traces", 0));
}

#[test]
fn row_8_insecure_means_nothing_for_http() {
    let pairs = [(GENERIC, "https://c:4318"), (INSECURE, "true")];
    assert_eq!(http(&pairs), to("https://c:4318/v1/traces", 1));
}

#[test]
fn row_9_what_is_no_http_url_stops_the_start() {
    for value in ["c:4318", "unix:///run/o.sock", "http://", "ftp://c", "//c"] {
        let error = error(&[(GENERIC, value)]);
        assert_eq!((error.variable, error.value.as_str()), (GENERIC, value));
    }
    let settings = read(&[
        (GENERIC, "c:4318"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
    ]);
    assert_eq!(settings.warnings.len(), 1, "nothing is sent there, so it is only warned of");
}

#[test]
fn row_10_user_query_and_fragment_stop_the_start() {
    for (value, shown) in [("http://c/?k=hidden", "http://c/?***"), ("http://c/#hidden", "http://c/#***")] {
        assert_eq!(error(&[(GENERIC, value)]).value, shown);
    }
    let error = error(&[(TRACES, "http://user:hidden@c:4318/v1/traces")]);
    assert_eq!(
        error.to_string(),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=\"http://***@c:4318/v1/traces\": a user in the URL is not supported; \
         use OTEL_EXPORTER_OTLP_HEADERS (for traces by http/protobuf)"
    );
}

#[test]
fn row_11_an_empty_signal_variable_falls_through() {
    assert_eq!(http(&[(GENERIC, "http://c:4318"), (TRACES, "")]), to("http://c:4318/v1/traces", 0));
}

#[test]
fn row_12_grpc_by_default_goes_to_localhost() {
    assert_eq!(grpc(&[]), to("http://localhost:4317", 0));
}

#[test]
fn row_13_http_is_plain_whatever_insecure_says() {
    assert_eq!(grpc(&[(GENERIC, "http://c:4317")]), to("http://c:4317", 0));
    assert_eq!(grpc(&[(GENERIC, "http://c:4317"), (INSECURE, "false")]), to("http://c:4317", 0));
    assert_eq!(grpc(&[(GENERIC, "http://c:4317/")]), to("http://c:4317", 0));
}

#[test]
fn row_14_https_is_tls_whatever_insecure_says() {
    assert_eq!(grpc(&[(GENERIC, "https://c:4317"), (INSECURE, "true")]), to("https://c:4317", 1));
    assert_eq!(grpc(&[(INSECURE, "true")]), to("http://localhost:4317", 1));
}

#[test]
fn row_15_without_a_scheme_insecure_decides() {
    assert_eq!(grpc(&[(GENERIC, "c:4317")]), to("https://c:4317", 0));
    assert_eq!(grpc(&[(GENERIC, "c:4317"), (INSECURE, "true")]), to("http://c:4317", 0));
    assert_eq!(grpc(&[(GENERIC, "[::1]:4317"), (INSECURE, "true")]), to("http://[::1]:4317", 0));
    let signal = [(GENERIC, "c:4317"), ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"), (INSECURE, "false")];
    assert_eq!(grpc(&signal), to("http://c:4317", 0), "the signal's variable counts");
}

#[test]
fn row_16_grpc_may_go_to_a_socket() {
    assert_eq!(grpc(&[(GENERIC, "unix:///run/o.sock")]), to("unix:/run/o.sock", 0));
    assert_eq!(grpc(&[(GENERIC, "unix:/run/o.sock")]), to("unix:/run/o.sock", 0));
    assert_eq!(
        error(&[(GENERIC, "unix://"), (PROTOCOL, "grpc")]).reason,
        "a socket's path is missing (for traces, metrics, logs by grpc)"
    );
}

#[test]
fn row_17_a_path_means_nothing_to_grpc() {
    assert_eq!(grpc(&[(GENERIC, "http://c:4317/base")]), to("http://c:4317", 1));
}

#[test]
fn row_18_the_signals_variable_beats_the_generic_one() {
    let settings = read(&[(GENERIC, "http://b:4317"), (TRACES, "http://a:4317"), (PROTOCOL, "grpc")]);
    let endpoints = Signal::ALL.map(|signal| settings.signal(signal).otlp.endpoint.value.clone());
    assert_eq!(endpoints, ["http://a:4317", "http://b:4317", "http://b:4317"]);
}

#[test]
fn row_19_grpc_to_the_port_of_http_is_warned_of() {
    let settings = read(&[
        (PROTOCOL, "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        (GENERIC, "http://c:4318"),
    ]);
    assert_eq!(settings.traces.otlp.endpoint.value, "http://c:4318/v1/traces");
    assert_eq!(settings.metrics.otlp.endpoint.value, "http://c:4318");
    let warnings: Vec<_> = settings.warnings.iter().map(|warning| warning.problem.clone()).collect();
    assert!(warnings[0].contains("4318 is the usual port of HTTP"), "{warnings:?}");
    assert_eq!(http(&[(GENERIC, "http://c:4317")]).1, 1, "and the other way round");
}
