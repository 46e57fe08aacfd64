//! Parts of multipart uploads: checks made when a part is stored, and of the revisions that are
//! given up.
//!
//! Named checkers: I2 (a part names a finished blob), I3 (its block checksums come and go with it),
//! I5 (a part that is given up is queued in the same batch), I6 (a stored part settles its change),
//! `sessions` (a client uploaded it).

use bytes::Bytes;
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::call::{About, Asked, Call, Called};
use super::commit_observer::Changed;
use super::format::{Landing, Part};
use super::model::Model;
use super::sessions::{Filing, UploadHistory};
use super::trailers::payload_in;
use crate::disks::blobs::StoredBlobs;
use crate::plan::Span;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

impl Model {
    /// Returns true if a part of an open upload names this revision.
    pub(super) fn is_filed(&self, revision: Uuid) -> bool {
        let filings = self.uploads.values().flat_map(|upload| &upload.filings);
        filings
            .into_iter()
            .any(|filing| filing.until.is_none() && filing.revision == revision)
    }

    /// Returns true if this is the number of a call that uploads a part.
    pub(super) fn is_part(&self, number: u64) -> bool {
        self.calls.iter().any(|called| match &called.call {
            Call::Multipart(Asked {
                what: About::Part { write, .. },
                ..
            }) => *write == number,
            _ => false,
        })
    }

    /// Checks a part that is stored: its blob is finished and holds the expected bytes, a client
    /// uploaded it, and the part that it replaces is queued.
    pub(super) fn check_part(
        &mut self,
        id: &Bytes,
        number: u16,
        part: &Part,
        batch: (&Changed, Tick),
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
    ) {
        let (changed, tick) = batch;
        let revision = part.extent.revision;
        coverage.count("upload: a part filed");
        if !changed.settles(self, revision) {
            self.violated(
                "I6",
                format!("part stored without a live change: part={number}"),
            );
        }
        if !self.payloads.contains(&revision.as_bytes()[..]) {
            self.violated(
                "I3",
                format!("part stored without its block checksums: part={number}"),
            );
        }
        // A part is checked in full: length, xxh3 of the blob, and the etag of the part.
        let whole = self.revisions.get(&revision).filter(|known| known.is_whole);
        let content = whole
            .and_then(|known| payload_in(known, blobs))
            .unwrap_or_default();
        let stored = (content.len() as u64, xxh3_64(&content), xxh3_128(&content));
        if whole.is_none() || stored != (part.extent.bytes, part.extent.checksum, part.etag) {
            self.violated(
                "I2",
                format!("part names an unfinished blob or one with other bytes: part={number}"),
            );
        }
        let Some(upload) = self.uploads.get(id) else {
            return;
        };
        let by = self.uploaders(upload, number, &content, tick);
        // Without recorded calls, as with a service under test, any client may have asked.
        let is_asked = !by.is_empty() || self.calls.is_empty() || upload.of.is_none();
        if by.iter().any(|&at| is_copy(&self.calls[at])) {
            coverage.count("upload: a part copied");
        }
        let filing = Filing {
            number,
            revision,
            etag: part.etag,
            content,
            from: tick,
            until: None,
            by,
        };
        let Some(upload) = self.uploads.get_mut(id) else {
            return;
        };
        let old = upload
            .filings
            .iter_mut()
            .find(|filing| filing.number == number && filing.until.is_none());
        let replaced = old.map(|old| {
            old.until = Some(tick);
            old.revision
        });
        upload.filings.push(filing);
        if !is_asked {
            self.violated(
                "sessions",
                format!("part stored without an upload by a client: part={number}"),
            );
        }
        if let Some(replaced) = replaced {
            coverage.count("upload: a part replaced");
            self.check_given_up(replaced, changed, "replaced part");
        }
    }

    /// Checks that a revision that nothing names any more is queued as landed and that its block
    /// checksums are removed.
    pub(super) fn check_given_up(&mut self, revision: Uuid, changed: &Changed, role: &str) {
        match changed.queued(&revision).map(|orphan| orphan.landing) {
            Some(Landing::Landed) => {}
            Some(Landing::MayLand) => {
                self.violated(
                    "I5",
                    format!("{role} is queued as one that may land: revision={revision}"),
                );
            }
            None => self.violated("I5", format!("{role} is not queued: revision={revision}")),
        }
        if self.payloads.contains(&revision.as_bytes()[..]) {
            self.violated(
                "I3",
                format!("{role} keeps its block checksums: revision={revision}"),
            );
        }
    }

    /// Returns the calls that may have stored this part at this tick.
    fn uploaders(
        &self,
        upload: &UploadHistory,
        number: u16,
        content: &Bytes,
        tick: Tick,
    ) -> Vec<usize> {
        let calls = self.calls.iter().enumerate();
        let about = calls.filter(|(_, called)| self.may_take_effect(called, upload, tick));
        let fits = |called: &Called| match &called.call {
            Call::Multipart(Asked {
                what:
                    About::Part {
                        number: of,
                        write,
                        bytes,
                        fails: false,
                    },
                ..
            }) => {
                *of == u32::from(number)
                    && *bytes == content.len() as u64
                    // A stored part does not name its write, so the bytes are compared.
                    && self.puts.of(*write, *bytes) == *content
            }
            Call::Multipart(Asked {
                what:
                    About::PartOf {
                        number: of,
                        from,
                        span,
                    },
                ..
            }) => *of == u32::from(number) && self.ever_held(from, *span, content, called.at),
            _ => false,
        };
        about
            .filter(|(_, called)| fits(called))
            .map(|(at, _)| at)
            .collect()
    }

    /// Returns true if an object held these bytes in this range, at this tick or later.
    fn ever_held(&self, object: &Bytes, span: Span, content: &Bytes, from: Tick) -> bool {
        let states = self
            .states
            .get(object)
            .map(Vec::as_slice)
            .unwrap_or_default();
        // The state right before the tick counts, because it lasted until then.
        let first = states
            .partition_point(|(tick, _)| *tick < from)
            .saturating_sub(1);
        let mut rows = states[first..].iter().filter_map(|(_, row)| row.as_ref());
        rows.any(|row| {
            let range = span.of(row.size);
            // The range is checked first, so that the slice below is in bounds.
            let fits = span.fits(row.size) && range.end - range.start == content.len() as u64;
            let whole = row
                .write
                .filter(|_| fits)
                .and_then(|write| self.content(write, row.size));
            let to_usize = |at: u64| usize::try_from(at).expect("payloads fit into memory");
            whole.is_some_and(|whole| whole[to_usize(range.start)..to_usize(range.end)] == *content)
        })
    }
}

/// Returns true if a call copies bytes of an object into a part.
fn is_copy(called: &Called) -> bool {
    matches!(
        &called.call,
        Call::Multipart(Asked {
            what: About::PartOf { .. },
            ..
        })
    )
}
