//! Stores whose payloads are in fjall, as earlier builds wrote them, for tests of such stores.

use std::path::Path;

use fjall::PersistMode;

use super::check::HIGH_WATER;
use super::failure::failed;
use super::{FjallIndex, FjallOptions, creation, database, payloads};
use crate::index::Table;
use crate::index::payload_log::{LogAccess, Opening, PAYLOADS, Pointer};
use crate::types::Result;

impl FjallIndex {
    /// Moves all payloads of a closed store from the payload log to blob files of fjall, where
    /// earlier builds stored them. Blocks on the disk.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn unlog(dir: &Path) -> Result<()> {
        let options = FjallOptions::default();
        let (path, record) = creation::recorded(dir)?;
        let (tables, database) = database::open(&path, &options, 1, record.keyspaces())?;
        let payloads = creation::store(dir).join(PAYLOADS);
        let log = payloads::open_log(
            &tables,
            Opening {
                dir: payloads.clone(),
                id: record.log_id()?.unwrap_or_default(),
                modes: options.modes,
                segment_bytes: options.segment_bytes,
                access: LogAccess::Read,
            },
        )?;
        let fjall = |error| failed("unlog", error);
        let keyspace = tables.of(Table::Payloads);
        let segments = log.segments();
        for entry in keyspace.iter() {
            let (key, stored) = entry.into_inner().map_err(fjall)?;
            if let Some(pointer) = Pointer::decode(&stored) {
                let value = log
                    .segment(&segments, &pointer)?
                    .read(&pointer, &key, None)?;
                keyspace.insert(key, value).map_err(fjall)?;
            }
        }
        for entry in tables.segments().iter() {
            let (key, _) = entry.into_inner().map_err(fjall)?;
            tables.segments().remove(key).map_err(fjall)?;
        }
        database.persist(PersistMode::SyncAll).map_err(fjall)?;
        for keyspace in tables.all() {
            keyspace.rotate_memtable_and_wait().map_err(fjall)?;
        }
        let unavailable = |error| creation::unavailable("remove", dir, error);
        if payloads.is_dir() {
            std::fs::remove_dir_all(&payloads).map_err(unavailable)?;
        }
        // The mark does not know the batches above.
        match std::fs::remove_file(creation::store(dir).join(HIGH_WATER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unavailable(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
