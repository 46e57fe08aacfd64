//! Buffers of reads, used again: [`BufferPool`].
//!
//! A new buffer of 256 KiB costs about as much as the copy out of the page cache, because the system
//! clears each of its pages. A buffer returns to the pool when the last part of its value is
//! dropped.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of a buffer beyond a power of two, for the header and the key of an entry.
const SLACK_BYTES: usize = 4096;
/// Largest buffer that is kept, in bytes: an inline payload of 1 MiB, and its entry.
const BUFFER_BYTES_MAX: usize = 1024 * 1024 + SLACK_BYTES;
/// Maximal size of all kept buffers, in bytes.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Smallest buffer, in bytes. Smaller allocations cost little.
const BUFFER_BYTES_MIN: usize = SMALLEST + SLACK_BYTES;
const SMALLEST: usize = 16 * 1024;
/// Number of sizes, from the smallest to the largest.
const SIZES: usize = (BUFFER_BYTES_MAX / SMALLEST).ilog2() as usize + 1;

/// Buffers that wait for the next read.
#[derive(Debug, Default)]
pub(crate) struct BufferPool(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Buffers of each size.
    buffers: [Vec<Vec<u8>>; SIZES],
    bytes: usize,
}

/// Buffer of a read. Its contents are arbitrary until the read fills it.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Length of the value in the buffer, in bytes.
    length: usize,
    /// Pool of the buffer, `None` if its size is not kept.
    pool: Option<Arc<BufferPool>>,
}

impl BufferPool {
    /// Returns a buffer of this length.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        if !(BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&length) {
            return Buffer {
                bytes: vec![0; length],
                length,
                pool: None,
            };
        }
        let size = (length - SLACK_BYTES).next_power_of_two() + SLACK_BYTES;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = kept.buffers[class(size)].pop();
        if buffer.is_some() {
            kept.bytes -= size;
        }
        drop(kept);
        Buffer {
            bytes: buffer.unwrap_or_else(|| vec![0; size]),
            length,
            pool: Some(self.clone()),
        }
    }

    fn give(&self, buffer: Vec<u8>) {
        let size = buffer.len();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + size <= KEPT_BYTES_MAX {
            kept.bytes += size;
            kept.buffers[class(size)].push(buffer);
        }
    }
}

/// Returns the index of a size.
fn class(size: usize) -> usize {
    ((size - SLACK_BYTES) / SMALLEST).ilog2() as usize
}

impl Buffer {
    /// Returns the part of the buffer that the read fills.
    pub(crate) fn filled(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// Returns the filled part. The buffer returns to its pool when the last slice is dropped.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pool: &BufferPool) -> usize {
        let kept = pool.0.lock().unwrap();
        let sizes = kept.buffers.iter().flatten().map(Vec::len);
        assert_eq!(sizes.sum::<usize>(), kept.bytes);
        kept.bytes
    }

    #[test]
    fn buffer_returns_with_the_last_slice_and_is_used_again() {
        let pool = Arc::new(BufferPool::default());
        let mut buffer = pool.take(20_480);
        buffer.filled().fill(7);
        let bytes = buffer.freeze();
        let slice = bytes.slice(10..);
        drop(bytes);
        assert_eq!(kept(&pool), 0);
        assert_eq!(slice, vec![7; 20_470]);
        drop(slice);
        assert_eq!(kept(&pool), 16_384 + 4_096);
        let mut again = pool.take(20_480);
        assert_eq!(again.filled().len(), 20_480);
        assert_eq!(again.filled()[0], 7, "the same buffer");
        assert_eq!(kept(&pool), 0);
    }

    #[test]
    fn kept_buffers_are_bounded() {
        let pool = Arc::new(BufferPool::default());
        let buffers: Vec<_> = (0..20).map(|_| pool.take(1_000_000)).collect();
        drop(buffers);
        let most = kept(&pool);
        assert!(most > KEPT_BYTES_MAX - 1_100_000 && most <= KEPT_BYTES_MAX);
        drop(pool.take(BUFFER_BYTES_MAX + 1));
        drop(pool.take(BUFFER_BYTES_MIN - 1));
        assert_eq!(kept(&pool), most);
        for length in [BUFFER_BYTES_MIN, BUFFER_BYTES_MAX] {
            assert_eq!(pool.take(length).filled().len(), length);
        }
    }
}
