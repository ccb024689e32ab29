//! `snakepit-otel-bridge` turns the telemetry that Snakepit's Python workers stream over gRPC into OpenTelemetry
//! traces over OTLP.
