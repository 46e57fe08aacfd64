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

use super::Fallback;
use crate::index::Index;
use crate::records::{FallbackRecord, FallbackState};
use crate::types::{Error, ErrorKind, Result};

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

    /// Returns the source, or `None` once it is sealed.
    pub fn open(&self) -> Option<&Arc<dyn Fallback>> {
        // Acquire: a caller that sees the seal also sees everything that was moved before it.
        (!self.0.is_sealed.load(Ordering::Acquire)).then_some(&self.0.source)
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
            .field("is_sealed", &self.open().is_none())
            .finish()
    }
}

/// Outcome of the table at the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
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
/// [`ErrorKind::Invalid`] if the table refuses the opening, and the errors of reading and writing
/// the record.
pub async fn attach(
    index: &Arc<dyn Index>,
    source: Option<Arc<dyn Fallback>>,
    is_lost: bool,
) -> Result<Option<AttachedFallback>> {
    let record = FallbackRecord::read(&**index).await?;
    let description = source.as_ref().map(|source| source.describe());
    match decide(record, description.as_deref(), is_lost)? {
        Decision::Nothing | Decision::NeverRead => return Ok(None),
        Decision::Attach => {}
        // Durable before the first write: a mask has a meaning only with the record.
        Decision::AttachFirst => {
            let description = description.unwrap_or_default();
            FallbackRecord::open(description).write(index).await?;
        }
        Decision::Lose(record) => {
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
        Decision::Nothing | Decision::NeverRead | Decision::Lose(_) => Ok(None),
        Decision::Attach | Decision::AttachFirst => Ok(source.map(AttachedFallback::new)),
    }
}

fn decide(
    record: Option<FallbackRecord>,
    description: Option<&str>,
    is_lost: bool,
) -> Result<Decision> {
    if is_lost && description.is_some() {
        let message = "a fallback can't be given and declared lost: remove one of both";
        return Err(Error::new(ErrorKind::Invalid, "open", message));
    }
    let Some(record) = record else {
        return Ok(match description {
            Some(_) => Decision::AttachFirst,
            None => Decision::Nothing,
        });
    };
    let expected = &record.description;
    match (record.state, description) {
        (FallbackState::Open, None) if is_lost => Ok(Decision::Lose(FallbackRecord {
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
        (FallbackState::Open, Some(_)) => Ok(Decision::Attach),
        (FallbackState::Sealed | FallbackState::Lost, None) => Ok(Decision::Nothing),
        (state @ (FallbackState::Sealed | FallbackState::Lost), Some(_)) => {
            tracing::warn!(
                fallback = expected,
                ?state,
                "the fallback is not read: its adoption has ended; open the store without it"
            );
            Ok(Decision::NeverRead)
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
        assert_eq!(decided(None, Some("old"), false), Decision::AttachFirst);
        assert_eq!(decided(None, None, false), Decision::Nothing);
        assert_eq!(decided(None, None, true), Decision::Nothing);
        assert_eq!(decided(record(Open), Some("old"), false), Decision::Attach);
        assert!(refused(record(Open), None, false));
        assert!(refused(record(Open), Some("new"), false));
        assert!(refused(record(Open), Some("old"), true), "given and lost");
        assert_eq!(
            decided(record(Open), None, true),
            Decision::Lose(record(Lost).unwrap())
        );
        for ended in [Sealed, Lost] {
            assert_eq!(
                decided(record(ended), Some("old"), false),
                Decision::NeverRead
            );
            assert_eq!(
                decided(record(ended), Some("new"), false),
                Decision::NeverRead
            );
            assert_eq!(decided(record(ended), None, false), Decision::Nothing);
            assert_eq!(decided(record(ended), None, true), Decision::Nothing);
        }
    }
}
