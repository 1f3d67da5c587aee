//! Reading from the stack's own buffer.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::link::StreamLink;

use super::budgeted;

/// What `poll_fill_buf` has shown last: a part of what is queued, by reference.
///
/// It stays queued until `consume`, so that nothing is lost if that is never called, and all other
/// ways to read see the same bytes.
#[derive(Debug, Default)]
pub(super) struct Shown(Bytes);

impl Shown {
    pub(super) fn poll_fill<'a>(
        &'a mut self,
        link: &StreamLink,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<&'a [u8]>> {
        let front = ready!(budgeted(cx, |cx| link.poll_front(cx)))?;
        self.0 = front;
        Poll::Ready(Ok(&self.0))
    }

    /// No more than was shown goes, whatever the caller says.
    pub(super) fn consume(&mut self, link: &StreamLink, amount: usize) {
        let amount = amount.min(self.0.len());
        // Let go of before, so that its memory can be used again at once.
        self.0 = Bytes::new();
        if amount > 0 {
            link.consume(amount);
        }
    }
}
