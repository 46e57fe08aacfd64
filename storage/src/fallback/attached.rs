//! The fallback of an open store: [`AttachedFallback`], and the decision about it at an opening.
//!
//! ```text
//! record in the index   source given           no source             declared lost
//! none                  open, write Open       no fallback           no fallback
//! Open, same source     open                   refuse (Invalid)      write Lost, no fallback
//! Open, other source    refuse (Invalid)       refuse (Invalid)      write Lost, no fallback
//! Sealed, Lost          never read (logged)    no fallback           no fallback
//! ```
//!
//! A reader decides by the same table and writes nothing. A source is never given together with the
//! declaration that it is lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt};

use super::{Fallback, FallbackListRequest, FallbackMeta, FallbackObject, FallbackPage, failed};
use crate::env::Env;
use crate::index::{Index, LeaseTimes, wait_until_alone};
use crate::records::{FallbackRecord, FallbackState};
use crate::types::{ByteRange, Error, ErrorKind, Namespace, ObjectId, Result};

/// Reason why a fallback is not opened: members do not learn of the seal of each other.
const ALONE: &str = "a shared store with an open fallback is opened by a single member";

/// Fallback of an open store. Clones share the seal.
#[derive(Clone)]
pub struct AttachedFallback(Arc<Inner>);

struct Inner {
    source: Arc<dyn Fallback>,
    is_sealed: AtomicBool,
}

impl AttachedFallback {
    /// Attaches a source whose record is open.
    pub fn new(source: Arc<dyn Fallback>) -> Self {
        Self(Arc::new(Inner {
            source,
            is_sealed: AtomicBool::new(false),
        }))
    }

    /// Returns whether the fallback may be read: it is not sealed.
    pub fn is_open(&self) -> bool {
        // Acquire: a caller that sees the seal also sees everything that was moved before it.
        !self.0.is_sealed.load(Ordering::Acquire)
    }

    /// Returns the description of the source.
    pub fn describe(&self) -> String {
        self.0.source.describe()
    }

    /// Returns the head of an object in the source, expired or not.
    ///
    /// # Errors
    /// The error of the source, of a kind that is no outcome of this store.
    pub async fn head(&self, id: &ObjectId) -> Result<Option<FallbackMeta>> {
        let found = self.0.source.head(id).await;
        found.map_err(|error| failed("head", error).with_id(id))
    }

    /// Opens an object in the source, expired or not.
    ///
    /// # Errors
    /// As [`head`](Self::head), also for the stream of the bytes.
    pub async fn open(&self, id: &ObjectId, range: ByteRange) -> Result<Option<FallbackObject>> {
        let opened = self.0.source.open(id, range).await;
        let opened = opened.map_err(|error| failed("get", error).with_id(id))?;
        let id = id.clone();
        Ok(opened.map(|object| FallbackObject {
            bytes: object
                .bytes
                .map_err(move |error| failed("get", error).with_id(&id))
                .boxed(),
            ..object
        }))
    }

    /// Returns a page of keys of the source.
    ///
    /// # Errors
    /// As [`head`](Self::head); [`ErrorKind::Invalid`] if the page is out of order or makes no
    /// progress, so that no object can be passed over.
    pub async fn list(&self, request: &FallbackListRequest) -> Result<FallbackPage> {
        let page = self.0.source.list(request).await;
        let page = page.map_err(|error| failed("list", error))?;
        page.check(request)?;
        Ok(page)
    }

    /// Returns the namespaces of the source.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub async fn namespaces(&self) -> Result<Vec<Namespace>> {
        let namespaces = self.0.source.namespaces().await;
        namespaces.map_err(|error| failed("list", error))
    }

    /// Seals the fallback: it is not read again. Called once the sealed record is durable.
    pub fn seal(&self) {
        self.0.is_sealed.store(true, Ordering::Release);
    }
}

impl fmt::Debug for AttachedFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachedFallback")
            .field("source", &self.0.source.describe())
            .field("is_open", &self.is_open())
            .finish()
    }
}

/// Outcome of the table at the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AttachDecision {
    Nothing,
    Attach,
    AttachFirst,
    NeverRead,
    Lose(FallbackRecord),
}

/// Attaches the fallback of a store that is opened for writing, and records it. `is_lost` declares
/// that the recorded fallback is lost for good.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the table refuses the opening, [`ErrorKind::AlreadyOpen`] if other members
/// have a shared store open, and the errors of reading and writing
/// the record.
pub async fn attach(
    index: &Arc<dyn Index>,
    source: Option<Arc<dyn Fallback>>,
    is_lost: bool,
    (env, lease): (&Env, LeaseTimes),
) -> Result<Option<AttachedFallback>> {
    let record = FallbackRecord::read(&**index).await?;
    let description = source.as_ref().map(|source| source.describe());
    let decision = decide(record, description.as_deref(), is_lost)?;
    if !matches!(
        decision,
        AttachDecision::Nothing | AttachDecision::NeverRead
    ) {
        wait_until_alone(&**index, env, lease, ALONE).await?;
    }
    match decision {
        AttachDecision::Nothing | AttachDecision::NeverRead => return Ok(None),
        AttachDecision::Attach => {}
        // Durable before the first write: a mask has a meaning only with the record.
        AttachDecision::AttachFirst => {
            let description = description.unwrap_or_default();
            FallbackRecord::open(description).write(index).await?;
            // A member that has joined since, and has read that there is no fallback, is seen here: it
            // joins before it reads.
            if let Err(error) = wait_until_alone(&**index, env, lease, ALONE).await {
                FallbackRecord::remove(index).await?;
                return Err(error);
            }
        }
        AttachDecision::Lose(record) => {
            tracing::warn!(
                fallback = record.description,
                "the fallback is declared lost: objects that only it had are absent from now on"
            );
            record.write(index).await?;
            return Ok(None);
        }
    }
    Ok(source.map(AttachedFallback::new))
}

/// Attaches the fallback of a store that is opened for reading. Writes nothing.
///
/// # Errors
/// As [`attach`].
pub async fn find_attached(
    index: &dyn Index,
    source: Option<Arc<dyn Fallback>>,
) -> Result<Option<AttachedFallback>> {
    let record = FallbackRecord::read(index).await?;
    let description = source.as_ref().map(|source| source.describe());
    match decide(record, description.as_deref(), false)? {
        AttachDecision::Nothing | AttachDecision::NeverRead | AttachDecision::Lose(_) => Ok(None),
        AttachDecision::Attach | AttachDecision::AttachFirst => {
            Ok(source.map(AttachedFallback::new))
        }
    }
}

fn decide(
    record: Option<FallbackRecord>,
    description: Option<&str>,
    is_lost: bool,
) -> Result<AttachDecision> {
    if is_lost && description.is_some() {
        let message = "a fallback can't be given and declared lost: remove one of both";
        return Err(Error::new(ErrorKind::Invalid, "open", message));
    }
    let Some(record) = record else {
        return Ok(match description {
            Some(_) => AttachDecision::AttachFirst,
            None => AttachDecision::Nothing,
        });
    };
    let expected = &record.description;
    match (record.state, description) {
        (FallbackState::Open, None) if is_lost => Ok(AttachDecision::Lose(FallbackRecord {
            state: FallbackState::Lost,
            ..record
        })),
        (FallbackState::Open, None) => {
            let message = format!(
                "the store has objects that only its fallback has: open it with the fallback, or \
                 declare the fallback lost: expected={expected:?}"
            );
            Err(Error::new(ErrorKind::Invalid, "open", message))
        }
        (FallbackState::Open, Some(found)) if found != expected => {
            let message = format!(
                "the store was opened over another fallback: open it with that one, or give this \
                 one its description if it is the same source: expected={expected:?} \
                 found={found:?}"
            );
            Err(Error::new(ErrorKind::Invalid, "open", message))
        }
        (FallbackState::Open, Some(_)) => Ok(AttachDecision::Attach),
        (FallbackState::Sealed | FallbackState::Lost, None) => Ok(AttachDecision::Nothing),
        (state @ (FallbackState::Sealed | FallbackState::Lost), Some(_)) => {
            tracing::warn!(
                fallback = expected,
                ?state,
                "the fallback is not read: its adoption has ended; open the store without it"
            );
            Ok(AttachDecision::NeverRead)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: FallbackState) -> Option<FallbackRecord> {
        let open = FallbackRecord::open("old".into());
        Some(FallbackRecord { state, ..open })
    }

    #[test]
    fn the_table_of_openings_holds() {
        use FallbackState::{Lost, Open, Sealed};
        let refused = |record, source: Option<&str>, is_lost| {
            decide(record, source, is_lost).unwrap_err().kind() == ErrorKind::Invalid
        };
        let decided =
            |record, source: Option<&str>, is_lost| decide(record, source, is_lost).unwrap();
        assert_eq!(
            decided(None, Some("old"), false),
            AttachDecision::AttachFirst
        );
        assert_eq!(decided(None, None, false), AttachDecision::Nothing);
        assert_eq!(decided(None, None, true), AttachDecision::Nothing);
        assert_eq!(
            decided(record(Open), Some("old"), false),
            AttachDecision::Attach
        );
        assert!(refused(record(Open), None, false));
        assert!(refused(record(Open), Some("new"), false));
        assert!(refused(record(Open), Some("old"), true), "given and lost");
        assert_eq!(
            decided(record(Open), None, true),
            AttachDecision::Lose(record(Lost).unwrap())
        );
        for ended in [Sealed, Lost] {
            assert_eq!(
                decided(record(ended), Some("old"), false),
                AttachDecision::NeverRead
            );
            assert_eq!(
                decided(record(ended), Some("new"), false),
                AttachDecision::NeverRead
            );
            assert_eq!(decided(record(ended), None, false), AttachDecision::Nothing);
            assert_eq!(decided(record(ended), None, true), AttachDecision::Nothing);
        }
    }
}
