//! Room on a disk that blobs share with the index: [`Claim`].
//!
//! Many uploads at once would each find room for their next write, and together take what the index
//! still needs. So each claims what it is about to write, for as long as the disk may not count it
//! as used. Guards no invariant. Deliberately not here: how much the index needs (`index`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;

/// True if a disk has room for so many more bytes.
pub type Room = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// Room that all writers of a tier share.
pub(super) struct SharedRoom {
    room: Room,
    claimed: Arc<AtomicU64>,
}

/// Bytes that are about to be written. Dropping it ends the claim.
pub(super) struct Claim {
    bytes: u64,
    claimed: Arc<AtomicU64>,
}

impl SharedRoom {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            claimed: Arc::default(),
        }
    }

    /// Claims room for so many bytes beside all that is claimed already.
    ///
    /// # Errors
    /// As the room says.
    pub(super) fn claim(&self, bytes: u64) -> Result<Claim> {
        let before = self.claimed.fetch_add(bytes, Ordering::AcqRel);
        let claim = Claim {
            bytes,
            claimed: Arc::clone(&self.claimed),
        };
        (self.room)(before.saturating_add(bytes)).map(|()| claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::index::no_space;

    #[test]
    fn claims_add_up_until_they_are_dropped() {
        let room = SharedRoom::new(Box::new(|bytes| {
            if bytes <= 10 {
                Ok(())
            } else {
                Err(no_space("write", 10, bytes))
            }
        }));
        let first = room.claim(6).unwrap();
        assert_eq!(room.claim(6).err().unwrap().kind(), ErrorKind::Unavailable);
        let second = room.claim(4).unwrap();
        drop(first);
        room.claim(6).unwrap();
        drop(second);
        room.claim(10).unwrap();
    }
}
