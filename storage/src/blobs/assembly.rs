//! Cuts a sequence of chunks of any size into blocks, for the writer and the reader of a blob.

use bytes::{Bytes, BytesMut};

use crate::types::BLOCK_BYTES;

/// Assembler of blocks of [`BLOCK_BYTES`]. Buffers less than a block.
#[derive(Default)]
pub(super) struct Assembly {
    /// First chunk of a block, not copied as long as no other chunk of the block follows.
    first: Bytes,
    /// Copy of the chunks of a block, if there are several.
    partial: BytesMut,
}

impl Assembly {
    /// Takes bytes from the front of `chunk` and returns the next whole block. Returns `None` if
    /// `chunk` is used up before a block is whole.
    pub(super) fn take(&mut self, chunk: &mut Bytes) -> Option<Bytes> {
        if chunk.is_empty() {
            return None;
        }
        if self.bytes() == 0 {
            // A block that is in a single chunk is split off without a copy.
            if chunk.len() >= BLOCK_BYTES {
                return Some(chunk.split_to(BLOCK_BYTES));
            }
            self.first = std::mem::take(chunk);
            return None;
        }
        if self.partial.is_empty() {
            self.partial.reserve(BLOCK_BYTES);
            self.partial
                .extend_from_slice(&std::mem::take(&mut self.first));
        }
        let missing = BLOCK_BYTES - self.partial.len();
        self.partial
            .extend_from_slice(&chunk.split_to(missing.min(chunk.len())));
        (self.partial.len() == BLOCK_BYTES).then(|| self.partial.split().freeze())
    }

    /// Returns the last, short block, or `None` if no bytes are buffered.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        if !self.first.is_empty() {
            return Some(std::mem::take(&mut self.first));
        }
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }

    /// Returns the number of buffered bytes.
    pub(super) fn bytes(&self) -> usize {
        self.first.len() + self.partial.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the blocks of these chunks.
    fn blocks(chunks: &[Bytes]) -> Vec<Bytes> {
        let mut assembly = Assembly::default();
        let mut blocks = Vec::new();
        for chunk in chunks {
            let mut chunk = chunk.clone();
            while let Some(block) = assembly.take(&mut chunk) {
                blocks.push(block);
            }
        }
        blocks.extend(assembly.rest());
        assert_eq!(assembly.bytes(), 0);
        blocks
    }

    #[test]
    fn blocks_are_the_chunks_in_order() {
        let bytes: Vec<u8> = (0..251).cycle().take(2 * BLOCK_BYTES + 7).collect();
        for size in [
            1000,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            bytes.len(),
        ] {
            let chunks: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
            let blocks = blocks(&chunks);
            let lengths: Vec<usize> = blocks.iter().map(Bytes::len).collect();
            assert_eq!(lengths, [BLOCK_BYTES, BLOCK_BYTES, 7]);
            assert_eq!(blocks.concat(), bytes);
        }
    }

    #[test]
    fn short_blob_in_a_single_chunk_is_not_copied() {
        let chunk = Bytes::from(vec![7; 5000]);
        let blocks = blocks(&[Bytes::new(), chunk.clone(), Bytes::new()]);
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0], chunk);
        assert_eq!(blocks[0].as_ptr(), chunk.as_ptr());
    }
}
