//! Reads of a client: get, head and listings, and the comparison of read bytes with the bytes that
//! were put.

use std::time::Duration;

use bytes::Bytes;
use cenotaph::{ByteRange, Entry, Object, ObjectId};
use cenotaph_storage::planted::Bug;
use futures::TryStreamExt;

use super::{Client, failed};
use crate::check::{Answer, FoundObject, Listed, ReadContent, WRITE};
use crate::plan::{Span, object_id};
use crate::world::durable_state::DurableState;
use crate::world::scheduler::sleep;

/// Speed of a read.
#[derive(Clone, Copy, Default)]
pub(super) struct ReadPace {
    /// Pause between two chunks in milliseconds.
    pub(super) pause_ms: u64,
    /// `true` to drop the object after its first chunk.
    pub(super) leave: bool,
}

/// Tells the model that a read has ended, also if its client has crashed.
struct ReadGuard<'a>(&'a DurableState, usize);

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.0.state().model.stops_reading(self.1);
    }
}

impl Client {
    /// Gets an object and reads its bytes. `number` is the number of the call.
    pub(super) async fn get(
        &self,
        id: ObjectId,
        span: Span,
        pace: ReadPace,
        number: usize,
    ) -> Answer {
        let mut object = match self.engine.get(&id).range(range(span)).await {
            Ok(Some(object)) => object,
            Ok(None) => return Answer::Absent,
            Err(error) => return failed(&error),
        };
        // From here until the answer, the model reports the deletion of a blob that this read
        // needs.
        let _reading = ReadGuard(&self.durable_state, number);
        let opened = {
            let mut state = self.durable_state.state();
            state.model.reads(
                (number, self.world.epoch()),
                id.encoded().clone(),
                object.version().map_or(0, cenotaph::Version::get),
                object.range(),
            );
            state.trace.tick()
        };
        let write = write_of(&object.metadata().attributes.custom);
        let size = object.metadata().size;
        let content = self.read(&mut object, write, span, pace).await;
        Answer::Found(FoundObject {
            version: self.version(object.version()),
            etag: object
                .etag()
                .map_or_else(String::new, |etag| etag.to_string()),
            size,
            write,
            opened,
            content,
        })
    }

    /// Reads to the end and compares the bytes with those that were put.
    async fn read(
        &self,
        object: &mut Object,
        write: Option<u64>,
        span: Span,
        pace: ReadPace,
    ) -> ReadContent {
        let range = object.range();
        let size = object.metadata().size;
        // The expected range is computed from the request and not taken from the engine.
        if range != span.of(size) {
            return ReadContent::Wrong;
        }
        let mut chunks = Vec::new();
        loop {
            match object.chunk().await {
                Ok(Some(_)) if pace.leave => return ReadContent::Left,
                Ok(Some(chunk)) => chunks.push(chunk),
                Ok(None) => break,
                Err(error) => {
                    // A failed stream must keep failing. Otherwise, it looks like a complete
                    // stream.
                    return match object.chunk().await {
                        Err(again) if again.kind() == error.kind() => {
                            ReadContent::Failed(error.kind())
                        }
                        Ok(_) | Err(_) => ReadContent::Wrong,
                    };
                }
            }
            if pace.pause_ms > 0 {
                sleep(Duration::from_millis(pace.pause_ms)).await;
            }
        }
        let to_usize = |at: u64| usize::try_from(at).expect("payloads fit into memory");
        let all = write.and_then(|write| self.durable_state.state().model.content(write, size));
        match all {
            Some(all) if is_joined(&all[to_usize(range.start)..to_usize(range.end)], &chunks) => {
                ReadContent::AsPut
            }
            Some(_) | None => ReadContent::Wrong,
        }
    }

    /// Reads the metadata of an object.
    pub(super) async fn head(&self, id: ObjectId) -> Answer {
        match self.engine.head(id).await {
            Ok(Some(head)) => Answer::Found(FoundObject {
                version: self.version(head.version),
                etag: head.etag.map_or_else(String::new, |etag| etag.to_string()),
                size: head.metadata.size,
                write: write_of(&head.metadata.attributes.custom),
                opened: self.durable_state.state().trace.tick(),
                content: ReadContent::NotAsked,
            }),
            Ok(None) => Answer::Absent,
            Err(error) => failed(&error),
        }
    }

    /// Returns a version of an answer, or 0 for an object that only the fallback has.
    fn version(&self, version: Option<cenotaph::Version>) -> u64 {
        let is_surfaced = self.durable_state.is_planted(Bug::FallbackVersionSurfaced);
        version.map_or(u64::from(is_surfaced), cenotaph::Version::get)
    }

    /// Lists a page of the default namespace, or of its hot objects.
    pub(super) async fn list(&self, hot: bool, limit: usize, after: Option<u32>) -> Answer {
        let mut list = self.engine.list(if hot { "hot/" } else { "" }).limit(limit);
        if let Some(after) = after {
            list = list.start_after(object_id(after).key());
        }
        match list.await {
            Ok(page) => Answer::Listed(Listed {
                entries: page.entries.iter().filter_map(listed).collect(),
                has_next: page.next.is_some(),
            }),
            Err(error) => failed(&error),
        }
    }

    /// Lists a page that is grouped by a delimiter.
    pub(super) async fn list_groups(
        &self,
        prefix: &str,
        delimiter: char,
        limit: usize,
        after: Option<&str>,
    ) -> Answer {
        let mut list = self.engine.list(prefix).delimiter(delimiter).limit(limit);
        if let Some(after) = after {
            list = list.start_after(after);
        }
        match list.await {
            Ok(page) => {
                // The next page must start after the last entry. Otherwise, names are lost or
                // repeated.
                let last = page.entries.last().map(|entry| entry.name().to_owned());
                if page.next.is_some() && page.next != last {
                    return self.contradiction(format!(
                        "the next page does not start after the last entry: next={:?} \
                         last={last:?}",
                        page.next
                    ));
                }
                let name = |entry: &Entry| match entry {
                    Entry::Object(head) => (
                        head.id.encoded().clone(),
                        head.version.map_or(0, cenotaph::Version::get),
                    ),
                    // Prefixes have no version. No object has version 0.
                    Entry::Prefix(prefix) => (Bytes::from(format!("default\0{prefix}")), 0),
                };
                let entries = page.entries.iter().map(name).collect();
                Answer::Listed(Listed {
                    entries,
                    has_next: page.next.is_some(),
                })
            }
            Err(error) => failed(&error),
        }
    }

    /// Lists the default namespace as a stream of small pages.
    pub(super) async fn list_all(&self) -> Answer {
        match self
            .engine
            .list("")
            // Small pages, so that other writes run between them.
            .limit(3)
            .stream()
            .try_collect::<Vec<_>>()
            .await
        {
            Ok(entries) => Answer::Listed(Listed {
                entries: entries.iter().filter_map(listed).collect(),
                has_next: false,
            }),
            Err(error) => failed(&error),
        }
    }
}

/// Returns true if `all` consists of these chunks.
fn is_joined(all: &[u8], chunks: &[Bytes]) -> bool {
    let rest = chunks
        .iter()
        .try_fold(all, |rest, chunk| rest.strip_prefix(&chunk[..]));
    rest.is_some_and(<[u8]>::is_empty)
}

/// Returns the range of a span.
pub(super) fn range(span: Span) -> ByteRange {
    match span {
        Span::All => ByteRange::Full,
        Span::Between(start, end) => (start..end).into(),
        Span::From(start) => (start..).into(),
        Span::Last(bytes) => ByteRange::Last(bytes),
    }
}

/// Returns the number of the write that created an object, from its custom metadata.
pub(super) fn write_of(custom: &std::collections::BTreeMap<String, String>) -> Option<u64> {
    custom.get(WRITE).and_then(|text| text.parse().ok())
}

/// Returns the row key and version of a listed object, or `None` for a prefix.
fn listed(entry: &Entry) -> Option<(Bytes, u64)> {
    match entry {
        Entry::Object(head) => Some((
            head.id.encoded().clone(),
            head.version.map_or(0, cenotaph::Version::get),
        )),
        Entry::Prefix(_) => None,
    }
}
