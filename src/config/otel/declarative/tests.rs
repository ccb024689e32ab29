//! What files say.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::otel::{Exporter, Temporality};
use crate::engine::metrics::settings::{ExemplarFilter, HistogramAggregation};
use crate::engine::sampler::ParentBased;
use crate::exporter::settings::{Compression, Destination, FileTarget, Protocol};

fn read_with(text: &str, pairs: &[(&str, &str)]) -> Result<OtelSettings, Vec<String>> {
    let env: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    read("otel.yaml", text, &env).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn settings(text: &str) -> OtelSettings {
    read_with(&format!("file_format: \"1.1\"\n{text}"), &[]).unwrap()
}

/// Lines are counted from the one after `file_format`, as 2.
fn problems(text: &str) -> Vec<String> {
    read_with(&format!("file_format: \"1.1\"\n{text}"), &[]).map(|_| ()).unwrap_err()
}

fn warnings(settings: &OtelSettings) -> Vec<String> {
    settings.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn everything_that_the_schema_has_is_understood() {
    let settings = settings(
        r#"
disabled: false
log_level: debug2
attribute_limits: {attribute_count_limit: 64, attribute_value_length_limit: null}
resource:
  attributes: [{name: service.name, value: x, type: string}, {name: n, value: 1}]
  attributes_list: "k=v,n=beaten"
  schema_url: null
  detection/development: {detectors: [{service: null}]}
propagator: {composite: [{tracecontext: null}], composite_list: "b3,tracecontext"}
tracer_provider:
  processors: [{batch: {schedule_delay: 4000, export_timeout: 20000, max_queue_size: 1000, max_export_batch_size: 100, exporter: {otlp_http: {
    endpoint: "https://c:4318/v1/traces", encoding: json, compression: gzip, timeout: 9000, headers: [{name: a, value: "b"}], headers_list: "a=beaten,c=d",
    tls: {ca_file: /a.pem, key_file: /k.pem, cert_file: /c.pem}}}}}]
  sampler: {parent_based: {root: {trace_id_ratio_based: {ratio: 0.1}}}}
  limits: {attribute_count_limit: 12, event_count_limit: 13, link_count_limit: 14, event_attribute_count_limit: 15, link_attribute_count_limit: 16}
meter_provider:
  exemplar_filter: always_off
  readers: [{periodic: {interval: 50000, timeout: 20000, cardinality_limits: {default: 2000}, exporter: {otlp_grpc: {
    endpoint: "http://localhost:4317", tls: {insecure: false}, temporality_preference: low_memory, default_histogram_aggregation: explicit_bucket_histogram}}}}]
logger_provider: {processors: [{batch: {exporter: {otlp_file/development: {output_stream: "file:///var/log/x.jsonl"}}}}], limits: {attribute_count_limit: 17}}
"#,
    );
    assert_eq!(settings.log_level.value, LogLevel::Debug);
    let owned = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        settings.resource_attributes.value,
        [owned("k", "v"), owned("service.name", "x"), owned("n", "1")]
    );
    assert_eq!(settings.propagators.value, Propagators { tracecontext: true, b3: true });
    let traces = settings.exporter_settings(Signal::Traces, false, 0);
    let Destination::Otlp(otlp) = &traces.destination else { panic!("{traces:?}") };
    assert_eq!((otlp.protocol, otlp.compression), (Protocol::HttpJson, Compression::Gzip));
    assert_eq!(otlp.endpoint, "https://c:4318/v1/traces", "nothing is added to it");
    let headers = otlp.headers.as_map();
    assert_eq!((headers["a"].to_str().unwrap(), headers["c"].to_str().unwrap()), ("b", "d"));
    assert_eq!(otlp.tls.ca.as_deref(), Some(Path::new("/a.pem")));
    assert_eq!(otlp.tls.client.as_ref().unwrap().key, Path::new("/k.pem"));
    assert_eq!((traces.batch.max_spans, traces.batch.delay), (100, Duration::from_secs(4)));
    assert_eq!((traces.queue.max_spans, traces.request_timeout), (Some(1000), Duration::from_secs(9)));
    assert_eq!(
        settings.sampler.value,
        SamplerSettings::parent_based(SamplerSettings::Ratio(Ratio::new(0.1).unwrap()))
    );
    let limits = &settings.limits;
    let counts = [&limits.span_count, &limits.event_count, &limits.link_count, &limits.log_count];
    assert_eq!(counts.map(|count| count.value), [12, 13, 14, 17]);
    assert_eq!((limits.event_attribute_count.value, limits.link_attribute_count.value), (15, 16));
    assert_eq!((limits.count.value, limits.span_value_length.value), (64, None));
    assert_eq!(settings.metric_options.exemplar_filter.value, ExemplarFilter::AlwaysOff);
    assert_eq!(settings.metric_options.temporality.value, Temporality::LowMemory);
    assert_eq!(settings.metrics.otlp.protocol.value, Protocol::Grpc);
    assert_eq!(settings.metrics.batches.schedule_delay.value, Duration::from_secs(50));
    let file = FileTarget::Path("/var/log/x.jsonl".into());
    assert_eq!(settings.logs.exporter.value, Exporter::File(file));
    assert_eq!(settings.traces.otlp.timeout.origin, Origin::File(14));
    let said = warnings(&settings);
    assert_eq!(said, ["otel.yaml:20: meter_provider.readers[0].periodic.cardinality_limits: no effect here"]);
}

#[test]
fn a_provider_that_is_not_there_does_nothing() {
    let settings = settings("");
    let to: Vec<_> = settings.destinations().into_iter().map(|(_, destination)| destination).collect();
    assert!(to.iter().all(|to| matches!(to, Destination::None)), "{to:?}");
    assert_eq!(settings.propagators.value, Propagators { tracecontext: false, b3: false });
}

#[test]
fn defaults_of_an_exporter_that_is_named_alone() {
    let settings = settings(
        "tracer_provider: {processors: [{batch: {exporter: {otlp_grpc: }}}]}\nlogger_provider:\n  processors: \
         [{simple: {exporter: {console: }}}]\n",
    );
    assert_eq!(settings.traces.otlp.endpoint.value, "http://localhost:4317");
    assert_eq!(settings.traces.batches.schedule_delay.value, Duration::from_secs(5));
    assert_eq!(settings.sampler.value, SamplerSettings::default());
    assert_eq!(settings.logs.exporter.value, Exporter::Console);
    assert_eq!(settings.logs.batches.schedule_delay.value, Duration::ZERO);
}

#[test]
fn versions_of_the_format() {
    let format = |text: &str| {
        read_with(&format!("file_format: {text}\n"), &[]).map(|settings| settings.warnings.len())
    };
    for good in ["\"1.0\"", "\"1.1\"", "1.0", "1.1", "'1.0-rc.3'", "1"] {
        assert_eq!(format(good), Ok(0), "{good}");
    }
    assert_eq!(format("\"1.2\""), Ok(1), "newer");
    for bad in ["\"2.0\"", "\"0.4\"", "true", "\"\"", "x", "\"1.x\"", "[1]"] {
        assert!(format(bad).is_err(), "{bad}");
    }
    assert_eq!(
        read_with("disabled: true\n", &[]).map(|_| ()),
        Err(vec!["otel.yaml:1: file_format: it is missing: \"1.1\" is known here".to_owned()])
    );
}

#[test]
fn unknown_keys_stop_the_start_with_their_line_but_at_the_top() {
    assert_eq!(
        problems(
            "tracer_provider:\n  procesors: []\n  processors: [{batch: {exporter: {otlp_http: {endpont: x}}}}]\n"
        ),
        [
            "otel.yaml:3: tracer_provider.procesors: unknown key; did you mean `processors`?",
            "otel.yaml:4: tracer_provider.processors[0].batch.exporter.otlp_http.endpont: unknown key; did you mean `endpoint`?",
        ]
    );
    let settings = settings("x-ours: {a: 1}\ndistribution: {a: 1}\n");
    assert_eq!(
        warnings(&settings),
        ["otel.yaml:2: x-ours: unknown key; ignored", "otel.yaml:3: distribution: no effect here"]
    );
}

#[test]
fn plug_ins_have_one_key_that_is_known() {
    assert_eq!(
        problems("tracer_provider: {processors: [{btach: }]}\n"),
        ["otel.yaml:2: tracer_provider.processors[0].btach: this does not exist here; did you mean `batch`?"]
    );
    let at = "tracer_provider.processors[0].batch.exporter";
    assert_eq!(
        problems("tracer_provider: {processors: [{batch: {exporter: {otlp_http: , console: }}}]}\n"),
        [format!("otel.yaml:2: {at}: a mapping with exactly one key is expected here")]
    );
    assert_eq!(
        problems("tracer_provider: {processors: [{batch: {}}]}\n"),
        [format!("otel.yaml:2: {at}: one is needed")]
    );
    assert_eq!(
        problems("tracer_provider: {processors: []}\n"),
        ["otel.yaml:2: tracer_provider.processors: at least one is needed"]
    );
}

#[test]
fn the_first_processor_that_can_be_done_counts() {
    let settings = settings(
        "tracer_provider:\n  processors:\n    - simple: {exporter: {console: }}\n    - batch: {exporter: {otlp_http: }}\n",
    );
    assert_eq!(settings.traces.exporter.value, Exporter::Console);
    assert_eq!(
        warnings(&settings),
        [
            "otel.yaml:5: tracer_provider.processors[1].batch: no effect: one of them is supported, and the first counts"
        ]
    );
    let metrics = self::settings(
        "meter_provider: {readers: [{pull: {exporter: {prometheus/development: }}}, {periodic: {exporter: {console: }}}]}\n",
    );
    assert_eq!(metrics.metrics.exporter.value, Exporter::Console);
    assert_eq!(metrics.metrics.batches.schedule_delay.value, Duration::from_secs(60));
}

#[test]
fn values_of_the_wrong_kind_name_their_line() {
    let batch = "tracer_provider.processors[0].batch";
    let exporter = format!("{batch}.exporter.otlp_http");
    assert_eq!(
        problems(
            "disabled: \"true\"\nlog_level: loud\ntracer_provider:\n  processors:\n  - batch:\n      schedule_delay: 5s\n      \
             max_queue_size: 0\n      exporter:\n        otlp_http:\n          endpoint: c:4318\n          timeout: -1\n          \
             tls: {ca_file: a.pem, key_file: /k.pem}\n          headers: [{name: te, value: x}, {value: x}, {name: a, value: 1}]\n",
        ),
        [
            "otel.yaml:2: disabled: `true` is not `true` or `false`".to_owned(),
            format!(
                "otel.yaml:3: log_level: `loud` is not one of {}",
                LEVELS.map(|(name, _)| name).join(", ")
            ),
            format!("otel.yaml:7: {batch}.schedule_delay: `5s` is not a whole number from 0 to 2147483647"),
            format!("otel.yaml:8: {batch}.max_queue_size: `0` is not a whole number from 1 to 2147483647"),
            format!("otel.yaml:11: {exporter}.endpoint: `c:4318`: not an http or https URL"),
            format!("otel.yaml:12: {exporter}.timeout: `-1` is not a whole number from 0 to 2147483647"),
            format!("otel.yaml:13: {exporter}.tls.ca_file: `a.pem` is not an absolute path"),
            format!(
                "otel.yaml:13: {exporter}.tls: a client has a certificate and its key: `key_file` and `cert_file`"
            ),
            format!(
                "otel.yaml:14: {exporter}.headers[0]: it has a name that only the exporter itself may use"
            ),
            format!("otel.yaml:14: {exporter}.headers[1]: a header has a name"),
            format!("otel.yaml:14: {exporter}.headers[2]: a header's value is text; put it in quotes"),
        ]
    );
}

#[test]
fn what_stands_among_headers_is_never_repeated() {
    let said = |headers: &str| {
        problems(&format!(
            "tracer_provider: {{processors: [{{simple: {{exporter: {{otlp_http: {{{headers}}}}}}}}}]}}\n"
        ))
        .join("\n")
    };
    assert!(
        said("headers_list: 4242").ends_with("headers_list: a whole number is not text; put it in quotes")
    );
    for headers in [
        "headers_list: [4242]",
        "headers: 4242",
        "headers: [4242]",
        "headers: [{name: 4242, value: x}]",
        "headers: [{name: a, value: 4242}]",
        "headers: [{name: \"42 42\", value: x}]",
        "headers: [{name: te, value: 4242}]",
    ] {
        assert!(!said(headers).contains("42"), "{}", said(headers));
    }
}

#[test]
fn of_two_readers_the_first_counts_with_all_that_it_says() {
    let readers = "meter_provider: {readers: [\
        {periodic: {exporter: {otlp_http: {temporality_preference: delta}}}}, \
        {periodic: {exporter: {otlp_http: {temporality_preference: low_memory, \
        default_histogram_aggregation: base2_exponential_bucket_histogram}}}}]}\n";
    let options = settings(readers).metric_options;
    assert_eq!(options.temporality.value, Temporality::Delta);
    assert_eq!(options.histogram.value, HistogramAggregation::Explicit);
}

#[test]
fn samplers_are_a_tree() {
    let sampler = |text: &str| {
        let provider = "tracer_provider: {processors: [{simple: {exporter: {console: }}}], sampler: ";
        read_with(&format!("file_format: \"1.1\"\n{provider}{text}}}\n"), &[])
            .map(|settings| settings.sampler.value)
    };
    let ratio = |ratio| SamplerSettings::Ratio(Ratio::new(ratio).unwrap());
    assert_eq!(sampler("{always_on: }"), Ok(SamplerSettings::AlwaysOn));
    assert_eq!(sampler("{always_off: }"), Ok(SamplerSettings::AlwaysOff));
    assert_eq!(sampler("{trace_id_ratio_based: }"), Ok(ratio(1.0)));
    assert_eq!(sampler("{probability/development: {ratio: 0.25}}"), Ok(ratio(0.25)));
    assert_eq!(sampler("{parent_based: }"), Ok(SamplerSettings::default()));
    assert_eq!(
        sampler(
            "{parent_based: {root: {always_off: }, remote_parent_sampled: {always_off: }, remote_parent_not_sampled: \
             {always_on: }, local_parent_sampled: {trace_id_ratio_based: {ratio: 0}}, local_parent_not_sampled: \
             {parent_based: }}}"
        ),
        Ok(SamplerSettings::ParentBased(Box::new(ParentBased {
            root: SamplerSettings::AlwaysOff,
            remote_sampled: SamplerSettings::AlwaysOff,
            remote_not_sampled: SamplerSettings::AlwaysOn,
            local_sampled: ratio(0.0),
            local_not_sampled: SamplerSettings::default(),
        })))
    );
    assert_eq!(
        sampler("{composite/development: {parent_threshold: {root: {probability: {ratio: 0.5}}}}}"),
        Ok(SamplerSettings::parent_based(ratio(0.5)))
    );
    for bad in [
        "{jaeger_remote/development: {endpoint: x}}",
        "{trace_id_ratio_based: {ratio: 2}}",
        "{trace_id_ratio_based: {ratios: 1}}",
        "{composite/development: {rule_based: }}",
        "{random: }",
        "always_on",
    ] {
        assert!(sampler(bad).is_err(), "{bad}");
    }
    let deep = format!("{}{{always_on: }}{}", "{parent_based: {root: ".repeat(20), "}}".repeat(20));
    assert!(sampler(&deep).unwrap_err()[0].contains("deep"));
}

#[test]
fn variables_are_ignored_but_for_what_the_file_asks_for() {
    let settings = read_with(
        "file_format: \"1.1\"\ntracer_provider: {processors: [{batch: {exporter: {otlp_http: {endpoint: \
         \"${OTEL_EXPORTER_OTLP_ENDPOINT:-http://localhost:4318}/v1/traces\"}}}}]}\n",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_LOG_LEVEL", "debug"),
            ("OTEL_CONFIG_FILE", "otel.yaml"),
        ],
    )
    .unwrap();
    assert_eq!(settings.traces.otlp.endpoint.value, "http://c:4318/v1/traces");
    assert!(!settings.sdk_disabled.value);
    assert_eq!(settings.log_level.value, LogLevel::Info);
    assert_eq!(
        warnings(&settings),
        ["OTEL_SDK_DISABLED, OTEL_LOG_LEVEL: ignored, because otel.yaml says everything"]
    );
}

#[test]
fn the_service_detector_alone_still_reads_its_variable() {
    let detector =
        "file_format: \"1.1\"\nresource: {detection/development: {detectors: [{service: }, {host: }]}}\n";
    let named = [("OTEL_SERVICE_NAME", "named")];
    let settings = read_with(detector, &named).unwrap();
    assert_eq!(settings.service_name.value.as_deref(), Some("named"));
    let without = read_with("file_format: \"1.1\"\n", &named).unwrap();
    assert_eq!(without.service_name.value, None);
}

#[test]
fn bad_references_leave_no_partial_result() {
    assert_eq!(
        problems("disabled: ${1A}\nlog_level: ${A:?x}\nunknown: 1\n"),
        [
            "otel.yaml:2: `${1A}` is not a reference (`${NAME}`, `${env:NAME}` or `${NAME:-default}`; `$$` is a `$`)",
            "otel.yaml:3: `${A:?x}` is not a reference (`${NAME}`, `${env:NAME}` or `${NAME:-default}`; `$$` is a `$`)",
        ]
    );
}

#[test]
fn a_file_that_is_missing_or_no_yaml_stops_the_start() {
    let load = |path: &str| {
        let env = BTreeMap::from([("OTEL_CONFIG_FILE".to_owned(), path.to_owned())]);
        OtelSettings::load(&env, &[]).map(|_| ()).unwrap_err()[0].to_string()
    };
    assert!(
        load("/nonexistent/otel.yaml")
            .starts_with("OTEL_CONFIG_FILE: `/nonexistent/otel.yaml` cannot be read")
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a: [1\n").unwrap();
    assert!(load(&file.path().display().to_string()).contains(":"), "a place");
    std::fs::write(file.path(), "file_format: \"1.1\"\n").unwrap();
    let env =
        BTreeMap::from([("OTEL_EXPERIMENTAL_CONFIG_FILE".to_owned(), file.path().display().to_string())]);
    let settings = OtelSettings::load(&env, &[]).unwrap();
    assert!(
        settings.warnings[0].problem.contains("the old name of OTEL_CONFIG_FILE"),
        "{:?}",
        settings.warnings
    );
}
