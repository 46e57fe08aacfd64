//! Cuts a sequence of chunks of any size into blocks, for the writer and the reader of a blob.

use bytes::{Bytes, BytesMut};

use crate::types::BLOCK_BYTES;

/// Assembler of blocks of [`BLOCK_BYTES`]. Buffers less than a block.
#[derive(Default)]
pub(super) struct Assembly {
    partial: BytesMut,
}

impl Assembly {
    /// Takes bytes from the front of `chunk` and returns the next whole block. Returns `None` if
    /// `chunk` is used up before a block is whole.
    pub(super) fn take(&mut self, chunk: &mut Bytes) -> Option<Bytes> {
        // A block that is in a single chunk is split off without a copy.
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

    /// Returns the last, short block, or `None` if no bytes are buffered.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }

    /// Returns the number of buffered bytes.
    pub(super) fn bytes(&self) -> usize {
        self.partial.len()
    }
}
