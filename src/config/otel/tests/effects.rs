//! What has no effect, what is wrong for several signals at once, and what nobody knows.

use super::*;

#[test]
fn a_variable_without_effect_says_why() {
    let said = warnings(&[
        ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://z"),
        ("OTEL_EXPORTER_OTLP_SPAN_INSECURE", "true"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000000"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=hidden"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_on"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
        ("OTEL_LOGS_EXPORTER", "console"),
    ]);
    let has = |text: &str| said.iter().any(|said| said == text);
    assert!(
        has(
            "OTEL_EXPORTER_OTLP_SPAN_INSECURE=\"true\": no effect: an obsolete spelling of `OTEL_EXPORTER_OTLP_TRACES_INSECURE`"
        ),
        "{said:?}"
    );
    for name in
        ["OTEL_METRIC_EXPORT_INTERVAL", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_METRICS_EXEMPLAR_FILTER"]
    {
        let problem = format!("{name}=\"***\": no effect: OTEL_METRICS_EXPORTER is none");
        assert!(has(&problem), "{said:?}");
    }
    assert_eq!(said.len(), 5, "{said:?}");
}

#[test]
fn unknown_names_get_one_hint_with_the_nearest_known_name() {
    let said = warnings(&[
        ("OTEL_TRACE_SAMPLER", "always_on"),
        ("OTEL_METRICS_EXPORT_INTERVAL", "1"),
        ("OTEL_EXPORTER_OTLP_HEADER", "a=hidden"),
        ("OTEL_ZZZ", "1"),
        ("OTEL_EXPORTER_JAEGER_AGENT_HOST", "j"),
        ("OTEL_PYTHON_LOG_LEVEL", "info"),
        ("OTEL_EMPTY_IS_UNSET", ""),
        ("OTELCOL_X", "1"),
    ]);
    assert_eq!(
        said,
        [
            "OTEL_EXPORTER_JAEGER_AGENT_HOST: no longer part of the specification: Jaeger takes OTLP",
            "OTEL_EXPORTER_OTLP_HEADER: unknown variable; did you mean OTEL_EXPORTER_OTLP_HEADERS?",
            "OTEL_METRICS_EXPORT_INTERVAL: unknown variable; did you mean OTEL_METRIC_EXPORT_INTERVAL?",
            "OTEL_TRACE_SAMPLER: unknown variable; did you mean OTEL_TRACES_SAMPLER?",
            "OTEL_ZZZ: unknown variable",
        ]
    );
}

#[test]
fn values_of_variables_without_effect_are_shown_only_where_they_hold_no_secret() {
    let said = warnings(&[
        ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://user:hidden@z:9411/x?key=hidden"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=hidden"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_ENTITIES", "hidden"),
        ("BAGGAGE", "user=hidden"),
        ("TRACESTATE", "a=hidden"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"),
    ])
    .join("\n");
    assert!(!said.contains("hidden"), "{said}");
    assert!(said.contains("OTEL_EXPORTER_ZIPKIN_ENDPOINT=\"http://***@z:9411/x?***\": no effect"), "{said}");
    assert!(said.contains("OTEL_EXPORTER_OTLP_LOGS_HEADERS=\"***\": no effect"), "{said}");
    assert!(
        said.contains("BAGGAGE=\"***\": no effect") && said.contains("OTEL_ENTITIES=\"***\": no effect"),
        "{said}"
    );
    assert!(said.contains("OTEL_EXPORTER_PROMETHEUS_PORT=\"9464\": no effect"), "{said}");
}

#[test]
fn variables_of_kubernetes_services_are_not_unknown() {
    let services = [
        ("OTEL_COLLECTOR_SERVICE_HOST", "10.0.0.1"),
        ("OTEL_COLLECTOR_SERVICE_PORT", "4317"),
        ("OTEL_COLLECTOR_SERVICE_PORT_OTLP_GRPC", "4317"),
        ("OTEL_COLLECTOR_PORT", "tcp://10.0.0.1:4317"),
        ("OTEL_COLLECTOR_PORT_4317_TCP", "tcp://10.0.0.1:4317"),
        ("OTEL_COLLECTOR_PORT_4317_TCP_PROTO", "tcp"),
        ("OTEL_COLLECTOR_PORT_6831_UDP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(warnings(&services), [""; 0]);
    let others = [("OTEL_SUPPORT_X_TCP", "1"), ("OTEL_EXPORTER_PROMETEUS_PORT", "9464")];
    assert_eq!(
        warnings(&others),
        [
            "OTEL_EXPORTER_PROMETEUS_PORT: unknown variable; did you mean OTEL_EXPORTER_PROMETHEUS_PORT?",
            "OTEL_SUPPORT_X_TCP: unknown variable",
        ]
    );
}

/// What is wrong for several signals is named once, with all of them.
#[test]
fn an_endpoint_of_any_signal_stops_the_start_unless_nothing_goes_there() {
    let pairs = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json"),
    ];
    let wrong = OtelSettings::from_env(&env(&pairs)).map(|_| ()).unwrap_err();
    let reasons: Vec<_> = wrong.iter().map(|error| error.reason.as_str()).collect();
    let problem = "not an http or https URL";
    assert_eq!(
        reasons,
        [format!("{problem} (for metrics by http/protobuf)"), format!("{problem} (for logs by http/json)")]
    );
    assert_eq!(error(&pairs[..1]).reason, format!("{problem} (for traces, metrics, logs by http/protobuf)"));
    let others = [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "console")];
    assert_eq!(warnings(&[&pairs[..2], &others[..]].concat()), [""; 0]);
}

#[test]
fn insecure_is_warned_of_once_for_all_signals_that_it_means_nothing_to() {
    let pairs = [
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "c:4317"),
    ];
    let problem = "no effect on traces, metrics: for http/protobuf the scheme of the endpoint decides";
    assert_eq!(warnings(&pairs), [format!("OTEL_EXPORTER_OTLP_INSECURE=\"true\": {problem}")]);
}

/// The files of one signal's peer are as good a reason as those of another's.
#[test]
fn files_that_cannot_be_used_are_named_once_with_their_signals() {
    let broken = |pairs: &[(&str, &str)]| {
        let broken = read(pairs).broken_tls().into_iter();
        broken.map(|broken| (broken.origin, broken.signals)).collect::<Vec<_>>()
    };
    let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318");
    let generic = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/none.pem");
    let own = ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/none-of-logs.pem");
    assert_eq!(broken(&[https, generic]), [(variable(generic.0), Signal::ALL.to_vec())]);
    assert_eq!(
        broken(&[https, generic, own]),
        [(variable(generic.0), vec![Signal::Traces, Signal::Metrics]), (variable(own.0), vec![Signal::Logs])]
    );
    let off = ("OTEL_LOGS_EXPORTER", "none");
    assert_eq!(broken(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://c"), own, off]), []);
}

#[test]
fn half_of_a_generic_client_certificate_is_named_once() {
    let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318");
    assert_eq!(
        error(&[https, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem")]).reason,
        "a client has a certificate and its key: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not set (for traces, \
         metrics, logs by http/protobuf)"
    );
}

#[test]
fn what_an_exporter_does_not_ask_for_has_no_effect() {
    let options = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=hidden"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "5000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "70"),
    ];
    let others = [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none")];
    let beside =
        |exporter| warnings(&[&options[..], &[("OTEL_TRACES_EXPORTER", exporter)], &others[..]].concat());
    let otlp = |exporter| {
        let own = format!("no effect: OTEL_TRACES_EXPORTER is {exporter}");
        let all = format!("{own}, OTEL_METRICS_EXPORTER is none, OTEL_LOGS_EXPORTER is none");
        [
            format!("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=\"***\": {own}"),
            format!("OTEL_EXPORTER_OTLP_HEADERS=\"***\": {all}"),
        ]
    };
    assert_eq!(beside("otlp"), [""; 0]);
    assert_eq!(beside("console"), otlp("console"));
    let [first, second] = otlp("none");
    let batches = "OTEL_BSP_SCHEDULE_DELAY=\"***\": no effect: OTEL_TRACES_EXPORTER is none".to_owned();
    assert_eq!(beside("none"), [first, batches, second]);
}

#[test]
fn what_is_disabled_is_named_once() {
    let said = warnings(&[
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_LOG_LEVEL", "warn"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense"),
        ("OTEL_METRICS_EXPORTER", "console"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ]);
    let names = "OTEL_METRICS_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER";
    let expected = "OTEL_SDK_DISABLED=\"true\": nothing is exported, so these have no effect: ";
    assert_eq!(said.first(), Some(&format!("{expected}{names}")), "{said:?}");
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn rust_log_beats_the_level() {
    assert_eq!(
        warnings(&[("OTEL_LOG_LEVEL", "warn"), ("RUST_LOG", "info")]),
        ["OTEL_LOG_LEVEL=\"warn\": RUST_LOG is set as well, and beats it"]
    );
    assert_eq!(warnings(&[("RUST_LOG", "info")]), [""; 0]);
}
