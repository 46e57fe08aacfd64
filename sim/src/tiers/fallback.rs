//! The simulated fallback: a source of objects that outlives every incarnation, and its faults.
//!
//! ```text
//! head, open   ──scheduler──> fails | slow | not found for a while | object
//! bytes        ──chunk by chunk──> fails in the middle | bytes
//! list         ──scheduler──> fails | slow | a short page | a later page fails
//! ```
//!
//! An outside writer changes it ([`DurableState::write_source`]). The model knows each object as the
//! state of an object before the first commit of the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{
    Attributes, ByteRange, Checksum, Error, ErrorKind, Expiration, Fallback, FallbackEntry,
    FallbackListRequest, FallbackMeta, FallbackObject, FallbackPage, Namespace, ObjectId, Result,
    Timestamp,
};
use cenotaph_storage::planted::Bug;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use crate::check::WRITE;
use crate::disks::source::{Source, SourceObject};
use crate::faults::Fault;
use crate::plan::{SourcePlan, object_id, other_namespace};
use crate::trace::EventKind;
use crate::world::durable_state::{DurableState, State};
use crate::world::scheduler::{Scheduler, sleep};

/// Most entries of a page, so that listings have several pages.
const PAGE: usize = 4;
/// Bytes of a chunk.
const CHUNK: usize = 3000;
/// Maximum duration of a slow request in milliseconds.
const SLOW_MS_MAX: u64 = 3_000;
/// Maximum time for which an object is not found, in milliseconds.
const HIDDEN_MS_MAX: u64 = 500;

impl SourceObject {
    fn meta(&self) -> FallbackMeta {
        let modified = Timestamp::from_millis(self.modified_ms);
        FallbackMeta {
            size: self.payload.len() as u64,
            checksum: self
                .write
                .is_multiple_of(2)
                .then(|| Checksum::of(&self.payload)),
            created: Some(modified),
            modified: Some(modified),
            expires_at: self.expires_at.map(Timestamp::from_millis),
            attributes: Attributes {
                custom: [(WRITE.to_owned(), self.write.to_string())].into(),
                expiration: self.expiration,
                ..Attributes::default()
            },
        }
    }
}

impl State {
    /// Creates the source of a plan.
    pub(crate) fn fill_source(&mut self, objects: &[SourcePlan]) {
        self.source = Some(Source::default());
        self.model.attach_source();
        for object in objects {
            self.put_source(object.object, object.bytes, object.deadline_ms);
        }
    }

    fn put_source(&mut self, object: u32, bytes: u64, deadline_ms: Option<u64>) {
        let now_ms = self.time_of_day_ms();
        let Some(source) = &mut self.source else {
            return;
        };
        source.writes += 1;
        let write = source.writes;
        let id = object_id(object);
        let old = source.objects.get(id.encoded());
        let object = SourceObject {
            id: id.clone(),
            write,
            payload: self.model.puts.keep(write, bytes),
            modified_ms: now_ms,
            // A deadline stays, so that a listing does not depend on the moment of the write.
            expires_at: match old {
                Some(old) => old.expires_at,
                None => deadline_ms.map(|after| now_ms + after),
            },
            expiration: match (old, deadline_ms) {
                (Some(old), _) => old.expiration,
                (None, Some(ms)) => Expiration::TimeToLive(Duration::from_millis(ms)),
                (None, None) => Expiration::Manual,
            },
        };
        source.objects.insert(id.encoded().clone(), object.clone());
        let tick = self.note(EventKind::Effect, "fallback written", || {
            format!("{id} {bytes} bytes, write {write}")
        });
        self.model.source_written(tick, id.encoded(), &object);
    }
}

impl DurableState {
    /// Writes an object of the source, as an outside writer.
    pub(crate) fn write_source(&self, object: u32, bytes: u64) {
        let mut state = self.state();
        state
            .coverage
            .count("fallback: written by an outside writer");
        state.put_source(object, bytes, None);
    }

    /// Returns whether the source hides an object now.
    fn is_source_hiding(&self, key: &Bytes) -> bool {
        let now = self.elapsed();
        let is_hidden = |state: &State| {
            let source = state.source.as_ref();
            source.is_some_and(|source| {
                source
                    .hidden_until
                    .get(key)
                    .is_some_and(|until| now < *until)
            })
        };
        if is_hidden(&self.state()) {
            // Recorded for each answer: a checker accepts only what this call was told.
            self.state().struck(Fault::SourceHides, String::new);
        } else if self.strikes(Fault::SourceHides, String::new) {
            let until = now + Duration::from_millis(self.below(HIDDEN_MS_MAX));
            let mut state = self.state();
            if let Some(source) = &mut state.source {
                source.hidden_until.insert(key.clone(), until);
            }
        } else {
            return false;
        }
        let mut state = self.state();
        let tick = state.trace.tick();
        state.model.source_hid(tick, key);
        true
    }
}

/// Source as an incarnation sees it.
pub(crate) struct SimFallback(pub(crate) Arc<Scheduler>);

impl SimFallback {
    /// Sends a request. It reaches the source or fails, after some time.
    async fn request(&self, what: &'static str, detail: impl FnOnce() -> String) -> Result<()> {
        {
            let mut state = self.0.durable_state().state();
            let tick = state.trace.tick();
            state.model.source_asked(tick);
            state.report_violations();
        }
        self.0.pass(what, detail).await;
        let durable_state = self.0.durable_state();
        if durable_state.strikes(Fault::SourceSlow, String::new) {
            sleep(Duration::from_millis(durable_state.below(SLOW_MS_MAX))).await;
        }
        if durable_state.strikes(Fault::SourceFails, String::new) {
            return Err(away());
        }
        Ok(())
    }

    /// Sends a request about an object. Returns false for a failed request that a planted bug takes
    /// for "not found".
    async fn is_reached(&self, what: &'static str, id: &ObjectId) -> Result<bool> {
        let is_planted = self
            .0
            .durable_state()
            .is_planted(Bug::FallbackErrorIsAbsent);
        match self.request(what, || id.to_string()).await {
            Err(_) if is_planted => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    fn found(&self, id: &ObjectId) -> Option<SourceObject> {
        let found = {
            let state = self.0.durable_state().state();
            let source = state.source.as_ref()?;
            source.objects.get(id.encoded()).cloned()
        };
        found.filter(|_| !self.0.durable_state().is_source_hiding(id.encoded()))
    }

    fn page(&self, request: &FallbackListRequest) -> FallbackPage {
        let mut found: Vec<SourceObject> = {
            let state = self.0.durable_state().state();
            let objects = state
                .source
                .iter()
                .flat_map(|source| source.objects.values());
            let is_listed = |object: &&SourceObject| {
                let key = object.id.key();
                object.id.namespace() == request.namespace
                    && key.starts_with(&request.prefix)
                    && request.position.admits(key)
            };
            objects.filter(is_listed).cloned().collect()
        };
        found.retain(|object| !self.0.durable_state().is_source_hiding(object.id.encoded()));
        let limit = request.limit.min(PAGE);
        let is_complete = found.len() <= limit;
        found.truncate(limit);
        let entry = |object: SourceObject| FallbackEntry {
            key: object.id.key().to_owned(),
            // Some sources list names only.
            meta: object.write.is_multiple_of(3).then(|| object.meta()),
        };
        FallbackPage {
            entries: found.into_iter().map(entry).collect(),
            is_complete,
            skipped: Vec::new(),
        }
    }
}

impl Fallback for SimFallback {
    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn head<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>> {
        async move {
            if !self.is_reached("fallback head", id).await? {
                return Ok(None);
            }
            Ok(self.found(id).map(|object| object.meta()))
        }
        .boxed()
    }

    fn open<'a>(
        &'a self,
        id: &'a ObjectId,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<FallbackObject>>> {
        async move {
            if !self.is_reached("fallback open", id).await? {
                return Ok(None);
            }
            let Some(object) = self.found(id) else {
                return Ok(None);
            };
            let size = object.payload.len() as u64;
            let range = range.resolve(size)?;
            let to_usize = |at: u64| usize::try_from(at).expect("payloads fit into memory");
            let bytes = object
                .payload
                .slice(to_usize(range.start)..to_usize(range.end));
            let scheduler = Arc::clone(&self.0);
            let chunks = stream::unfold(Some(bytes), move |rest| {
                let scheduler = Arc::clone(&scheduler);
                async move {
                    let mut rest = rest.filter(|rest| !rest.is_empty())?;
                    let chunk = rest.split_to(rest.len().min(CHUNK));
                    scheduler.linger().await;
                    if scheduler
                        .durable_state()
                        .strikes(Fault::SourceFails, || "in the middle".to_owned())
                    {
                        return Some((Err(away()), None));
                    }
                    Some((Ok(chunk), Some(rest)))
                }
            });
            Ok(Some(FallbackObject {
                meta: object.meta(),
                range,
                bytes: chunks.boxed(),
            }))
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>> {
        async move {
            self.request("fallback list", || format!("{:?}", request.position))
                .await?;
            if request.position != cenotaph::KeyPosition::Start
                && self
                    .0
                    .durable_state()
                    .strikes(Fault::SourceListCut, String::new)
            {
                let durable_state = self.0.durable_state();
                if durable_state.is_planted(Bug::SealAfterTruncatedScan) {
                    return Ok(FallbackPage {
                        is_complete: true,
                        ..FallbackPage::default()
                    });
                }
                return Err(away());
            }
            Ok(self.page(request))
        }
        .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>> {
        async move {
            self.request("fallback namespaces", String::new).await?;
            let mut all = vec![Namespace::default_namespace(), other_namespace()];
            all.sort();
            Ok(all)
        }
        .boxed()
    }
}

fn away() -> Error {
    let message = "the simulated fallback is away";
    Error::new(ErrorKind::Unavailable, "fallback", message)
}
