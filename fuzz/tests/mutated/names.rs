//! Names and ranges that callers spell.

use cenotaph_fuzz::Target;
use cenotaph_storage::{
    ByteRange, Digest, ErrorKind, Etag, Namespace, OperationId, PartEtag, PartNumber, Timestamp,
    UploadId,
};
use uuid::Uuid;

use super::contract::{assert_typed, run_text};

#[test]
fn namespace() {
    let texts = [
        "default",
        "attachments/org=17/project=42",
        "a/b=c/d=e/f=g/h=i/j=k/l=m/n=o/p=q",
    ];
    run_text(
        "namespace",
        texts.map(str::to_owned),
        str::parse::<Namespace>,
        ToString::to_string,
    );
}

#[test]
fn upload_id() {
    let ids = [0, 1 << 40, u64::MAX].map(|at| UploadId::new(Timestamp::from_millis(at), [at, 2]));
    run_text(
        "upload id",
        ids.map(|id| id.to_string()),
        str::parse::<UploadId>,
        |id| {
            assert_eq!(UploadId::from_slice(id.as_bytes()), Some(*id));
            assert!(id.begun() <= Timestamp::from_millis(1 << 48));
            id.to_string()
        },
    );
}

#[test]
fn etag() {
    let etag = Etag::of(&OperationId::from_uuid(Uuid::from_u128(9)));
    run_text(
        "etag",
        [etag.to_string()],
        str::parse::<Etag>,
        ToString::to_string,
    );
}

#[test]
fn etag_of_a_part() {
    let etags = [PartEtag::of(b"some bytes"), PartEtag::new(1)];
    run_text(
        "etag of a part",
        etags.map(|etag| etag.to_string()),
        str::parse::<PartEtag>,
        ToString::to_string,
    );
}

#[test]
fn digest() {
    let make = [
        Digest::md5_of,
        Digest::crc32c_of,
        Digest::crc64_nvme_of,
        Digest::sha256_of,
    ];
    let texts = make.map(|make| make(b"123456789").to_string());
    run_text("digest", texts, str::parse::<Digest>, ToString::to_string);
}

/// A kind of range, its two numbers, and the size of the object.
#[test]
fn byte_range() {
    let encode = |kind: u8, numbers: [u64; 3]| {
        [&[kind][..], &numbers.map(u64::to_le_bytes).concat()].concat()
    };
    let ranges = [
        encode(0, [0, 0, 10]),
        encode(1, [2, 5, 10]),
        encode(2, [2, 5, 10]),
        encode(3, [7, 0, 10]),
        encode(4, [3, 0, 10]),
    ];
    Target::new("byte range", ranges).run(|input| {
        let number = |place: usize| {
            let bytes = input.get(1 + 8 * place..9 + 8 * place)?;
            Some(u64::from_le_bytes(bytes.try_into().unwrap()))
        };
        let (Some(start), Some(end), Some(total)) = (number(0), number(1), number(2)) else {
            return false;
        };
        let range = match input[0] % 5 {
            0 => ByteRange::Full,
            1 => ByteRange::from(start..end),
            2 => ByteRange::from(start..=end),
            3 => ByteRange::from(start..),
            _ => ByteRange::Last(start),
        };
        match range.resolve(total) {
            Ok(resolved) => {
                assert!(
                    resolved.start <= resolved.end && resolved.end <= total,
                    "{resolved:?}"
                );
                true
            }
            Err(error) if error.kind() == (ErrorKind::RangeNotSatisfiable { total }) => false,
            Err(error) => {
                assert_typed(&error);
                false
            }
        }
    });
}

#[test]
fn part_number() {
    let numbers = [1_u32, 10_000].map(|number| number.to_le_bytes().to_vec());
    Target::new("part number", numbers).run(|input| {
        let Ok(number) = input.try_into().map(u32::from_le_bytes) else {
            return false;
        };
        match PartNumber::new(number) {
            Ok(part) => u32::from(part) == number,
            Err(error) => {
                assert_typed(&error);
                assert!(!(1..=10_000).contains(&number));
                false
            }
        }
    });
}
