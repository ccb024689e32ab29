//! Takes messages that are too large out of a request's body, before anything buffers them.
//!
//! tonic answers such a message by ending the stream, and takes its length's worth of memory where the limit lets it.
//! This filter reads along the frame headers of gRPC (a flag byte, a 32-bit length) and puts [`OVERSIZED_MARKER`] in
//! the place of a message over the limit, so the stream goes on and the loss is counted where events are.
//!
//! Laws: how the body is cut into chunks changes nothing; what is within the limit passes untouched, and uncopied but
//! for headers that lie across chunks. A compressed message counts by its length on the wire; one that *expands* past
//! the limit is left to tonic, which ends the stream. So is broken framing.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};

use crate::shard::OVERSIZED_MARKER;

/// A flag byte and a big-endian 32-bit length.
const HEADER_BYTES: usize = 5;

/// Chunks to throw away before other tasks get their turn.
const SKIPPED_CHUNKS_PER_TURN: usize = 64;

/// The body of a request without its oversized messages.
#[derive(Debug)]
pub struct WithoutOversized<B> {
    body: B,
    filter: Filter,
    ready: VecDeque<Bytes>,
    /// Trailers that came before what was held back had gone out.
    trailers: Option<Frame<Bytes>>,
}

impl<B> WithoutOversized<B> {
    /// Filters `body`, whose messages may have `max_message_bytes`.
    pub fn new(body: B, max_message_bytes: u32) -> Self {
        Self { body, filter: Filter::new(max_message_bytes), ready: VecDeque::new(), trailers: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for WithoutOversized<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        for _ in 0..SKIPPED_CHUNKS_PER_TURN {
            if let Some(chunk) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(trailers)));
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => this.filter.pass(chunk, &mut this.ready),
                    Err(trailers) => {
                        this.filter.finish(&mut this.ready);
                        this.trailers = Some(trailers);
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.filter.finish(&mut this.ready);
                    if this.ready.is_empty() {
                        return Poll::Ready(None);
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Where in the stream of messages the filter is.
#[derive(Debug)]
struct Filter {
    max_message_bytes: u32,
    place: Place,
    /// The beginning of a header whose rest is still to come; shorter than [`HEADER_BYTES`].
    header: BytesMut,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Header,
    /// Bytes that pass.
    Message(usize),
    /// Bytes that do not.
    Oversized(usize),
}

impl Filter {
    fn new(max_message_bytes: u32) -> Self {
        Self { max_message_bytes, place: Place::Header, header: BytesMut::new() }
    }

    /// Filters one chunk of the body.
    fn pass(&mut self, mut chunk: Bytes, out: &mut VecDeque<Bytes>) {
        // How much of the chunk's beginning passes as it is.
        let mut passing = 0;
        loop {
            let rest = &chunk[passing..];
            match self.place {
                Place::Message(left) => {
                    let length = left.min(rest.len());
                    passing += length;
                    if length < left {
                        self.place = Place::Message(left - length);
                        break;
                    }
                    self.place = Place::Header;
                }
                Place::Oversized(left) => {
                    debug_assert_eq!(passing, 0, "what passes goes out before something is skipped");
                    let length = left.min(rest.len());
                    let _skipped = chunk.split_to(length);
                    if length < left {
                        self.place = Place::Oversized(left - length);
                        break;
                    }
                    out.push_back(marker_frame());
                    self.place = Place::Header;
                }
                Place::Header if self.header.is_empty() && rest.len() >= HEADER_BYTES => {
                    self.place = self.after_header(&rest[..HEADER_BYTES]);
                    match self.place {
                        Place::Header | Place::Message(_) => passing += HEADER_BYTES,
                        Place::Oversized(_) => {
                            emit(chunk.split_to(passing), out);
                            let _header = chunk.split_to(HEADER_BYTES);
                            passing = 0;
                        }
                    }
                }
                Place::Header => {
                    emit(chunk.split_to(passing), out);
                    passing = 0;
                    let missing = (HEADER_BYTES - self.header.len()).min(chunk.len());
                    self.header.put(chunk.split_to(missing));
                    if self.header.len() < HEADER_BYTES {
                        break;
                    }
                    let header = self.header.split().freeze();
                    self.place = self.after_header(&header);
                    match self.place {
                        Place::Header | Place::Message(_) => out.push_back(header),
                        Place::Oversized(_) => {}
                    }
                }
            }
        }
        emit(chunk, out);
    }

    /// At the end of the body: lets a header that is incomplete pass, so that tonic judges the stream as it came.
    fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        emit(self.header.split().freeze(), out);
    }

    /// What follows a complete header. A flag that gRPC does not know passes, for tonic to refuse.
    fn after_header(&self, header: &[u8]) -> Place {
        let [flag, length @ ..] = header else { return Place::Header };
        let length = length.iter().fold(0, |length, byte| length << 8 | u32::from(*byte));
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if *flag <= 1 && length > self.max_message_bytes {
            Place::Oversized(bytes)
        } else {
            Place::Message(bytes)
        }
    }
}

fn emit(chunk: Bytes, out: &mut VecDeque<Bytes>) {
    if !chunk.is_empty() {
        out.push_back(chunk);
    }
}

/// The marker as an uncompressed message.
fn marker_frame() -> Bytes {
    let length = u32::try_from(OVERSIZED_MARKER.len()).expect("the marker is short");
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + OVERSIZED_MARKER.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(OVERSIZED_MARKER);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u32 = 100;

    #[test]
    fn messages_within_the_limit_pass_untouched() {
        let body = [message(0, 0), message(1, 100), message(0, 7)].concat();
        assert_eq!(filtered(&[&body]), body);
    }

    #[test]
    fn a_message_over_the_limit_becomes_a_marker() {
        let body = [message(0, 3), message(0, 101), message(0, 4), message(1, 5000), message(0, 5)].concat();
        let expected =
            [message(0, 3), marker_frame().to_vec(), message(0, 4), marker_frame().to_vec(), message(0, 5)]
                .concat();
        assert_eq!(filtered(&[&body]), expected);
    }

    #[test]
    fn a_message_within_the_limit_is_not_copied() {
        let chunk = Bytes::from([message(0, 50), message(0, 60)].concat());
        let mut out = VecDeque::new();

        Filter::new(LIMIT).pass(chunk.clone(), &mut out);

        assert_eq!(out.len(), 1);
        assert_eq!(out[0].as_ptr(), chunk.as_ptr());
        assert_eq!(out[0], chunk);
    }

    #[test]
    fn a_message_that_never_ends_gives_no_marker() {
        let body = message(0, 5000);
        assert_eq!(filtered(&[&body[..4000]]), b"");
    }

    #[test]
    fn a_torn_header_at_the_end_passes() {
        assert_eq!(filtered(&[b"\0\0", b"\0"]), b"\0\0\0");
    }

    #[test]
    fn an_unknown_flag_passes_whatever_the_length() {
        let body = message(7, 300);
        assert_eq!(filtered(&[&body]), body);
    }

    #[test]
    fn trailers_come_after_what_was_held_back() {
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0"))),
            Ok(Frame::trailers(http::HeaderMap::new())),
        ];
        let body = WithoutOversized::new(StreamBody::new(tokio_stream::iter(frames)), LIMIT);

        let collected = block_on(body.collect()).unwrap();

        assert!(collected.trailers().is_some());
        assert_eq!(collected.to_bytes(), b"\0\0".as_slice());
    }

    #[test]
    fn skipping_much_lets_others_have_their_turn() {
        let huge = message(0, 1_000_000);
        let chunks: Vec<&[u8]> = huge.chunks(100).collect();
        assert_eq!(filtered(&chunks), marker_frame());
    }

    proptest! {
        /// How the body is cut into chunks changes nothing.
        #[test]
        fn chunking_changes_nothing(
            messages in vec((0..=2_u8, 0..300_usize), 0..6),
            cuts in vec(any::<prop::sample::Index>(), 0..12),
            end in any::<prop::sample::Index>(),
        ) {
            let body: Vec<u8> = messages.iter().flat_map(|(flag, length)| message(*flag, *length)).collect();
            let body = &body[..end.index(body.len() + 1)];
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&body[from..cut]);
                from = cut;
            }
            chunks.push(&body[from..]);

            prop_assert_eq!(filtered(&chunks), filtered(&[body]));
        }

        /// Whole messages come out as they are, or as a marker, by their length alone.
        #[test]
        fn each_message_is_judged_by_its_length(messages in vec((0..=1_u8, 0..300_usize), 0..10)) {
            let body: Vec<u8> = messages.iter().flat_map(|(flag, length)| message(*flag, *length)).collect();
            let expected: Vec<u8> = messages
                .iter()
                .flat_map(|(flag, length)| {
                    if *length > LIMIT as usize { marker_frame().to_vec() } else { message(*flag, *length) }
                })
                .collect();
            prop_assert_eq!(filtered(&[&body]), expected);
        }
    }

    fn filtered(chunks: &[&[u8]]) -> Vec<u8> {
        let frames: Vec<Result<Frame<Bytes>, Infallible>> =
            chunks.iter().map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let body = WithoutOversized::new(StreamBody::new(tokio_stream::iter(frames)), LIMIT);
        block_on(body.collect()).unwrap().to_bytes().to_vec()
    }

    fn message(flag: u8, length: usize) -> Vec<u8> {
        let mut message = vec![flag];
        message.extend(u32::try_from(length).unwrap().to_be_bytes());
        message.extend((0..length).map(|index| index as u8));
        message
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
}
