//! Making what the peer says, right or wrong.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::Status;

use super::{ERROR_WORDS, ErrorBody, Transport};

/// What hyper sends.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Larger than the 4 MiB that the specification lets a client read.
const HUGE_BYTES: usize = 5 << 20;

/// Between two bytes of a dripping answer.
const DRIP_INTERVAL: Duration = Duration::from_millis(20);

/// What an answer is made of besides its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub(super) transport: Transport,
    pub(super) is_json: bool,
    /// In JSON, partial successes are called differently for each signal.
    pub(super) rejected_field: &'static str,
}

impl Dialect {
    /// Success, with some rejected.
    pub(super) fn success(self, rejected: i64, message: &str) -> Response<Body> {
        let has_partial = rejected != 0 || !message.is_empty();
        if self.is_json {
            let partial =
                serde_json::json!({self.rejected_field: rejected.to_string(), "errorMessage": message});
            let answer = if has_partial {
                serde_json::json!({ "partialSuccess": partial })
            } else {
                serde_json::json!({})
            };
            return self.whole(answer.to_string().into());
        }
        // All three signals' answers are alike on the wire.
        let partial =
            ExportTracePartialSuccess { rejected_spans: rejected, error_message: message.to_owned() };
        let answer = ExportTraceServiceResponse { partial_success: has_partial.then_some(partial) };
        self.whole(answer.encode_to_vec().into())
    }

    /// Success, in bytes that are none of OTLP's.
    pub(super) fn garbage(self) -> Response<Body> {
        self.whole(Bytes::from_static(b"<html>\xff\xfe It works!</html>"))
    }

    /// Success, in more bytes than a client may read.
    pub(super) fn huge(self) -> Response<Body> {
        self.success(0, &"x".repeat(HUGE_BYTES))
    }

    /// Success without an end, as fast as it is read.
    pub(super) fn endless(self) -> Response<Body> {
        let chunk = match self.transport {
            // Small messages, one after the other: none is too large.
            Transport::Grpc => framed(&[0; 0]).repeat(1000),
            Transport::Http => vec![b'x'; 16 << 10],
        };
        let chunk = Bytes::from(chunk);
        self.streaming(tokio_stream::iter(std::iter::repeat_with(move || Ok(Frame::data(chunk.clone())))))
    }

    /// The beginning of a success, then a byte now and then.
    pub(super) fn drip(self) -> Response<Body> {
        let head = match self.transport {
            Transport::Grpc => Bytes::from_static(&[0, 0, 1, 0, 0]),
            Transport::Http => Bytes::new(),
        };
        let bytes = tokio_stream::iter(std::iter::repeat_with(|| Bytes::from_static(b"\x12")))
            .throttle(DRIP_INTERVAL);
        self.streaming(tokio_stream::once(head).chain(bytes).map(|bytes| Ok(Frame::data(bytes))))
    }

    /// The beginning of a success, and no more.
    pub(super) fn beginning(self) -> Response<Body> {
        let beginning = Full::new(Bytes::from_static(&[0, 0, 0, 0, 9, 1]));
        self.response(beginning.with_trailers(pending()).boxed_unsync())
    }

    fn whole(self, body: Bytes) -> Response<Body> {
        match self.transport {
            Transport::Http => self.response(Full::new(body).boxed_unsync()),
            Transport::Grpc => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let body = Full::new(Bytes::from(framed(&body)));
                self.response(body.with_trailers(async { Some(Ok(trailers)) }).boxed_unsync())
            }
        }
    }

    fn streaming(
        self,
        frames: impl tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
    ) -> Response<Body> {
        self.response(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }

    fn response(self, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        let content_type = match (self.transport, self.is_json) {
            (Transport::Grpc, _) => "application/grpc",
            (Transport::Http, true) => "application/json",
            (Transport::Http, false) => "application/x-protobuf",
        };
        response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
        response
    }
}

/// A gRPC error, in trailers only.
pub(super) fn grpc_error(status: Status) -> Response<Body> {
    status.into_http::<Full<Bytes>>().map(BodyExt::boxed_unsync)
}

/// An HTTP error.
pub(super) fn http_error(status: u16, retry_after: Option<&str>, body: ErrorBody) -> Response<Body> {
    let words = tonic_types::pb::Status { code: 3, message: ERROR_WORDS.to_owned(), details: Vec::new() };
    let (content_type, body) = match body {
        ErrorBody::Empty => ("text/plain", Bytes::new()),
        ErrorBody::Text => ("text/plain", Bytes::from_static(ERROR_WORDS.as_bytes())),
        ErrorBody::StatusProtobuf => ("application/x-protobuf", words.encode_to_vec().into()),
        ErrorBody::StatusJson => {
            let json = serde_json::json!({"code": 3, "message": ERROR_WORDS});
            ("application/json", json.to_string().into())
        }
        ErrorBody::Huge => ("text/plain", ERROR_WORDS.repeat(1 << 20).into()),
    };
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    if let Some(retry_after) = retry_after {
        let value = HeaderValue::from_str(retry_after).expect("a header's value");
        response.headers_mut().insert("retry-after", value);
    }
    response
}

/// An uncompressed gRPC message.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("short"));
    bytes.put_slice(message);
    bytes.to_vec()
}
