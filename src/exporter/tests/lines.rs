//! To standard output and to files, as lines.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde_json::Value;

use super::Running;
use crate::exporter::lines::{Format, LineSink};
use crate::exporter::retry::Outcome;
use crate::exporter::settings::FileTarget;
use crate::exporter::signal::Signal;
use crate::exporter::testing::{plain_span, span};
use crate::exporter::{Destination, ExporterSettings};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, TracesData};

fn request(name: &str) -> Bytes {
    let scope_spans = vec![ScopeSpans { spans: vec![plain_span(&span(name))], ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    TracesData { resource_spans }.encode_to_vec().into()
}

fn sink(path: &Path) -> LineSink {
    LineSink::new(Format::Json(Signal::Traces), FileTarget::Path(path.to_owned()))
}

fn names(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).map_or_else(|_| line.to_owned(), |line| name(&line)))
        .collect()
}

fn name(line: &TracesData) -> String {
    line.resource_spans[0].scope_spans[0].spans[0].name.clone()
}

fn taken() -> Outcome {
    Outcome::Accepted { rejected_items: 0, message: String::new() }
}

#[tokio::test]
async fn a_request_is_a_line_of_a_file_for_the_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("traces.jsonl");
    let mut settings = ExporterSettings::new(Destination::File(FileTarget::Path(path.clone())));
    settings.batch.delay = Duration::ZERO;
    let exporter = Running::start(settings);
    exporter.export(&["a"]);
    exporter.until(|snapshot| snapshot.exported == 1).await;
    exporter.export(&["b"]);
    assert_eq!(exporter.finish().await.exported, 2);
    assert_eq!(names(&path), ["a", "b"]);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"], "0202020202020202");
}

#[tokio::test]
async fn a_line_that_was_left_unfinished_ends_before_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("traces.jsonl");
    std::fs::write(&path, "half of a li").unwrap();
    let sink = sink(&path);
    assert_eq!(sink.send(&request("a")).await, taken());
    assert_eq!(sink.send(&request("b")).await, taken());
    assert_eq!(names(&path), ["half of a li", "a", "b"]);
}

#[tokio::test]
async fn a_file_that_was_renamed_away_gets_no_more_lines() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("traces.jsonl"), folder.path().join("traces.1.jsonl"));
    let sink = sink(&path);
    sink.send(&request("a")).await;
    std::fs::rename(&path, &old).unwrap();
    sink.send(&request("b")).await;
    assert_eq!((names(&old), names(&path)), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("not-there-yet");
    let sink = sink(&place.join("traces.jsonl"));
    let Outcome::Retry { delay: None, error } = sink.send(&request("a")).await else { panic!() };
    assert!(error.contains("not-there-yet/traces.jsonl: No such file"), "{error}");
    std::fs::create_dir(&place).unwrap();
    assert_eq!(sink.send(&request("a")).await, taken());
    assert_eq!(names(&place.join("traces.jsonl")), ["a"]);
}

#[tokio::test]
async fn a_full_disk_is_tried_again() {
    let sink = sink(Path::new("/dev/full"));
    let Outcome::Retry { error, .. } = sink.send(&request("a")).await else { panic!() };
    assert!(error.contains("No space left"), "{error}");
}

/// A pipe that nobody reads holds the write up past its request's time; the request comes again, twice, and another one
/// in between. Every line is written once.
#[tokio::test]
async fn a_request_that_comes_again_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let sink = sink(&path);
    let brief = Duration::from_millis(50);
    for _ in 0..3 {
        for name in ["a", "b"] {
            assert!(tokio::time::timeout(brief, sink.send(&request(name))).await.is_err());
        }
    }
    let reader = std::thread::spawn(move || {
        let mut pipe = std::fs::File::open(path)?;
        let mut text = String::new();
        while text.lines().count() < 2 {
            let mut bytes = [0; 4096];
            let count = pipe.read(&mut bytes)?;
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        io::Result::Ok(text)
    });
    assert_eq!(sink.send(&request("b")).await, taken());
    assert_eq!(sink.send(&request("a")).await, taken());
    let text = reader.join().unwrap().unwrap();
    let lines: Vec<_> = text.lines().map(|line| name(&serde_json::from_str(line).unwrap())).collect();
    assert_eq!(lines, ["a", "b"]);
}
