//! Limits per namespace: a kill switch, operations at once, operations and bytes per second.
//!
//! ```text
//! begin     switched off: Disabled; over a limit: Overloaded; otherwise a permit for the operation
//! charge    bytes in memory: over the rate: Overloaded, and the operation is refunded
//! end       the operation was refused elsewhere: everything charged is refunded
//! pace      bytes of a stream: over the rate: the stream waits
//! ```
//!
//! A refusal comes at once, before anything is started, and costs nothing. A stream is never
//! refused half-way, only slowed. Limits apply to exactly the namespace for which they are set, and
//! not to namespaces with further scopes. They are not stored and end with the engine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cenotaph_storage::{Env, Error, ErrorKind, Namespace, ObjectId, Reason, Result};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::admission::payload::PayloadSource;

mod limited;

use limited::{Limited, paced};

/// Limits on the objects of a namespace together. The default is no limit.
///
/// ```
/// let limits = cenotaph_actors::NamespaceLimits {
///     operations_at_once: Some(64),
///     ..Default::default()
/// };
/// assert!(!limits.disabled);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceLimits {
    /// Maximum number of operations under way. A get ends when its object is read to the end or
    /// dropped. Over it is `Overloaded`.
    pub operations_at_once: Option<usize>,
    /// Operations per second, with a burst of a second. Over it is `Overloaded`.
    pub operations_per_second: Option<u32>,
    /// Payload bytes in and out per second together, with a burst of a second. An inline object
    /// over the rate is `Overloaded`; an inline object larger than the burst takes the whole burst.
    /// Streams to or from the blob tier wait.
    pub bytes_per_second: Option<u64>,
    /// The kill switch: every new operation on the namespace is `Disabled`. Operations under way
    /// end normally.
    pub disabled: bool,
}

impl NamespaceLimits {
    /// Checks that every limit permits some work.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a limit of zero. `disabled` is the way to permit nothing.
    pub fn check(&self) -> Result<()> {
        let fields = [
            ("operations_at_once", self.operations_at_once == Some(0)),
            (
                "operations_per_second",
                self.operations_per_second == Some(0),
            ),
            ("bytes_per_second", self.bytes_per_second == Some(0)),
        ];
        match fields.into_iter().find(|(_, zero)| *zero) {
            None => Ok(()),
            Some((field, _)) => {
                let message =
                    format!("invalid namespace limit, minimum is 1: field={field} value=0");
                Err(Error::new(ErrorKind::Invalid, "limit", message))
            }
        }
    }
}

/// The limits of all namespaces of an engine. Cheap to clone; clones share them.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph_storage::Error> {
/// use cenotaph_actors::{NamespaceLimits, Namespaces};
/// use cenotaph_storage::{Env, ErrorKind, Namespace};
///
/// let namespaces = Namespaces::new(Env::real()?);
/// let photos = Namespace::new("photos")?;
/// namespaces.set(&photos, NamespaceLimits { operations_at_once: Some(1), ..Default::default() })?;
/// let permit = namespaces.begin(&photos, "list")?;
/// assert_eq!(namespaces.begin(&photos, "list").unwrap_err().kind(), ErrorKind::Overloaded);
/// drop(permit);
/// namespaces.begin(&photos, "list")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Namespaces(Arc<Registry>);

struct Registry {
    env: Env,
    /// True if any namespace has limits. Without limits no operation takes the lock.
    any: AtomicBool,
    limited: RwLock<BTreeMap<String, Arc<Limited>>>,
}

impl Namespaces {
    /// Creates an empty set of limits. Rates are measured on the clock of `env`.
    pub fn new(env: Env) -> Self {
        Self(Arc::new(Registry {
            env,
            any: AtomicBool::new(false),
            limited: RwLock::default(),
        }))
    }

    /// Sets the limits of a namespace.
    ///
    /// Operations under way still count, streams follow the new rate, and an unchanged rate keeps
    /// its tokens. The default removes all limits. Operations that begin without limits never
    /// count.
    ///
    /// # Errors
    /// As [`NamespaceLimits::check`]; the limits are unchanged then.
    pub fn set(&self, namespace: &Namespace, limits: NamespaceLimits) -> Result<()> {
        limits.check()?;
        let mut limited = self
            .0
            .limited
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if limits == NamespaceLimits::default() {
            if let Some(removed) = limited.remove(namespace.as_str()) {
                // Operations under way hold this namespace: they end without limits.
                removed.set(limits);
            }
        } else {
            let fresh = || Arc::new(Limited::new(namespace.as_str(), self.0.env.clone()));
            limited
                .entry(namespace.as_str().to_owned())
                .or_insert_with(fresh)
                .set(limits);
        }
        self.0.any.store(!limited.is_empty(), Ordering::Release);
        Ok(())
    }

    /// Returns the limits of a namespace.
    pub fn get(&self, namespace: &Namespace) -> NamespaceLimits {
        self.limited(namespace.as_str())
            .map(|limited| limited.state().limits.clone())
            .unwrap_or_default()
    }

    /// Begins an operation in a namespace.
    ///
    /// # Errors
    /// [`ErrorKind::Disabled`] or [`ErrorKind::Overloaded`], at once. A refusal costs nothing.
    pub fn begin(&self, namespace: &Namespace, operation: &'static str) -> Result<NamespacePermit> {
        self.begin_in(namespace.as_str(), operation)
    }

    /// Begins an operation on an object.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_on(&self, id: &ObjectId, operation: &'static str) -> Result<NamespacePermit> {
        self.begin_in(id.namespace_str(), operation)
            .map_err(|error| error.with_id(id))
    }

    fn begin_in(&self, namespace: &str, operation: &'static str) -> Result<NamespacePermit> {
        match self.limited(namespace) {
            Some(limited) => Limited::begin(limited, operation),
            None => Ok(NamespacePermit(None)),
        }
    }

    fn limited(&self, namespace: &str) -> Option<Arc<Limited>> {
        // The common case: no namespace has limits, and no lock is taken.
        if !self.0.any.load(Ordering::Acquire) {
            return None;
        }
        self.0
            .limited
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(namespace)
            .cloned()
    }
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Namespaces")
    }
}

/// Permit for an operation in its namespace, until dropped. See [`Namespaces`].
#[must_use = "dropping it ends the operation"]
pub struct NamespacePermit(Option<Slot>);

impl NamespacePermit {
    /// Returns whether the namespace has limits.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Charges bytes that are in memory, at once or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if there are not enough; the operation then has not begun, and
    /// cost nothing.
    pub fn charge(mut self, bytes: u64) -> Result<Self> {
        if let Some(slot) = &mut self.0 {
            slot.limited.charge(bytes, slot.operation)?;
            slot.charged_bytes += bytes;
        }
        Ok(self)
    }

    /// Ends the operation with its outcome.
    ///
    /// A refused operation costs nothing: [`Overloaded`](ErrorKind::Overloaded),
    /// [`Disabled`](ErrorKind::Disabled), [`Invalid`](ErrorKind::Invalid),
    /// [`Closed`](ErrorKind::Closed) or no space. An operation whose stream has begun to flow keeps
    /// its charges.
    ///
    /// # Errors
    /// The error of the outcome.
    pub fn end<T>(self, outcome: Result<T>) -> Result<T> {
        if outcome.as_ref().err().is_some_and(is_refusal) {
            self.give_back();
        }
        outcome
    }

    /// Refunds the charges of the operation, unless its stream has begun to flow.
    pub fn give_back(self) {
        if let Some(slot) = &self.0
            && !slot.has_begun.load(Ordering::Acquire)
        {
            slot.limited.state().give_back(slot.charged_bytes);
        }
    }

    /// Waits until `owed` bytes may flow, and sets `owed` to zero. If the future is dropped, bytes
    /// already paid stay paid.
    pub async fn pace(&self, owed: &mut u64) {
        match &self.0 {
            Some(slot) => slot.limited.pace(owed).await,
            None => *owed = 0,
        }
    }

    /// Returns the same payload, limited to the rate of the namespace. The stream may outlive the
    /// permit.
    pub fn paced(&self, source: PayloadSource) -> PayloadSource {
        match &self.0 {
            Some(slot) => {
                // Set by the first item that the stream yields, not by the first poll.
                let has_begun = Arc::clone(&slot.has_begun);
                let stream = source
                    .stream
                    .inspect(move |_| has_begun.store(true, Ordering::Release))
                    .boxed();
                PayloadSource {
                    stream: paced(Arc::clone(&slot.limited), stream),
                    ..source
                }
            }
            None => source,
        }
    }
}

impl fmt::Debug for NamespacePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.0.as_ref().map(|slot| &slot.limited.namespace);
        f.debug_struct("NamespacePermit")
            .field("namespace", &namespace)
            .finish()
    }
}

fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Overloaded | ErrorKind::Disabled | ErrorKind::Invalid | ErrorKind::Closed => {
            true
        }
        _ => error.reason() == Some(Reason::NoSpace),
    }
}

/// An operation under way.
struct Slot {
    limited: Arc<Limited>,
    operation: &'static str,
    charged_bytes: u64,
    /// True once a stream of the operation has begun to flow.
    has_begun: Arc<AtomicBool>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limited.state().live -= 1;
    }
}

#[cfg(test)]
pub(crate) mod tests;
