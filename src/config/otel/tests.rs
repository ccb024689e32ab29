//! Each row of the specification's rules, and of the reference table of endpoints.

use std::collections::BTreeMap;

use super::*;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(pairs: &[(&str, &str)]) -> OtelSettings {
    OtelSettings::from_env(&env(pairs)).unwrap()
}

fn error(pairs: &[(&str, &str)]) -> OtelError {
    let errors = OtelSettings::from_env(&env(pairs)).map(|_| ()).unwrap_err();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    error.clone()
}

fn variable(name: &'static str) -> Origin {
    Origin::Variable(name)
}

#[test]
fn without_variables_the_defaults_count() {
    let settings = read(&[]);
    assert_eq!(settings.warnings, []);
    assert!(settings.effective().iter().all(|value| value.origin == Origin::Default));
    let exporter = settings.exporter_settings(false, 7);
    let Destination::Otlp(otlp) = &exporter.destination else { panic!("{exporter:?}") };
    assert_eq!(
        (otlp.protocol, otlp.endpoint.as_str()),
        (Protocol::HttpProtobuf, "http://localhost:4318/v1/traces")
    );
    assert!(otlp.endpoint_origin.contains(ENDPOINT));
    assert_eq!(otlp.compression, Compression::None);
    assert_eq!((exporter.batch.max_spans, exporter.batch.delay), (512, Duration::from_secs(5)));
    assert_eq!(exporter.queue.max_spans, None);
    assert_eq!(exporter.request_timeout, Duration::from_secs(10));
    assert_eq!(exporter.seed, 7);
}

#[test]
fn endpoints_by_the_specifications_table() {
    let http = |pairs: &[(&str, &str)]| {
        let settings = read(pairs);
        (settings.otlp.endpoint.value, settings.warnings.len())
    };
    for (variable, value, expected, warnings) in [
        (ENDPOINT, "http://c:4318", "http://c:4318/v1/traces", 0),
        (ENDPOINT, "http://c:4318/", "http://c:4318/v1/traces", 0),
        (ENDPOINT, "http://c:4318/base", "http://c:4318/base/v1/traces", 0),
        (ENDPOINT, "http://c:4318/base/", "http://c:4318/base/v1/traces", 0),
        (ENDPOINT, "http://c:4318/v1/traces", "http://c:4318/v1/traces/v1/traces", 1),
        (ENDPOINT, "http://c", "http://c/v1/traces", 0),
        (ENDPOINT, "http://[::1]:4318", "http://[::1]:4318/v1/traces", 0),
        (ENDPOINT, "http://c:4317", "http://c:4317/v1/traces", 1),
        (TRACES_ENDPOINT, "http://c:4318", "http://c:4318/", 1),
        (TRACES_ENDPOINT, "https://c/v1/traces/", "https://c/v1/traces/", 0),
    ] {
        assert_eq!(http(&[(variable, value)]), (expected.to_owned(), warnings), "{variable}={value}");
    }
    let both = [(ENDPOINT, "http://c:4318"), (TRACES_ENDPOINT, "")];
    assert_eq!(http(&both), ("http://c:4318/v1/traces".to_owned(), 0));
    let insecure = [(ENDPOINT, "https://c:4318"), (INSECURE[1], "true")];
    assert_eq!(http(&insecure), ("https://c:4318/v1/traces".to_owned(), 0));
}

#[test]
fn grpc_endpoints_by_the_specifications_table() {
    let grpc = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().copied().chain([(PROTOCOL[1], "grpc")]).collect();
        let settings = read(&pairs);
        (settings.otlp.endpoint.value, settings.warnings.len())
    };
    assert_eq!(grpc(&[]), ("http://localhost:4317".to_owned(), 0));
    for (value, insecure, expected, warnings) in [
        ("http://c:4317", "", "http://c:4317", 0),
        ("http://c:4317", "false", "http://c:4317", 0),
        ("https://c:4317", "true", "https://c:4317", 0),
        ("c:4317", "", "https://c:4317", 0),
        ("c:4317", "true", "http://c:4317", 0),
        ("[::1]:4317", "true", "http://[::1]:4317", 0),
        ("http://c:4317/base", "", "http://c:4317", 1),
        ("http://c:4318", "", "http://c:4318", 1),
        ("http://c:4317/", "", "http://c:4317", 0),
    ] {
        let pairs = [(ENDPOINT, value), (INSECURE[1], insecure)];
        assert_eq!(grpc(&pairs), (expected.to_owned(), warnings), "{value} {insecure}");
    }
    let both = [(ENDPOINT, "http://b:4317"), (TRACES_ENDPOINT, "http://a:4317")];
    assert_eq!(grpc(&both), ("http://a:4317".to_owned(), 0));
    let both = [(ENDPOINT, "c:4317"), (INSECURE[0], "true"), (INSECURE[1], "false")];
    assert_eq!(grpc(&both), ("http://c:4317".to_owned(), 0));
}

#[test]
fn an_endpoint_that_leads_nowhere_stops_the_start() {
    for value in ["c:4318", "unix:///run/o.sock", "http://", "ftp://c", "http://c/?k=v", "http://c/#f", "//c"]
    {
        let error = error(&[(ENDPOINT, value)]);
        assert_eq!((error.variable, error.value.as_str()), (ENDPOINT, value));
    }
    let error = error(&[(TRACES_ENDPOINT, "http://user:hidden@c:4318/v1/traces")]);
    assert_eq!(
        error.to_string(),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=\"http://***@c:4318/v1/traces\": a user in the URL is not supported; \
         use OTEL_EXPORTER_OTLP_HEADERS"
    );
    let settings = read(&[(ENDPOINT, "c:4318"), (TRACES_EXPORTER, "none")]);
    assert_eq!(settings.warnings.len(), 1, "nothing is sent there, so it is only warned of");
}

#[test]
fn protocols() {
    let protocol = |value: &str| {
        let settings = read(&[(PROTOCOL[1], value)]);
        (settings.otlp.protocol.value, settings.warnings.len())
    };
    assert_eq!(protocol("GRPC"), (Protocol::Grpc, 0));
    assert_eq!(protocol("http/protobuf"), (Protocol::HttpProtobuf, 0));
    assert_eq!(protocol("thrift"), (Protocol::HttpProtobuf, 1));
    let signal = read(&[(PROTOCOL[0], "grpc"), (PROTOCOL[1], "http/protobuf")]);
    assert_eq!(signal.otlp.protocol, Setting { value: Protocol::Grpc, origin: variable(PROTOCOL[0]) });
    let error = error(&[(PROTOCOL[0], "HTTP/JSON")]);
    assert_eq!(
        error.to_string(),
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=\"http/json\": this protocol is not supported; grpc and http/protobuf are"
    );
    read(&[(PROTOCOL[0], "http/json"), (SDK_DISABLED, "true")]);
}

#[test]
fn exporters() {
    let exporter = |value: &str| {
        let settings = read(&[(TRACES_EXPORTER, value)]);
        (settings.traces_exporter.value, settings.warnings.len())
    };
    assert_eq!(exporter("otlp"), (TracesExporter::Otlp, 0));
    assert_eq!(exporter("Console"), (TracesExporter::Console, 0));
    assert_eq!(exporter("none"), (TracesExporter::None, 0));
    assert_eq!(exporter("zipkin"), (TracesExporter::Otlp, 1));
    assert_eq!(exporter("zipkin, console"), (TracesExporter::Console, 1));
    assert_eq!(exporter("none,console"), (TracesExporter::Console, 1));
    assert_eq!(exporter("otlp,console"), (TracesExporter::Otlp, 1));
    assert_eq!(exporter("otlp,otlp"), (TracesExporter::Otlp, 0));
}

#[test]
fn a_disabled_sdk_exports_nothing() {
    let settings = read(&[(SDK_DISABLED, "True"), (TRACES_EXPORTER, "otlp")]);
    assert!(matches!(settings.exporter_settings(false, 0).destination, Destination::None));
    let settings = read(&[(SDK_DISABLED, "1")]);
    assert!(matches!(settings.exporter_settings(false, 0).destination, Destination::Otlp(_)));
    assert_eq!(settings.warnings.len(), 1);
}

#[test]
fn headers_are_decoded_replaced_as_a_whole_and_never_shown() {
    let settings = read(&[
        (HEADERS[1], "x-generic=1"),
        (
            HEADERS[0],
            " Authorization = Basic dXNl==, x-b=a%2Cb+c ,te=x, grpc-x=1,bad name=1,hidden,x-c=%0a,,",
        ),
    ]);
    let headers = settings.otlp.headers.value.as_map();
    assert_eq!(headers.len(), 2);
    assert_eq!(headers["authorization"], "Basic dXNl==");
    assert_eq!(headers["x-b"], "a,b+c");
    assert_eq!(settings.warnings.len(), 5, "{:?}", settings.warnings);
    let shown = format!("{settings:?} {:?}", settings.effective());
    assert!(!shown.contains("dXNl") && !shown.contains("hidden") && !shown.contains("a,b"), "{shown}");
    let effective = settings.effective();
    let headers = effective.iter().find(|value| value.variable == HEADERS[1]).unwrap();
    assert_eq!(
        (headers.value.as_deref(), headers.origin),
        (Some("authorization=***,x-b=***"), variable(HEADERS[0]))
    );
}

#[test]
fn compression_and_time_outs() {
    let settings = read(&[(COMPRESSION[1], "GZIP"), (TIMEOUT[0], "2500"), (TIMEOUT[1], "9000")]);
    assert_eq!(settings.otlp.compression.value, Compression::Gzip);
    assert_eq!(
        settings.otlp.timeout,
        Setting { value: Duration::from_millis(2500), origin: variable(TIMEOUT[0]) }
    );
    let timeout = |pairs: &[(&str, &str)]| {
        let settings = read(pairs);
        (settings.exporter_settings(false, 0).request_timeout, settings.warnings.len())
    };
    assert_eq!(timeout(&[(TIMEOUT[1], "60000")]), (Duration::from_secs(30), 0), "the export's limit is less");
    assert_eq!(timeout(&[(TIMEOUT[1], "0")]), (Duration::from_secs(30), 0));
    assert_eq!(timeout(&[(TIMEOUT[1], "0"), (EXPORT_TIMEOUT, "0")]), (NO_TIMEOUT, 0));
    assert_eq!(timeout(&[(TIMEOUT[1], "10")]), (Duration::from_millis(10), 1), "seconds were meant");
    assert_eq!(timeout(&[(TIMEOUT[1], "10s")]), (Duration::from_secs(10), 1));
    assert_eq!(read(&[(COMPRESSION[1], "brotli")]).warnings.len(), 1);
}

#[test]
fn batches() {
    let settings = read(&[(SCHEDULE_DELAY, "0"), (MAX_QUEUE_SIZE, "100"), (TRACES_EXPORTER, "console")]);
    assert_eq!(settings.warnings.len(), 1, "the default batch is larger than the queue");
    let exporter = settings.exporter_settings(false, 0);
    assert_eq!((exporter.queue.max_spans, exporter.batch.max_spans), (Some(100), 100));
    assert_eq!(exporter.batch.delay, Duration::ZERO);
    let settings = read(&[(MAX_EXPORT_BATCH_SIZE, "0"), (MAX_QUEUE_SIZE, "-1"), (SCHEDULE_DELAY, "5s")]);
    assert_eq!(settings.warnings.len(), 3);
    let console = |pairs: &[(&str, &str)]| read(pairs).exporter_settings(false, 0).batch.delay;
    assert_eq!(console(&[(TRACES_EXPORTER, "console")]), Duration::ZERO);
    assert_eq!(console(&[(TRACES_EXPORTER, "console"), (SCHEDULE_DELAY, "70")]), Duration::from_millis(70));
}

#[test]
fn the_resource() {
    let settings = read(&[(SERVICE_NAME, "named"), (RESOURCE_ATTRIBUTES, "service.name=x,team=a%20b")]);
    let resource = settings.exporter_settings(true, 0).resource;
    assert_eq!(resource.service_name.as_deref(), Some("named"));
    let owned = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(resource.attributes, [owned("service.name", "x"), owned("team", "a b")]);
    assert!(resource.same_host);
    let settings = read(&[(RESOURCE_ATTRIBUTES, "good=1,bad")]);
    assert_eq!(settings.resource_attributes.value, []);
    assert_eq!(settings.warnings.len(), 1);
}

#[test]
fn a_wrong_protocol_does_not_hide_a_wrong_endpoint() {
    let wrong = [(PROTOCOL[1], "http/json"), (ENDPOINT, "ftp://c")];
    let errors = OtelSettings::from_env(&env(&wrong)).map(|_| ()).unwrap_err();
    let variables: Vec<_> = errors.iter().map(|error| error.variable).collect();
    assert_eq!(variables, [PROTOCOL[1], ENDPOINT]);

    let unused: Vec<_> = wrong.into_iter().chain([(TRACES_EXPORTER, "none")]).collect();
    let warnings: Vec<_> = read(&unused).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "OTEL_EXPORTER_OTLP_PROTOCOL=\"http/json\": this protocol is not supported; grpc and http/protobuf are; ignored",
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"ftp://c\": not an http or https URL; ignored",
        ]
    );
}
