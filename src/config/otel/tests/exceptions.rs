//! What becomes of a span's exceptions.

use super::*;

#[test]
fn exceptions_become_records_where_that_is_opted_into() {
    let signal = |value: &str| {
        let settings = read(&[("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", value)]);
        let unknown = settings.warnings.iter().filter(|warning| warning.problem.contains("not one of"));
        (settings.exception_signal.value, unknown.count())
    };
    assert_eq!(signal(""), (ExceptionSignal::SpanEvent, 0));
    assert_eq!(signal("logs"), (ExceptionSignal::Record, 0));
    assert_eq!(signal("LOGS/dup , logs"), (ExceptionSignal::Both, 0));
    assert_eq!(signal("logs,http"), (ExceptionSignal::Record, 1));
    assert_eq!(signal("events"), (ExceptionSignal::SpanEvent, 1), "as if unset");
}
