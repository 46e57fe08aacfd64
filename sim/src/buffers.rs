//! Reuse of large buffers. An allocator returns a large buffer to the system and fetches zeroed
//! pages for the next one, which takes longer than filling it.

use std::cell::RefCell;

use bytes::Bytes;

/// Capacity from which a buffer is used again, in bytes.
const LARGE: usize = 256 * 1024;
/// Maximum number of unused buffers of a thread.
const UNUSED_MAX: usize = 16;

thread_local! {
    static UNUSED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Returns an empty buffer for this number of bytes.
pub(crate) fn buffer(bytes: usize) -> Vec<u8> {
    if bytes < LARGE {
        return Vec::with_capacity(bytes);
    }
    let unused = UNUSED.with_borrow_mut(|unused| {
        let fitting = (0..unused.len()).filter(|&at| unused[at].capacity() >= bytes);
        let smallest = fitting.min_by_key(|&at| unused[at].capacity());
        smallest.map(|at| unused.swap_remove(at))
    });
    // Few sizes, so that a buffer fits again.
    unused.unwrap_or_else(|| Vec::with_capacity(bytes.next_multiple_of(2 * LARGE)))
}

/// Returns the content of a buffer. The end of its last clone makes the buffer unused.
pub(crate) fn content(buffer: Vec<u8>) -> Bytes {
    if buffer.capacity() < LARGE {
        return buffer.into();
    }
    Bytes::from_owner(Large(buffer))
}

/// A large buffer in use.
struct Large(Vec<u8>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        // A thread that ends keeps no buffers.
        let _ = UNUSED.try_with(|unused| {
            let mut unused = unused.borrow_mut();
            if unused.len() < UNUSED_MAX {
                unused.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffer_is_used_again_after_its_last_clone() {
        let mut first = buffer(LARGE);
        first.extend_from_slice(b"first");
        let at = first.as_ptr();
        let whole = content(first);
        let part = whole.slice(1..);
        drop(whole);
        let other = buffer(LARGE);
        assert_ne!(other.as_ptr(), at);
        assert_eq!(part, "irst");
        drop(part);
        let second = buffer(LARGE);
        assert_eq!((second.as_ptr(), second.len()), (at, 0));
    }

    #[test]
    fn small_buffer_is_an_allocation_of_its_own() {
        let mut small = buffer(3);
        small.extend_from_slice(b"abc");
        assert_eq!(content(small), "abc");
    }
}
