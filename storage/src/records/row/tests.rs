//! Tests of the stored form of a row, in the present and in all older formats.

use super::*;
use crate::records::codec::fixture::{assert_golden, assert_later_format_refused, assert_robust};
use crate::records::{Attributes, Expiration, Extent};
use crate::types::{Checksum, Timestamp};
use proptest::prelude::*;
use std::time::Duration;
use uuid::Uuid;

fn row(size: u64, body: RowBody) -> Row {
    Row {
        version: Version::new(300),
        operation: OperationId::from_uuid(Uuid::from_u128(
            0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        )),
        metadata: Metadata {
            size,
            checksum: Some(Checksum::new(0x0102_0304)),
            created: Timestamp::from_millis(1000),
            modified: Timestamp::from_millis(2000),
            expires_at: None,
            attributes: Attributes {
                content_type: Some("text/plain".into()),
                custom: [("k".to_owned(), "v".to_owned())].into(),
                ..Attributes::default()
            },
        },
        body,
    }
}

fn tombstone() -> Row {
    let extent = Extent {
        revision: RevisionId::from_uuid(Uuid::from_u128(9)),
        bytes: 77,
        checksum: Checksum::new(5),
    };
    row(77, RowBody::Tombstone(Manifest::of(extent)))
}

/// The test rows in older formats.
const EMBEDDED_1: &str = "01 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 \
    e807 d00f 01 0a 746578742f706c61696e 00 00 00 01 016b 0176 00 68656c6c6f";
const SEPARATE_1: &str = "01 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 \
    e807 d00f 01 0a 746578742f706c61696e 00 00 00 01 016b 0176 01";
const TOMBSTONE_1: &str = "01 ac02 10 00112233445566778899aabbccddeeff 4d 01 84868808 \
    e807 d00f 01 0a 746578742f706c61696e 00 00 00 01 016b 0176 \
    02 01 10 00000000000000000000000000000009 4d 05";
const EMBEDDED_0: &str = "00 10 00112233445566778899aabbccddeeff 05 01 84868808 \
    e807 d00f 01 0a 746578742f706c61696e 00 00 00 01 016b 0176 00 68656c6c6f";

fn bytes(hex: &str) -> Bytes {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn embedded() -> Row {
    row(5, RowBody::Embedded(Bytes::from_static(b"hello")))
}

fn expiring(mut row: Row) -> Row {
    row.metadata.expires_at = Some(Timestamp::from_millis(3000));
    row.metadata.attributes.expiration = Expiration::TimeToIdle(Duration::from_millis(1500));
    row
}

#[test]
fn the_stored_form_of_an_embedded_row_is_stable() {
    let encoded = expiring(embedded()).encode();
    assert_golden(
        &encoded,
        "02 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 01b817 \
         01 0a 746578742f706c61696e 00 00 00 01 016b 0176 02 01 80cab5ee01 00 68656c6c6f",
    );
    assert_later_format_refused(&encoded, Row::decode);
    assert_robust(&encoded, Row::decode);
}

#[test]
fn the_stored_form_of_a_tombstone_is_stable() {
    let mut renamed = tombstone();
    let RowBody::Tombstone(manifest) = &mut renamed.body else {
        unreachable!("the row is a tombstone")
    };
    let [row, written_as] = ["now", "k"].map(|key| ObjectId::try_from(key).unwrap());
    *manifest = manifest.renamed(&written_as, &row);
    let encoded = renamed.encode();
    assert_golden(
        &encoded,
        "02 ac02 10 00112233445566778899aabbccddeeff 4d 01 84868808 e807 d00f 00 \
         01 0a 746578742f706c61696e 00 00 00 01 016b 0176 00 \
         02 01 10 00000000000000000000000000000009 4d 05 01 09 64656661756c7400 6b",
    );
    assert_robust(&encoded, Row::decode);
    assert_eq!(Row::decode(&encoded).unwrap(), renamed);
}

#[test]
fn the_stored_form_of_a_relocated_tombstone_is_stable() {
    let mut relocated = tombstone();
    let manifest = manifest_of(&mut relocated);
    let payload = RevisionId::from_uuid(Uuid::from_u128(3));
    *manifest = manifest.clone().holding(Some(payload));
    let encoded = relocated.encode();
    assert_golden(
        &encoded,
        "03 ac02 10 00112233445566778899aabbccddeeff 4d 01 84868808 e807 d00f 00 \
         01 0a 746578742f706c61696e 00 00 00 01 016b 0176 00 \
         03 01 10 00000000000000000000000000000009 4d 05 00 \
         10 00000000000000000000000000000003",
    );
    assert_robust(&encoded, Row::decode);
    assert_later_format_refused(&encoded, Row::decode);
    assert_eq!(Row::decode(&encoded).unwrap(), relocated);
    let back = RevisionId::from_uuid(Uuid::from_u128(9));
    let manifest = manifest_of(&mut relocated);
    *manifest = manifest.clone().holding(Some(back));
    assert_eq!(relocated, tombstone(), "the first revision is the identity");
}

fn manifest_of(row: &mut Row) -> &mut Manifest {
    match &mut row.body {
        RowBody::Tombstone(manifest) => manifest,
        _ => unreachable!("the row is a tombstone"),
    }
}

#[test]
fn the_stored_form_of_a_row_with_separate_payload_is_stable() {
    let encoded = row(
        5,
        RowBody::Separate(OperationId::from_uuid(Uuid::from_u128(8))),
    )
    .encode();
    assert_golden(
        &encoded,
        "02 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 00 \
         01 0a 746578742f706c61696e 00 00 00 01 016b 0176 00 \
         01 10 00000000000000000000000000000008",
    );
    assert_robust(&encoded, Row::decode);
}

#[test]
fn rows_of_the_format_without_expiry_are_read() {
    assert_eq!(Row::decode(&bytes(EMBEDDED_1)).unwrap(), embedded());
    assert_eq!(Row::decode(&bytes(TOMBSTONE_1)).unwrap(), tombstone());
    let own = embedded().operation;
    assert_eq!(
        Row::decode(&bytes(SEPARATE_1)).unwrap(),
        row(5, RowBody::Separate(own)),
        "the payload is under the operation of the row"
    );
    for old in [EMBEDDED_1, SEPARATE_1, TOMBSTONE_1] {
        assert_robust(&bytes(old), Row::decode);
    }
}

#[test]
fn rows_of_the_format_without_versions_have_version_1() {
    let read = Row::decode(&bytes(EMBEDDED_0)).unwrap();
    assert_eq!(
        read,
        Row {
            version: Version::new(1),
            ..embedded()
        }
    );
    assert_robust(&bytes(EMBEDDED_0), Row::decode);
}

#[test]
fn a_row_whose_size_does_not_match_its_body_is_corrupt() {
    let mut damaged = tombstone();
    damaged.metadata.size += 1;
    assert_eq!(
        Row::decode(&damaged.encode()).unwrap_err().kind(),
        crate::ErrorKind::Corrupt
    );
}

#[test]
fn row_with_a_version_that_cannot_be_raised_is_damage() {
    let with_version = |version| Row {
        version,
        ..embedded()
    };
    let highest = with_version(Version::STORED_MAX);
    assert_eq!(Row::decode(&highest.encode()).unwrap(), highest);
    let too_high = with_version(Version::new(u64::MAX)).encode();
    let older = [&[1][..], &too_high[1..11], &bytes(EMBEDDED_1)[3..]].concat();
    for damaged in [too_high, older.into()] {
        let error = Row::decode(&damaged).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
        assert!(error.to_string().contains("version"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_row_survives_its_encoding(
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        version in 1..=Version::STORED_MAX.get(),
        separate in any::<bool>(),
    ) {
        let mut original = if separate {
            row(payload.len() as u64, RowBody::Separate(OperationId::from_uuid(Uuid::from_u128(8))))
        } else {
            row(payload.len() as u64, RowBody::Embedded(payload.into()))
        };
        original.version = Version::new(version);
        prop_assert_eq!(Row::decode(&original.encode()).unwrap(), original);
    }

    #[test]
    fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(Row::decode(&bytes.into()));
    }
}
