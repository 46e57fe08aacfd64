//! Chunks of any size in, whole blocks out: the same for what is written and what is read.
//!
//! Deliberately not here: checksums (`writer.rs` makes them, `reader.rs` verifies them).

use bytes::{Bytes, BytesMut};

use crate::checksum::BLOCK_BYTES;

/// Assembles blocks of [`BLOCK_BYTES`]. Holds less than one block.
#[derive(Default)]
pub(super) struct Assembly {
    partial: BytesMut,
}

impl Assembly {
    /// Takes bytes from the front of `chunk`; a block, as soon as there is a whole one. If there is
    /// none, `chunk` is used up.
    pub(super) fn take(&mut self, chunk: &mut Bytes) -> Option<Bytes> {
        if self.partial.is_empty() && chunk.len() >= BLOCK_BYTES {
            return Some(chunk.split_to(BLOCK_BYTES));
        }
        if chunk.is_empty() {
            return None;
        }
        if self.partial.is_empty() {
            self.partial.reserve(BLOCK_BYTES);
        }
        let missing = BLOCK_BYTES - self.partial.len();
        self.partial
            .extend_from_slice(&chunk.split_to(missing.min(chunk.len())));
        (self.partial.len() == BLOCK_BYTES).then(|| self.partial.split().freeze())
    }

    /// The last, short block; none if nothing is left over.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.partial.len()
    }
}
