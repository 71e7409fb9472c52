//! Byte ranges: the request header, and the body that sends a part of an open file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::deploy::runtime;

/// What a `Range` header asks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The whole file: there is no header, or one that we do not know and may ignore.
    Whole,
    /// One part.
    Part(Range<u64>),
    /// A part that the file does not have.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes. Source: RFC 9110 s14.1.2.
///
/// A list of ranges is ignored, which the RFC allows: the whole file is the answer. A part is never
/// empty and lies in the file.
#[must_use]
pub fn parse(header: Option<&str>, size: u64) -> Asked {
    let Some(spec) = header.and_then(|header| header.strip_prefix("bytes=")) else {
        return Asked::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Asked::Whole;
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        _ => return Asked::Whole,
    };
    if range.is_empty() {
        Asked::Unsatisfiable
    } else {
        Asked::Part(range)
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// An open file and its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open<'a> {
    pub(crate) file: &'a Arc<File>,
    pub(crate) size: u64,
}

/// Answers a request for a file or a part of it, as soon as one of `ranges` is free; tells also how
/// many bytes the answer has.
pub(crate) async fn answer(
    open: Open<'_>,
    headers: &HeaderMap,
    ranges: &Arc<Semaphore>,
) -> (Response, u64) {
    let size = open.size;
    let asked = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let (status, part) = match parse(asked, size) {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Asked::Unsatisfiable => {
            let size = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return ((StatusCode::RANGE_NOT_SATISFIABLE, size).into_response(), 0);
        }
    };
    let Ok(permit) = Arc::clone(ranges).acquire_owned().await else {
        let ending = (StatusCode::SERVICE_UNAVAILABLE, "The head is ending");
        return (ending.into_response(), 0);
    };
    let len = part.end - part.start;
    let mut response = (
        status,
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::CONTENT_LENGTH, len.to_string()),
        ],
    )
        .into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        if let Ok(value) = text.parse() {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    let body = RangeBody::new(Arc::clone(open.file), part, permit);
    *response.body_mut() = axum::body::Body::new(body);
    (response, len)
}

/// A part of a file as an HTTP body; two chunks are in memory at a time.
pub struct RangeBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    /// Bytes that are still to come.
    left: u64,
    /// Held as long as the answer lasts; bounds how many there are.
    _permit: OwnedSemaphorePermit,
}

impl RangeBody {
    /// Starts to read `part`, which must lie in the file; the permit is held as long as the body.
    ///
    /// # Panics
    /// Outside the tasks of a [`runtime::Runtime`].
    #[must_use]
    pub fn new(file: Arc<File>, part: Range<u64>, permit: OwnedSemaphorePermit) -> Self {
        Self {
            left: part.end - part.start,
            chunks: runtime::read_ahead(file, part),
            _permit: permit,
        }
    }
}

impl Body for RangeBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let chunk = ready!(self.chunks.poll_recv(cx));
        if let Some(Ok(chunk)) = &chunk {
            self.left -= chunk.len() as u64;
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_mean_what_the_rfc_says() {
        for (header, asked) in [
            (None, Asked::Whole),
            (Some("bytes=0-0"), Asked::Part(0..1)),
            (Some("bytes=0-99"), Asked::Part(0..100)),
            (Some("bytes=0-100"), Asked::Part(0..100)),
            (Some("bytes=99-"), Asked::Part(99..100)),
            (Some("bytes=100-"), Asked::Unsatisfiable),
            (Some("bytes=-1"), Asked::Part(99..100)),
            (Some("bytes=-500"), Asked::Part(0..100)),
            (Some("bytes=-0"), Asked::Unsatisfiable),
            (Some("bytes=5-18446744073709551615"), Asked::Part(5..100)),
            (Some("bytes=5-18446744073709551616"), Asked::Whole),
            (Some("bytes=5-4"), Asked::Whole),
            (Some("bytes=0-1,5-6"), Asked::Whole),
            (Some("bytes=+1-2"), Asked::Whole),
            (Some("bytes=-"), Asked::Whole),
            (Some("lines=1-2"), Asked::Whole),
        ] {
            assert_eq!(parse(header, 100), asked, "{header:?}");
        }
    }
}
