//! [`Engine::usage`]: counts of objects and bytes, from a scan of all rows.

use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::{Row, RowBody};
use cenotaph_storage::{Result, Timestamp};

use crate::engine::Engine;

/// Rows per read of the index.
const PAGE: usize = 1000;

/// Numbers of objects and bytes in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of objects in both tiers.
    pub objects: u64,
    /// Number of objects whose bytes are in the index.
    pub inline_objects: u64,
    /// Payload bytes in the index.
    pub inline_bytes: u64,
    /// Number of objects whose bytes are in the blob tier.
    pub blob_objects: u64,
    /// Payload bytes in the blob tier, without the parts of open uploads.
    pub blob_bytes: u64,
    /// Number of expired objects that are not yet removed. No other field counts them.
    pub expired: u64,
    /// Number of ranges of rows that can't be read because a file of the index is damaged. No field
    /// counts their objects. A [scrub](Engine::scrub) names the ranges.
    pub unreadable_ranges: u64,
    /// Time of the least recent last write among all objects.
    pub oldest: Option<Timestamp>,
}

impl Usage {
    fn add(&mut self, row: &Row, now: Timestamp) {
        // An expired row remains in the index until its removal, but no read sees its object.
        if !row.is_live(now) {
            self.expired += 1;
            return;
        }
        self.objects += 1;
        let modified = row.metadata.modified;
        self.oldest = Some(self.oldest.map_or(modified, |oldest| oldest.min(modified)));
        // A damaged row may have any size.
        match &row.body {
            RowBody::Embedded(_) | RowBody::Separate(_) => {
                self.inline_objects += 1;
                self.inline_bytes = self.inline_bytes.saturating_add(row.metadata.size);
            }
            RowBody::Tombstone(_) => {
                self.blob_objects += 1;
                self.blob_bytes = self.blob_bytes.saturating_add(row.metadata.size);
            }
        }
    }
}

impl Engine {
    /// Counts the objects and bytes of all namespaces.
    ///
    /// The call scans all rows page by page: the time is proportional to the number of objects, and
    /// the memory is small. Concurrent writes may be counted or not. The parts of open uploads
    /// occupy the blob tier but are not counted; [`stats`](Self::stats) contains the number of open
    /// uploads.
    ///
    /// # Errors
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): the index can't be read.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): a row can't be decoded.
    /// - [`Closed`](crate::ErrorKind::Closed).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("small", "four").await?;
    /// engine.put("large", vec![7u8; 3_000_000]).await?;
    /// let usage = engine.usage().await?;
    /// assert_eq!((usage.objects, usage.inline_bytes, usage.blob_bytes), (2, 4, 3_000_000));
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn usage(&self) -> Result<Usage> {
        self.check_open("usage")?;
        let mut usage = Usage::default();
        let mut range = Range::all(PAGE);
        let now = self.env().steady_now();
        loop {
            // A new snapshot for each page: a long-lived snapshot keeps deleted data on disk.
            let page = self
                .index()
                .snapshot()?
                .scan_over(Table::Rows, range)
                .await?;
            for (_, value) in &page.entries {
                usage.add(&Row::decode(value)?, now);
            }
            if let Some(range) = page.unreadable {
                tracing::error!(%range, "objects not counted: their rows can't be read");
                usage.unreadable_ranges += 1;
            }
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok(usage),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph_storage::records::{Attributes, Metadata};
    use cenotaph_storage::{OperationId, Version};

    #[test]
    fn sizes_of_damaged_rows_do_not_overflow() {
        let operation = OperationId::from_slice(&[7; 16]).unwrap();
        let row = Row {
            version: Version::new(1),
            operation,
            metadata: Metadata {
                size: u64::MAX,
                checksum: None,
                created: Timestamp::from_millis(1),
                modified: Timestamp::from_millis(1),
                expires_at: None,
                attributes: Attributes::default(),
            },
            body: RowBody::Separate(operation),
        };
        let mut usage = Usage::default();
        for _ in 0..2 {
            let row = Row::decode(&row.encode()).unwrap();
            usage.add(&row, Timestamp::from_millis(2));
        }
        assert_eq!((usage.objects, usage.inline_bytes), (2, u64::MAX));
    }
}
