//! [`Usage`]: what is stored, counted by looking at every row.

use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::rows::{Body, Row};
use cenotaph_storage::{Result, Timestamp};

use crate::engine::Engine;

/// Rows per read of the index.
const PAGE: usize = 1000;

/// What is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Objects, in both tiers.
    pub objects: u64,
    /// Objects whose bytes lie in the index.
    pub inline_objects: u64,
    /// Their payload bytes.
    pub inline_bytes: u64,
    /// Objects whose bytes lie in the blob tier.
    pub blob_objects: u64,
    /// Their payload bytes; those of open uploads are not among them.
    pub blob_bytes: u64,
    /// Objects that have expired and are not removed yet. They count as nothing else.
    pub expired: u64,
    /// Ranges of rows that could not be read, for a file of the index is damaged. The objects in
    /// them count as nothing. A [scrub](Engine::scrub) names the ranges.
    pub unreadable_ranges: u64,
    /// When the object was written last that has not been written for the longest time.
    pub oldest: Option<Timestamp>,
}

impl Usage {
    fn add(&mut self, row: &Row, now: Timestamp) {
        if !row.is_live(now) {
            self.expired += 1;
            return;
        }
        self.objects += 1;
        let modified = row.metadata.modified;
        self.oldest = Some(self.oldest.map_or(modified, |oldest| oldest.min(modified)));
        match &row.body {
            Body::Embedded(_) | Body::Separate(_) => {
                self.inline_objects += 1;
                self.inline_bytes += row.metadata.size;
            }
            Body::Tombstone(_) => {
                self.blob_objects += 1;
                self.blob_bytes += row.metadata.size;
            }
        }
    }
}

impl Engine {
    /// Counts objects and bytes of all namespaces by looking at every row, a page at a time: it
    /// costs time in proportion to the objects, and little memory. What is written meanwhile may be
    /// counted or not. The parts of open uploads are no object's bytes and are not counted, though
    /// the blob tier holds them: [`stats`](Self::stats) tells how many uploads are open.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the index can't be read,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a row can't be decoded,
    /// [`Closed`](crate::ErrorKind::Closed).
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
        let (mut usage, mut range, now) =
            (Usage::default(), Range::all(PAGE), self.env().steady_now());
        loop {
            let page = self
                .index()
                .snapshot()?
                .scan_over(Table::Rows, range)
                .await?;
            for (_, value) in &page.entries {
                usage.add(&Row::decode(value)?, now);
            }
            if let Some(range) = page.unreadable {
                tracing::error!(%range, "objects are not counted");
                usage.unreadable_ranges += 1;
            }
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok(usage),
            }
        }
    }
}
