//! Resources that all segments of a payload log share: open files and buffers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::buffers::BufferPool;
use super::segment::Segment;

/// Maximal number of segments that are open for reads at once.
const OPEN_MAX: usize = 256;

/// Segments with an open file, in the order in which the files were opened, and buffers.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    opened: Mutex<VecDeque<Weak<Segment>>>,
    /// Buffers of the reads of all segments.
    pub(super) buffers: Arc<BufferPool>,
}

impl OpenFiles {
    /// Records an opened segment, and closes the one that was opened first if too many are open.
    pub(super) fn opened(&self, segment: &Arc<Segment>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push_back(Arc::downgrade(segment));
        let first = if opened.len() > OPEN_MAX {
            opened.pop_front()
        } else {
            None
        };
        // A file is closed without the lock, because the close may take time.
        drop(opened);
        if let Some(segment) = first.and_then(|first| first.upgrade()) {
            segment.close();
        }
    }
}
