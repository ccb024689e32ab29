//! `check --ready`: one GET of `/readyz`, so that an image without curl has a health check.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use http::Uri;

use super::{Console, Exit};

/// For the connection, and for each read of the answer. Docker gives a check 30 s by default, Kubernetes 1 s.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of an answer that are read; a readiness has less than 100.
const MAX_ANSWER_BYTES: u64 = 8 << 10;

pub(super) fn run(url: &str, console: &mut Console<'_>) -> Exit {
    let Some((host, port, path)) = target(url) else {
        let url = url.escape_debug();
        console.complain(format_args!(
            "error: --ready: `{url}` is not an address such as `http://127.0.0.1:9464`"
        ));
        return Exit::Usage;
    };
    match ask(&host, port, &path) {
        Ok(answer) if answer.is_ready() => {
            console.answer("ready");
            Exit::Ok
        }
        Ok(answer) => {
            let body = answer.body.escape_debug();
            console.complain(format_args!("not ready: {} {body}", answer.status));
            Exit::Unavailable
        }
        Err(error) => {
            console.complain(format_args!("not ready: failed to ask {host}:{port}: {error}"));
            Exit::Unavailable
        }
    }
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn is_ready(&self) -> bool {
        self.status == 200
    }

    /// An answer of HTTP/1.x, if it is one.
    fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut words = head.split_whitespace();
        let is_http = words.next()?.starts_with("HTTP/1.");
        let status = words.next()?.parse().ok()?;
        is_http.then(|| Self { status, body: body.trim().to_owned() })
    }
}

/// Host with brackets, port and path; `/readyz` where the address names none.
fn target(url: &str) -> Option<(String, u16, String)> {
    let uri: Uri = url.parse().ok()?;
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let path = match uri.path() {
        "" | "/" => "/readyz",
        path => path,
    };
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(80), path.to_owned()))
}

fn ask(host: &str, port: u16, path: &str) -> io::Result<Answer> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in (host.trim_start_matches('[').trim_end_matches(']'), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return converse(stream, &format!("{host}:{port}"), path),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn converse(mut stream: TcpStream, authority: &str, path: &str) -> io::Result<Answer> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
    Answer::parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_path() {
        let expected = |host: &str, port, path: &str| Some((host.to_owned(), port, path.to_owned()));
        assert_eq!(target("http://127.0.0.1:9464"), expected("127.0.0.1", 9464, "/readyz"));
        assert_eq!(target("http://[::1]:1/healthz"), expected("[::1]", 1, "/healthz"));
        assert_eq!(target("http://bridge/"), expected("bridge", 80, "/readyz"));
        for bad in ["", "127.0.0.1:9464", "https://a:1", "/readyz", "http://a b"] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }
}
