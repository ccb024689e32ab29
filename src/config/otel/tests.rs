//! Each of the specification's rules, and each trap that others fell into.

mod effects;
mod endpoints;
mod exceptions;

use std::path::Path;

use super::*;
use crate::config::otel::table::{Status, VARIABLES};
use crate::engine::metrics::settings::{ExemplarFilter, HistogramAggregation};
use crate::exporter::settings::{Compression, FileTarget, OtlpSettings, Protocol};

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

fn warnings(pairs: &[(&str, &str)]) -> Vec<String> {
    read(pairs).warnings.iter().map(ToString::to_string).collect()
}

fn variable(name: &'static str) -> Origin {
    Origin::Variable(name)
}

fn otlp(settings: &OtelSettings, signal: Signal) -> OtlpSettings {
    let Destination::Otlp(otlp) = settings.exporter_settings(signal, false, 0).destination else {
        panic!("{settings:?}")
    };
    otlp
}

#[test]
fn without_variables_the_defaults_count() {
    let settings = read(&[]);
    assert_eq!(settings.warnings, []);
    assert!(settings.effective().iter().all(|value| value.origin == Origin::Default));
    let exporter = settings.exporter_settings(Signal::Traces, false, 7);
    let Destination::Otlp(otlp) = &exporter.destination else { panic!("{exporter:?}") };
    assert_eq!(
        (otlp.protocol, otlp.endpoint.as_str()),
        (Protocol::HttpProtobuf, "http://localhost:4318/v1/traces")
    );
    assert!(otlp.endpoint_origin.contains("OTEL_EXPORTER_OTLP_ENDPOINT"));
    assert_eq!(otlp.compression, Compression::None);
    assert_eq!((exporter.batch.max_items, exporter.batch.delay), (Some(512), Duration::from_secs(5)));
    assert_eq!(exporter.queue.max_items, None);
    assert_eq!(exporter.request_timeout, Duration::from_secs(10));
    assert_eq!(exporter.seed, 7);
    assert_eq!(settings.sampler.value, SamplerSettings::parent_based(SamplerSettings::AlwaysOn));
    let destinations: Vec<_> = settings.destinations().into_iter().map(|(signal, _)| signal).collect();
    assert_eq!(destinations, Signal::ALL);
}

/// What counts is shown for every variable that is read; a generic one shows in the signals' own, and the old name of the
/// file in the new one.
#[test]
fn every_variable_of_the_table_that_is_read_is_shown() {
    let settings = read(&[]);
    let shown: Vec<_> = settings.effective().iter().map(|value| value.variable).collect();
    let expected: Vec<_> = VARIABLES
        .iter()
        .filter(|variable| !matches!(variable.status, Status::NotApplicable(_)))
        .map(|variable| variable.name)
        .filter(|name| *name != OLD_CONFIG_FILE && !is_generic(name))
        .collect();
    assert_eq!(shown, expected);
}

fn is_generic(name: &str) -> bool {
    let option = name.strip_prefix("OTEL_EXPORTER_OTLP_");
    option.is_some_and(|option| {
        !["TRACES_", "METRICS_", "LOGS_"].iter().any(|prefix| option.starts_with(prefix))
    })
}

#[test]
fn protocols() {
    let protocol = |value: &str| {
        let settings = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", value)]);
        (settings.traces.otlp.protocol.value, settings.warnings.len())
    };
    assert_eq!(protocol("GRPC"), (Protocol::Grpc, 0));
    assert_eq!(protocol("http/protobuf"), (Protocol::HttpProtobuf, 0));
    assert_eq!(protocol("HTTP/JSON"), (Protocol::HttpJson, 0));
    assert_eq!(protocol("thrift"), (Protocol::HttpProtobuf, 1), "once, though three signals read it");
    let settings =
        read(&[("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
    assert_eq!(settings.traces.otlp.protocol.value, Protocol::Grpc);
    assert_eq!(settings.traces.otlp.protocol.origin, variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"));
    assert_eq!(settings.logs.otlp.protocol.value, Protocol::HttpJson);
}

#[test]
fn exporters() {
    let exporter = |value: &str| {
        let settings = read(&[("OTEL_TRACES_EXPORTER", value)]);
        (settings.traces.exporter.value, settings.warnings.len())
    };
    assert_eq!(exporter("otlp"), (Exporter::Otlp, 0));
    assert_eq!(exporter("Console"), (Exporter::Console, 0));
    assert_eq!(exporter("otlp/stdout"), (Exporter::File(FileTarget::Stdout), 0));
    assert_eq!(exporter("none"), (Exporter::None, 0));
    assert_eq!(exporter("none,none"), (Exporter::None, 0));
    assert_eq!(exporter("zipkin"), (Exporter::Otlp, 1));
    assert_eq!(exporter("zipkin, console"), (Exporter::Console, 1));
    assert_eq!(exporter("none,console"), (Exporter::Console, 1));
    assert_eq!(exporter("otlp,console"), (Exporter::Otlp, 1));
    assert_eq!(exporter("otlp,otlp"), (Exporter::Otlp, 0));
}

#[test]
fn each_signal_has_its_exporter() {
    let settings = read(&[("OTEL_METRICS_EXPORTER", "console"), ("OTEL_LOGS_EXPORTER", "none")]);
    let [(_, traces), (_, metrics), (_, logs)] = &settings.destinations()[..] else { panic!() };
    assert!(matches!(traces, Destination::Otlp(_)), "{traces:?}");
    assert!(matches!(metrics, Destination::Console), "{metrics:?}");
    assert!(matches!(logs, Destination::None), "{logs:?}");
    assert_eq!(settings.warnings, []);
}

#[test]
fn a_disabled_sdk_exports_nothing_and_nothing_stops_the_start() {
    let settings = read(&[("OTEL_SDK_DISABLED", "True"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense")]);
    assert!(settings.destinations().iter().all(|(_, to)| matches!(to, Destination::None)));
    let settings = read(&[("OTEL_SDK_DISABLED", "1")]);
    assert!(matches!(settings.destination(Signal::Traces), Destination::Otlp(_)));
    assert_eq!(settings.warnings.len(), 1);
}

#[test]
fn headers_are_decoded_replaced_as_a_whole_and_never_shown() {
    let settings = read(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-generic=1"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            " Authorization = Basic dXNl==, x-b=a%2Cb+c ,te=x, grpc-x=1,bad name=1,hidden,x-c=%0a,,",
        ),
    ]);
    let headers = settings.traces.otlp.headers.value.as_map();
    assert_eq!(headers.len(), 2);
    assert_eq!(headers["authorization"], "Basic dXNl==");
    assert_eq!(headers["x-b"], "a,b+c");
    assert_eq!(settings.logs.otlp.headers.value.to_string(), "x-generic=***");
    assert_eq!(settings.warnings.len(), 5, "{:?}", settings.warnings);
    let said = format!("{settings:?} {:?}", settings.effective());
    assert!(!said.contains("dXNl") && !said.contains("hidden"), "{said}");
}

#[test]
fn nothing_of_a_header_that_is_wrong_is_repeated() {
    let said = warnings(&[(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "x-a=1,hid den=1,hidden,hiddendXNlcjpwYXNz==,hiddenYXNz=, x-b=hidden%0a,te=hidden",
    )]);
    let problems = [
        "2 has no valid header name",
        "3 is not name=value",
        "4 is not name=value: it has no name, or no value",
        "5 is not name=value: it has no name, or no value",
        "6 has a value with characters that no header may hold",
        "7 has a name that only the exporter itself may use",
    ];
    let expected = problems
        .map(|problem| format!("OTEL_EXPORTER_OTLP_TRACES_HEADERS=\"***\": element {problem}; left out"));
    assert_eq!(said, expected);
}

#[test]
fn keys_of_headers_are_not_decoded() {
    let settings = read(&[("OTEL_EXPORTER_OTLP_HEADERS", "x%2Da=1")]);
    assert!(settings.traces.otlp.headers.value.as_map().contains_key("x%2da"));
}

#[test]
fn compression_and_times() {
    let compression = |value: &str| {
        let settings = read(&[("OTEL_EXPORTER_OTLP_COMPRESSION", value)]);
        (settings.traces.otlp.compression.value, settings.warnings.len())
    };
    assert_eq!(compression("GZIP"), (Compression::Gzip, 0));
    assert_eq!(compression("zstd"), (Compression::Zstd, 0));
    assert_eq!(compression("none"), (Compression::None, 0));
    assert_eq!(compression("brotli"), (Compression::None, 1));
}

#[test]
fn timeouts_are_milliseconds_and_the_smaller_counts() {
    const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
    const EXPORT: &str = "OTEL_BSP_EXPORT_TIMEOUT";
    let timeout = |pairs: &[(&str, &str)]| {
        let settings = read(pairs);
        (settings.exporter_settings(Signal::Traces, false, 0).request_timeout, settings.warnings.len())
    };
    let secs = Duration::from_secs;
    assert_eq!(timeout(&[(TIMEOUT, "2000")]), (secs(2), 0));
    assert_eq!(timeout(&[("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3000"), (TIMEOUT, "2000")]), (secs(3), 0));
    assert_eq!(timeout(&[(TIMEOUT, "60000")]), (secs(30), 0), "the export's limit is less");
    assert_eq!(timeout(&[(TIMEOUT, "0")]), (secs(30), 0));
    assert_eq!(timeout(&[(TIMEOUT, "0"), (EXPORT, "0")]), (NO_TIMEOUT, 0));
    assert_eq!(timeout(&[(TIMEOUT, "10")]), (Duration::from_millis(10), 1), "Python reads seconds");
    assert_eq!(timeout(&[(TIMEOUT, "10s")]), (secs(10), 1));
}

#[test]
fn batches() {
    let settings = read(&[
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_TRACES_EXPORTER", "console"),
    ]);
    assert_eq!(settings.warnings.len(), 1, "the default batch is larger than the queue");
    let exporter = settings.exporter_settings(Signal::Traces, false, 0);
    assert_eq!((exporter.queue.max_items, exporter.batch.max_items), (Some(100), Some(100)));
    assert_eq!(exporter.batch.delay, Duration::ZERO);
    let junk = [
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s"),
    ];
    assert_eq!(warnings(&junk).len(), 3);
    let delay = |pairs: &[(&str, &str)]| read(pairs).exporter_settings(Signal::Traces, false, 0).batch.delay;
    let console = ("OTEL_TRACES_EXPORTER", "console");
    assert_eq!(delay(&[console]), Duration::ZERO);
    assert_eq!(delay(&[console, ("OTEL_BSP_SCHEDULE_DELAY", "70")]), Duration::from_millis(70));
}

#[test]
fn logs_and_metrics_have_batches_of_their_own() {
    let settings = read(&[
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "7000"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "9000"),
    ]);
    assert_eq!(settings.logs.batches.max_queue_size.value, Some(50));
    assert_eq!(settings.logs.batches.max_export_batch_size.value, 50);
    assert_eq!(settings.logs.batches.schedule_delay.value, Duration::from_secs(1));
    assert_eq!(settings.metrics.batches.schedule_delay.value, Duration::from_secs(7));
    assert_eq!(
        settings.metrics.batches.export_timeout.value,
        Duration::from_secs(7),
        "lowered, with a warning"
    );
    assert_eq!(settings.traces.batches.max_queue_size.value, None);
    let settings = read(&[("OTEL_METRIC_EXPORT_INTERVAL", "0")]);
    assert_eq!(settings.metrics.batches.schedule_delay.value, Duration::from_secs(60));
    assert!(settings.warnings[0].problem.contains("without a pause"), "{:?}", settings.warnings);
    let console = read(&[("OTEL_METRICS_EXPORTER", "console")]);
    assert_eq!(console.metrics_interval(), Duration::from_secs(10));
}

#[test]
fn a_short_interval_leaves_a_request_of_metrics_the_time_to_be_answered() {
    for (interval, timeout, expected) in
        [("1", None, 1000), ("200", None, 1000), ("1", Some("400"), 400), ("3000", None, 3000)]
    {
        let timeout = timeout.map(|timeout| ("OTEL_METRIC_EXPORT_TIMEOUT", timeout));
        let pairs: Vec<_> = [("OTEL_METRIC_EXPORT_INTERVAL", interval)].into_iter().chain(timeout).collect();
        let settings = read(&pairs);
        let exporter = settings.exporter_settings(Signal::Metrics, false, 0);
        assert_eq!(exporter.request_timeout, Duration::from_millis(expected), "{pairs:?}");
        assert_eq!(settings.warnings.len(), 0, "{:?}", settings.warnings);
    }
    let pairs = [("OTEL_METRIC_EXPORT_INTERVAL", "1"), ("OTEL_METRIC_EXPORT_TIMEOUT", "2000")];
    assert!(read(&pairs).warnings[0].problem.ends_with("lowered to 1000 ms"));
}

#[test]
fn a_limit_of_an_export_that_was_meant_in_seconds_is_noticed() {
    for name in ["OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BLRP_EXPORT_TIMEOUT", "OTEL_METRIC_EXPORT_TIMEOUT"] {
        let problems = |value| {
            read(&[(name, value)]).warnings.iter().map(|warning| warning.problem.clone()).collect::<Vec<_>>()
        };
        assert_eq!(problems("1"), ["this is milliseconds; were seconds meant?"], "{name}");
        assert_eq!(problems("0"), [""; 0], "no limit: {name}");
        assert_eq!(problems("100"), [""; 0], "{name}");
    }
}

#[test]
fn an_exporter_is_told_what_is_said_of_its_signal() {
    let settings = read(&[
        ("OTEL_BLRP_SCHEDULE_DELAY", "70"),
        ("OTEL_BLRP_EXPORT_TIMEOUT", "900"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "50"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "20"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "7000"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "4000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "6000"),
    ]);
    let of = |signal| settings.exporter_settings(signal, false, 0);
    let (metrics, logs) = (of(Signal::Metrics), of(Signal::Logs));
    assert_eq!(
        (logs.batch.delay, logs.request_timeout),
        (Duration::from_millis(70), Duration::from_millis(900))
    );
    assert_eq!((logs.queue.max_items, logs.batch.max_items), (Some(50), Some(20)));
    assert_eq!((metrics.batch.delay, metrics.request_timeout), (METRICS_GATHERING, Duration::from_secs(4)));
    assert_eq!((metrics.queue.max_items, metrics.batch.max_items), (None, None), "bytes alone are bounded");
    assert_eq!(settings.metrics_interval(), Duration::from_secs(7));
    assert_eq!(of(Signal::Traces).batch.delay, Duration::from_secs(5));
}

#[test]
fn delta_and_lowmemory_are_three_words_apart() {
    let temporality = |value: &str| {
        read(&[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", value)]).metric_options.temporality.value
    };
    assert_eq!(temporality("DELTA"), Temporality::Delta);
    assert_eq!(temporality("lowmemory"), Temporality::LowMemory);
    assert_eq!(temporality("low_memory"), Temporality::Cumulative, "that is how a file spells it");
    let settings = read(&[
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_off"),
    ]);
    assert_eq!(settings.metric_options.histogram.value, HistogramAggregation::Exponential);
    assert_eq!(settings.metric_options.exemplar_filter.value, ExemplarFilter::AlwaysOff);
}

#[test]
fn the_resource() {
    let settings = read(&[
        ("OTEL_SERVICE_NAME", "named"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,team=a%20b,plus=1+1"),
    ]);
    let resource = settings.exporter_settings(Signal::Traces, true, 0).resource;
    assert_eq!(resource.service_name.as_deref(), Some("named"), "it beats the attribute");
    let owned = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(resource.attributes, [owned("plus", "1+1"), owned("service.name", "x"), owned("team", "a b")]);
    assert!(resource.same_host);
    let settings = read(&[("OTEL_RESOURCE_ATTRIBUTES", "good=1,bad")]);
    assert_eq!(settings.resource_attributes.value, [], "one mistake spoils the whole");
    assert_eq!(settings.warnings.len(), 1);
}

#[test]
fn files_of_tls() {
    let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318");
    let settings = read(&[
        https,
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces.pem"),
    ]);
    assert_eq!(settings.warnings, []);
    let tls = otlp(&settings, Signal::Traces).tls;
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/traces.pem")));
    let client = tls.client.unwrap();
    assert_eq!(
        (client.certificate.as_path(), client.key.as_path()),
        (Path::new("/c.pem"), Path::new("/k.pem"))
    );
    assert_eq!(otlp(&settings, Signal::Logs).tls.ca.as_deref(), Some(Path::new("/ca.pem")));

    let half = OtelSettings::from_env(&env(&[https, ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/k.pem")]));
    let errors: Vec<_> = half.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY=\"/k.pem\": a client has a certificate and its key: \
             OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE is not set (for traces by http/protobuf)"]
    );
    let plain = warnings(&[("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/ca.pem")]);
    assert_eq!(
        plain,
        [
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE=\"/ca.pem\": no effect: http://localhost:4318/v1/traces is without TLS"
        ]
    );
}

#[test]
fn samplers() {
    let sampler = |name: &str, argument: &str| {
        let settings = read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
        (settings.sampler.value, settings.warnings.len())
    };
    let ratio = |ratio| SamplerSettings::Ratio(Ratio::new(ratio).unwrap());
    let parent_based = SamplerSettings::parent_based;
    assert_eq!(sampler("always_on", ""), (SamplerSettings::AlwaysOn, 0));
    assert_eq!(sampler("Always_Off", ""), (SamplerSettings::AlwaysOff, 0));
    assert_eq!(sampler("parentbased_always_on", ""), (parent_based(SamplerSettings::AlwaysOn), 0));
    assert_eq!(sampler("parentbased_always_off", ""), (parent_based(SamplerSettings::AlwaysOff), 0));
    assert_eq!(sampler("parentbased_traceidratio", "0.25"), (parent_based(ratio(0.25)), 0));
    assert_eq!(sampler("parentbased_traceidratio", ""), (parent_based(ratio(1.0)), 0));
    for junk in ["1.5", "-0.1", "half", "NaN", "10%"] {
        assert_eq!(sampler("parentbased_traceidratio", junk), (parent_based(ratio(1.0)), 1), "{junk}");
    }
    for other in ["jaeger_remote", "parentbased_jaeger_remote", "xray", "random"] {
        assert_eq!(sampler(other, ""), (SamplerSettings::default(), 1), "{other}");
    }
    assert_eq!(sampler("always_on", "0.5"), (SamplerSettings::AlwaysOn, 1), "it takes no ratio");
}

#[test]
fn an_argument_without_its_sampler_has_no_effect() {
    assert_eq!(
        warnings(&[("OTEL_TRACES_SAMPLER_ARG", "0.1")]),
        ["OTEL_TRACES_SAMPLER_ARG=\"0.1\": no effect: OTEL_TRACES_SAMPLER is not set"]
    );
    assert_eq!(read(&[("OTEL_TRACES_SAMPLER_ARG", "0.1")]).sampler.value, SamplerSettings::default());
    let unknown = warnings(&[("OTEL_TRACES_SAMPLER", "foo"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")]);
    assert_eq!(
        unknown[1],
        "OTEL_TRACES_SAMPLER_ARG=\"0.1\": no effect: what OTEL_TRACES_SAMPLER says is ignored"
    );
}

#[test]
fn traceidratio_alone_is_warned_of() {
    let said = warnings(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")]);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("parentbased_traceidratio"), "{said:?}");
}

#[test]
fn a_specific_limit_beats_the_general_one_which_beats_defaults() {
    let general = [("OTEL_ATTRIBUTE_COUNT_LIMIT", "5"), ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "7")];
    let mut limits = crate::engine::settings::Limits::default();
    read(&general).limits.apply(&mut limits);
    assert_eq!((limits.max_attributes, limits.max_attribute_value_chars), (5, Some(7)));
    assert_eq!((limits.max_event_attributes, limits.max_link_attributes), (5, 5));
    assert_eq!((limits.max_span_events, limits.max_span_links), (128, 128));
    assert_eq!((limits.max_record_attributes, limits.max_record_attribute_chars), (5, Some(7)));
    let specific = [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "6"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "0"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "2"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "3"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
        ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "9"),
        ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "11"),
    ];
    let settings = read(&[&general[..], &specific[..]].concat());
    settings.limits.apply(&mut limits);
    assert_eq!((limits.max_attributes, limits.max_attribute_value_chars), (6, Some(0)));
    assert_eq!((limits.max_event_attributes, limits.max_link_attributes), (2, 1));
    assert_eq!((limits.max_span_events, limits.max_span_links), (3, 0));
    assert_eq!((limits.max_record_attributes, limits.max_record_attribute_chars), (9, Some(11)));
    let unlimited = read(&[("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1")]);
    assert_eq!((unlimited.limits.span_count.value, unlimited.warnings.len()), (128, 1), "-1 means nothing");
}

#[test]
fn propagators_are_a_list() {
    let propagators = |value: &str| {
        let settings = read(&[("OTEL_PROPAGATORS", value)]);
        let Propagators { tracecontext, b3 } = settings.propagators.value;
        (tracecontext, b3, settings.warnings.len())
    };
    assert_eq!(propagators(""), (true, false, 0));
    assert_eq!(propagators("baggage,tracecontext,tracecontext"), (true, false, 0));
    assert_eq!(propagators("B3"), (false, true, 0));
    assert_eq!(propagators("b3multi,baggage"), (false, true, 0));
    assert_eq!(propagators("none"), (false, false, 0));
    assert_eq!(propagators("none,b3"), (false, true, 1));
    assert_eq!(propagators("jaeger"), (true, false, 1), "as if unset");
    assert_eq!(propagators("jaeger,b3"), (false, true, 1));
}

#[test]
fn levels_of_the_log() {
    let level = |value: &str| {
        let settings = read(&[("OTEL_LOG_LEVEL", value)]);
        (settings.log_level.value, settings.warnings.len())
    };
    assert_eq!(level("WARN"), (LogLevel::Warn, 0));
    assert_eq!(level("fatal"), (LogLevel::Error, 0));
    assert_eq!(level("none"), (LogLevel::Off, 0));
    assert_eq!(level("loud"), (LogLevel::Info, 1));
}
