//! Stores whose index several engines share: their members, and the opening of an index in PostgreSQL.
//!
//! `Builder::shared` is in `builder/shared.rs`.

use std::collections::BTreeMap;

use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::{read_reader_pin_key, reader_pins_prefix};
use cenotaph_storage::{Epoch, Result, WallTime};

use crate::engine::Engine;

/// Pins read at once.
const PAGE: usize = 1000;

/// An engine that has a shared store open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Epoch of the member. Later members have higher epochs.
    pub epoch: Epoch,
    /// Name that the member has given itself.
    pub name: String,
    /// Time at which it opened the store, by the clock of the index.
    pub since: WallTime,
    /// Time of its last heartbeat, by the clock of the index.
    pub beaten: WallTime,
    /// Number of blobs that its long reads protect from deletion.
    pub pins: u64,
    /// True for the engine that was asked.
    pub is_self: bool,
}

impl Engine {
    /// Returns the engines that have the store open, the oldest first, and the present time of the
    /// index, with which their times can be compared. Returns no members if the index is not shared.
    ///
    /// A member that has ended without closing is among them until another one has seen its heartbeat
    /// stand still for [`MemberLimits::lease`](crate::MemberLimits::lease).
    ///
    /// # Errors
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): the index can't be read.
    /// - [`Closed`](crate::ErrorKind::Closed).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// let (members, _) = engine.members().await?;
    /// assert!(members.is_empty(), "an embedded store has a single engine");
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn members(&self) -> Result<(Vec<MemberInfo>, WallTime)> {
        self.check_open("members")?;
        let index = self.index();
        let Some(shared) = index.shared() else {
            return Ok((Vec::new(), self.env().wall_time()));
        };
        let mut pins: BTreeMap<Epoch, u64> = BTreeMap::new();
        let mut range = Range::prefix(&reader_pins_prefix(), PAGE);
        loop {
            let page = index.snapshot()?.keys(Table::Meta, range.clone()).await?;
            for (_, epoch) in page.iter().flat_map(|key| read_reader_pin_key(key)) {
                *pins.entry(epoch).or_default() += 1;
            }
            match page.last() {
                Some(last) if page.len() == PAGE => range = range.after(last.clone()),
                Some(_) | None => break,
            }
        }
        let members = shared.members().await?.into_iter();
        let members = members.map(|member| MemberInfo {
            pins: pins.get(&member.epoch).copied().unwrap_or_default(),
            is_self: member.epoch == shared.epoch(),
            epoch: member.epoch,
            name: member.name,
            since: member.since,
            beaten: member.beaten,
        });
        Ok((members.collect(), shared.wall_time().await?))
    }
}

#[cfg(feature = "postgres")]
pub(crate) use postgres::PostgresChoice;

#[cfg(feature = "postgres")]
mod postgres {
    use cenotaph_storage::index::postgres::{PostgresIndex, PostgresOptions};
    use cenotaph_storage::{Env, Error, ErrorKind, Result};

    use crate::config::Config;

    /// Shortest lease, in heartbeats: some of them may be late.
    const LEASE_BEATS: u32 = 4;

    /// Index in PostgreSQL that an opening names.
    pub(crate) struct PostgresChoice {
        /// Contains the password, so that it is never printed.
        pub(crate) url: String,
        pub(crate) options: PostgresOptions,
    }

    impl PostgresChoice {
        /// Opens the index, and joins it as a member.
        pub(crate) async fn open(self, env: &Env, config: &Config) -> Result<PostgresIndex> {
            let lease = config.limits.members.lease;
            let shortest = self.options.heartbeat.saturating_mul(LEASE_BEATS);
            if lease < shortest {
                let message = format!(
                    "setting out of bounds: limits.members.lease must be at least {LEASE_BEATS} \
                     heartbeats: lease={lease:?} min={shortest:?}"
                );
                return Err(Error::new(ErrorKind::Invalid, "open", message));
            }
            PostgresIndex::open(&self.url, env.clone(), self.options).await
        }
    }
}
