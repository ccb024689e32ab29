//! OTLP over HTTP, as protobuf and as JSON.

use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::write::GzEncoder;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, Url, redirect};

use crate::exporter::BuildError;
use crate::exporter::answer::{Encoding, printable, read_error, read_success, with_causes};
use crate::exporter::connect::TCP_KEEPALIVE;
use crate::exporter::json;
use crate::exporter::refusal::Refusal;
use crate::exporter::retry::{Outcome, Verdict, judge_http, parse_retry_after};
use crate::exporter::settings::{Compression, MAX_RESPONSE_BYTES, OtlpSettings, Protocol, user_agent};
use crate::exporter::signal::Signal;
use crate::exporter::tls::PeerTls;
use crate::time::Now;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that nobody uses are closed before usual proxies close them.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Redirections that are followed in a row.
const MAX_REDIRECTS: usize = 3;
/// Bytes that are read of an answer that says an error.
const MAX_ERROR_BODY_BYTES: usize = 16 << 10;

/// A client of one URL.
#[derive(Debug)]
pub(crate) struct HttpSink {
    signal: Signal,
    encoding: Encoding,
    /// Replaced, its connections with it, when a request takes too long or certificates have changed.
    client: Mutex<Client>,
    url: Url,
    /// Of an `https` URL.
    tls: Option<Arc<PeerTls>>,
    headers: HeaderMap,
    compression: Compression,
}

impl HttpSink {
    /// A client that connects when it first sends.
    ///
    /// # Errors
    /// If the endpoint is no URL, or the files of TLS cannot be used.
    pub(crate) fn new(settings: &OtlpSettings) -> Result<Self, BuildError> {
        let url = Url::parse(&settings.endpoint).map_err(|error| BuildError::Endpoint {
            endpoint: settings.endpoint.clone(),
            origin: settings.endpoint_origin.clone(),
            reason: error.to_string(),
        })?;
        let tls = match url.scheme() {
            "https" => Some(Arc::new(PeerTls::new(&settings.tls, &[])?)),
            _ => None,
        };
        let (encoding, content_type) = match settings.protocol {
            Protocol::HttpJson => (Encoding::Json, JSON),
            Protocol::HttpProtobuf | Protocol::Grpc => (Encoding::Protobuf, PROTOBUF),
        };
        let mut headers = settings.headers.as_map().clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(ACCEPT, HeaderValue::from_static(content_type));
        match settings.compression {
            Compression::None => {}
            Compression::Gzip => drop(headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"))),
            Compression::Zstd => drop(headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"))),
        }
        Ok(Self {
            signal: settings.signal,
            encoding,
            client: Mutex::new(client(&url, tls.as_deref())?),
            url,
            tls,
            headers,
            compression: settings.compression,
        })
    }

    /// Sends one request. `now` tells the time, also when a `Retry-After` date must be turned into a delay.
    pub(crate) async fn send(&self, body: Bytes, now: impl Fn() -> Now + Send) -> Outcome {
        if let Some(tls) = &self.tls
            && tls.refresh(now().mono).await
        {
            self.reconnect();
        }
        let body = match self.encoding {
            Encoding::Protobuf => body,
            Encoding::Json => match json::transcode(self.signal, &body) {
                Ok(json) => json,
                Err(error) => {
                    return Outcome::Refused { refusal: Refusal::Internal, error: error.to_string() };
                }
            },
        };
        let body = match self.compression {
            Compression::None => body,
            Compression::Gzip => gzip(&body),
            Compression::Zstd => zstd::bulk::compress(&body, 0).map(Bytes::from).expect("memory grows"),
        };
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        match request.send().await {
            Ok(response) => self.read_answer(response, now).await,
            Err(error) => Outcome::Retry { delay: None, error: with_causes(&error.without_url()) },
        }
    }

    /// Leaves the connections to the requests that are on them, and makes new ones for the next.
    pub(crate) fn reconnect(&self) {
        match client(&self.url, self.tls.as_deref()) {
            Ok(client) => *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client,
            // The old one was made of the same parts.
            Err(error) => tracing::warn!("failed to {error}; the connections stay"),
        }
    }

    async fn read_answer(&self, response: Response, now: impl Fn() -> Now + Send) -> Outcome {
        let status = response.status();
        let verdict = judge_http(status.as_u16());
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| parse_retry_after(value, now().wall))
            .filter(|delay| !delay.is_zero());
        match verdict {
            Verdict::Accepted => {
                let encoding = encoding_of(&response).unwrap_or(self.encoding);
                match read_body(response, MAX_RESPONSE_BYTES).await {
                    Ok(Body::Whole(body)) => read_success(self.signal, encoding, &body),
                    Ok(Body::Cut(_)) => Outcome::Refused {
                        refusal: Refusal::ResponseTooLarge,
                        error: format!("{status}, but the answer exceeds {MAX_RESPONSE_BYTES} bytes"),
                    },
                    // The status was success: sending again would double the spans.
                    Err(error) => Outcome::Accepted {
                        rejected_items: 0,
                        message: format!("the answer broke off: {}", with_causes(&error)),
                    },
                }
            }
            Verdict::Retry => Outcome::Retry { delay: retry_after, error: read_refusal(response).await },
            Verdict::Refused(refusal) => Outcome::Refused { refusal, error: read_refusal(response).await },
        }
    }
}

fn client(url: &Url, tls: Option<&PeerTls>) -> Result<Client, BuildError> {
    let mut client = Client::builder()
        .user_agent(user_agent())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(TCP_KEEPALIVE)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .redirect(redirect::Policy::custom(follow_on_the_same_host));
    client = match tls {
        Some(tls) => client.tls_backend_preconfigured(tls.config().as_ref().clone()),
        // Redirections stay there, so the machine's certificates would only take memory; and where a small image has
        // none, the client could not be made.
        None => client.tls_certs_only([]),
    };
    if is_this_machine(url) {
        // HTTP_PROXY means the world outside, as Go's exporters and the Collector read it.
        client = client.no_proxy();
    }
    client.build().map_err(|error| BuildError::Client { reason: with_causes(&error) })
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The specification leaves redirections open. These two keep method and body; another host would be a surprise, and
/// would be sent the headers' secrets.
fn follow_on_the_same_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let keeps_body = matches!(attempt.status().as_u16(), 307 | 308);
    let same_origin = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
    if keeps_body && same_origin && attempt.previous().len() <= MAX_REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// By the answer's own word; nothing where it is neither.
fn encoding_of(response: &Response) -> Option<Encoding> {
    let content_type = response.headers().get(CONTENT_TYPE)?.as_bytes();
    let is = |name: &str| content_type.starts_with(name.as_bytes());
    if is(PROTOBUF) {
        Some(Encoding::Protobuf)
    } else if is(JSON) {
        Some(Encoding::Json)
    } else {
        None
    }
}

/// The status, and what the body says about it.
async fn read_refusal(response: Response) -> String {
    let status = response.status();
    let encoding = encoding_of(&response);
    let message = match read_body(response, MAX_ERROR_BODY_BYTES).await {
        Ok(Body::Whole(body)) => read_error(encoding, &body),
        Ok(Body::Cut(body)) => read_error(None, &body),
        // The status says enough.
        Err(_) => String::new(),
    };
    if message.is_empty() { status.to_string() } else { format!("{status}: {}", printable(&message)) }
}

/// As much of a body as may be read.
enum Body {
    Whole(Bytes),
    Cut(Bytes),
}

async fn read_body(mut response: Response, max_bytes: usize) -> Result<Body, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        let room = max_bytes - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok(Body::Cut(body.freeze()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Body::Whole(body.freeze()))
}

fn gzip(body: &[u8]) -> Bytes {
    // Spans repeat themselves: a fifth of the size is usual.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .map(Bytes::from)
        .expect("writing to a vector does not fail")
}
