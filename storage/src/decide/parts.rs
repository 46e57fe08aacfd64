//! The selection of the parts that become an object, and the rules for them.
//!
//! Errors name the part in their message and in their [`Reason`].

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::UploadView;
use crate::records::{Manifest, Part, PartsDigest};
use crate::types::{Error, ErrorKind, Reason, Result};
use crate::types::{PartEtag, PartNumber};

/// Parts of an upload that become the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All filed parts.
    All,
    /// These parts, in the order of their numbers, each with the etag that its upload returned.
    Listed(Vec<(PartNumber, PartEtag)>),
}

/// Limits for the parts of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRules {
    /// Minimum size of each part except the last, in bytes.
    pub bytes_min: u64,
    /// Maximum size of all parts together, in bytes.
    pub total_bytes_max: u64,
}

impl Selection {
    /// Checks that the list has at least one part and is in ascending order.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] otherwise.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::All => Ok(()),
            Self::Listed(listed) => check_order(listed),
        }
    }

    /// Returns the selected parts.
    pub(super) fn resolve(&self, view: &UploadView) -> Result<Vec<(PartNumber, PartEtag)>> {
        let (lost, listed) = match self {
            Self::All => {
                let all = view.parts.iter().map(|(&number, part)| (number, part.etag));
                (view.lost.first().copied(), all.collect())
            }
            Self::Listed(listed) => {
                let numbers = listed.iter().map(|(number, _)| *number);
                (
                    numbers
                        .into_iter()
                        .find(|number| view.lost.contains(number)),
                    listed.clone(),
                )
            }
        };
        match lost {
            Some(number) => {
                let message =
                    format!("the part was lost and must be uploaded again: part={number}");
                Err(refused(message, Reason::PartLost(number)))
            }
            None => Ok(listed),
        }
    }
}

fn check_order(listed: &[(PartNumber, PartEtag)]) -> Result<()> {
    if listed.is_empty() {
        return Err(refused(
            "an upload is completed with one part at least",
            Reason::NoParts,
        ));
    }
    match listed.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        Some(pair) => {
            let number = pair[1].0;
            let before = pair[0].0;
            let message = format!(
                "the parts are not listed in ascending order: part={number} after={before}"
            );
            Err(refused(message, Reason::PartOrder(number)))
        }
        None => Ok(()),
    }
}

/// Returns the manifest of these parts, and their total size in bytes.
pub(super) fn assemble(
    listed: &[(PartNumber, PartEtag)],
    parts: &BTreeMap<PartNumber, Part>,
    rules: PartRules,
) -> Result<(Manifest, u64)> {
    check_order(listed)?;
    let mut extents = Vec::with_capacity(listed.len());
    let mut total: u64 = 0;
    for (at, &(number, etag)) in listed.iter().enumerate() {
        let is_last = at + 1 == listed.len();
        let Some(part) = parts.get(&number) else {
            let message = format!("the upload has no such part: part={number}");
            return Err(refused(message, Reason::NoSuchPart(number)));
        };
        if part.etag != etag {
            let message = format!(
                "the part has another etag: part={number} listed={etag} found={}",
                part.etag
            );
            return Err(refused(message, Reason::PartEtag(number)));
        }
        let bytes = part.extent.bytes;
        let min = rules.bytes_min;
        let max = rules.total_bytes_max;
        if !is_last && bytes < min {
            let message =
                format!("a part but the last is too small: part={number} bytes={bytes} min={min}");
            return Err(refused(message, Reason::PartTooSmall(number)));
        }
        total = total.saturating_add(bytes);
        if total > max {
            let message =
                format!("the parts are too large together: part={number} bytes={total} max={max}");
            return Err(refused(message, Reason::PartsTooLarge(number)));
        }
        extents.push(part.extent);
    }
    Ok((Manifest::of_parts(extents), total))
}

/// Returns the digest of a list of parts.
pub(super) fn digest(listed: &[(PartNumber, PartEtag)]) -> PartsDigest {
    let mut sha256 = Sha256::new();
    for (number, etag) in listed {
        sha256.update(number.get().to_be_bytes());
        sha256.update(etag.get().to_be_bytes());
    }
    PartsDigest(sha256.finalize().into())
}

pub(super) fn refused(message: impl Into<String>, reason: Reason) -> Error {
    Error::new(ErrorKind::Invalid, "multipart", message).with_reason(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_numbers_and_etags_apart() {
        let part = |number, etag| (PartNumber::new(number).unwrap(), PartEtag::new(etag));
        let listed = [part(1, 7), part(2, 8)];
        assert_eq!(digest(&listed), digest(&listed));
        for other in [
            [part(1, 7), part(2, 9)],
            [part(1, 7), part(3, 8)],
            [part(2, 8), part(1, 7)],
        ] {
            assert_ne!(digest(&listed), digest(&other), "{other:?}");
        }
        assert_ne!(digest(&listed), digest(&listed[..1]));
    }

    #[test]
    fn parts_are_listed_in_ascending_order_and_there_is_one() {
        let listed = |numbers: &[u32]| {
            let part = |&number: &u32| (PartNumber::new(number).unwrap(), PartEtag::new(7));
            Selection::Listed(numbers.iter().map(part).collect())
        };
        assert!(
            Selection::All.check().is_ok()
                && listed(&[1]).check().is_ok()
                && listed(&[1, 3]).check().is_ok()
        );
        assert_eq!(
            listed(&[]).check().unwrap_err().reason(),
            Some(Reason::NoParts)
        );
        for wrong in [[2, 2], [3, 2]] {
            let reason = Reason::PartOrder(PartNumber::new(2).unwrap());
            assert_eq!(
                listed(&wrong).check().unwrap_err().reason(),
                Some(reason),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn parts_of_exactly_the_most_bytes_and_a_last_one_below_the_fewest_are_assembled() {
        let number = |number| PartNumber::new(number).unwrap();
        let part = |bytes| {
            let revision =
                crate::types::RevisionId::from_uuid(uuid::Uuid::from_u128(u128::from(bytes)));
            let extent = crate::records::Extent {
                revision,
                bytes,
                checksum: crate::types::Checksum::new(0),
            };
            Part {
                extent,
                etag: PartEtag::new(u128::from(bytes)),
                uploaded: crate::types::Timestamp::from_millis(1),
            }
        };
        let parts = BTreeMap::from([(number(1), part(10)), (number(2), part(5))]);
        let listed = [
            (number(1), PartEtag::new(10)),
            (number(2), PartEtag::new(5)),
        ];
        let assembled = |bytes_min, total_bytes_max| {
            assemble(
                &listed,
                &parts,
                PartRules {
                    bytes_min,
                    total_bytes_max,
                },
            )
            .map(|(_, bytes)| bytes)
        };
        assert_eq!(assembled(10, 15).unwrap(), 15);
        assert_eq!(
            assembled(11, 15).unwrap_err().reason(),
            Some(Reason::PartTooSmall(number(1)))
        );
        assert_eq!(
            assembled(10, 14).unwrap_err().reason(),
            Some(Reason::PartsTooLarge(number(2)))
        );
    }
}
