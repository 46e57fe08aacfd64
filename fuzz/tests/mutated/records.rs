//! Records of the index: mutated golden fixtures of every format.

use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::decide::{Precondition, PutResult, WriteOutcome};
use cenotaph_storage::records::{
    Attributes, BaseVersion, BlockChecksums, Change, Filed, LastVersion, Orphan, PartsDigest, Row,
    RowBody, StoreRecord, UploadPhase, UploadRecord, check_expiry_value, expiry_value, is_live,
};
use cenotaph_storage::{Etag, ObjectId, OperationId, Timestamp, Version};
use uuid::Uuid;

use super::contract::{assert_typed, hex, run_record};

/// Rows of formats 3, 2, 1 and 0: relocated, embedded, separate, tombstone, renamed tombstone.
const ROWS: [&str; 9] = [
    "03 ac02 10 00112233445566778899aabbccddeeff 4d 01 84868808 e807 d00f 00 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 00 03 01 10 00000000000000000000000000000009 4d 05 \
     00 10 00000000000000000000000000000003",
    "02 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 01b817 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 02 01 80cab5ee01 00 68656c6c6f",
    "02 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 00 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 00 01 10 00000000000000000000000000000008",
    "02 ac02 10 00112233445566778899aabbccddeeff 4d 01 84868808 e807 d00f 00 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 00 02 01 10 00000000000000000000000000000009 4d 05 \
     01 09 64656661756c7400 6b",
    "02 ac02 10 00112233445566778899aabbccddeeff 4e 00 e807 d00f 00 00 00 00 00 00 00 02 02 \
     10 00000000000000000000000000000009 4d 05 10 0000000000000000000000000000000a 01 06 00",
    "01 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 00 68656c6c6f",
    "01 ac02 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 01",
    "01 ac02 10 00112233445566778899aabbccddeeff 4d 01 84868808 e807 d00f 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 02 01 10 00000000000000000000000000000009 4d 05",
    "00 10 00112233445566778899aabbccddeeff 05 01 84868808 e807 d00f 01 0a \
     746578742f706c61696e 00 00 00 01 016b 0176 00 68656c6c6f",
];

/// Calls the pure functions that a read or a write asks of a row.
fn use_row(row: &Row) {
    let id = ObjectId::try_from("k").unwrap();
    let now = Timestamp::from_millis(5000);
    let _ = row.version.next();
    assert_eq!(row.etag().operation(), row.operation);
    assert_eq!(row.revision_keys(&id).len(), row.revisions().len());
    assert_eq!(row.is_live(now), is_live(row.metadata.expires_at, now));
    let expiration = row.metadata.attributes.expiration;
    let _ = (expiration.deadline(now), expiration.validate());
    let _ = expiration.extended_by_read(row.metadata.expires_at, now);
    let _ = row.metadata.attributes.validate();
    let RowBody::Tombstone(manifest) = &row.body else {
        return;
    };
    assert_eq!(manifest.bytes(), Some(row.metadata.size));
    let blocks = manifest
        .extents()
        .iter()
        .map(|extent| u128::from(extent.block_count()));
    assert!(blocks.sum::<u128>() <= u128::from(row.metadata.size));
    let middle = row.metadata.size / 2;
    for (start, extent) in manifest.within(&(middle..row.metadata.size)) {
        assert!(start + extent.bytes > middle, "{start} {extent:?}");
    }
}

#[test]
fn row() {
    run_record("row", ROWS.map(hex), Row::encode, Row::decode, use_row);
}

#[test]
fn change() {
    let fixtures = [
        "01 03 e807 0b 64656661756c7400612f62 01 10 00000000000000000000000000000007",
        "01 03 e807 0b 64656661756c7400612f62 00",
    ];
    run_record(
        "change",
        fixtures.map(hex),
        Change::encode,
        Change::decode,
        |change| {
            for revision in &change.revisions {
                let _ = revision.born();
            }
        },
    );
}

#[test]
fn orphan() {
    let fixture = hex("01 0b 64656661756c7400612f62 e807 d00f 01 01");
    run_record(
        "orphan",
        [fixture],
        Orphan::encode,
        Orphan::decode,
        |orphan| {
            let (now, minute) = (Timestamp::from_millis(1500), Duration::from_secs(60));
            let _ = orphan.due(now, minute);
            let _ = orphan.clone().failed(now, minute);
            let _ = orphan.clone().deleted(now, Duration::MAX);
        },
    );
}

#[test]
fn upload_record() {
    let written = PutResult {
        outcome: WriteOutcome::Applied,
        version: Some(Version::new(8)),
        etag: Some(Etag::of(&OperationId::from_uuid(Uuid::from_u128(9)))),
        created: true,
    };
    let completed = UploadRecord {
        initiated: Timestamp::from_millis(1000),
        expires_at: Timestamp::from_millis(2000),
        attributes: Attributes::default(),
        precondition: Precondition::Etag(written.etag.unwrap()),
        phase: UploadPhase::Completed {
            parts: PartsDigest([5; 32]),
            written,
        },
    };
    let fixtures = [
        hex("01 e807 d00f 01 03 612f62 00 00 00 00 00 02 07 00"),
        completed.encode().to_vec(),
        UploadRecord {
            phase: UploadPhase::Aborted,
            precondition: Precondition::Absent,
            ..completed
        }
        .encode()
        .to_vec(),
    ];
    run_record(
        "upload record",
        fixtures,
        UploadRecord::encode,
        UploadRecord::decode,
        |record| {
            let _ = record.is_live(Timestamp::from_millis(0));
            if let Err(error) = record.check_open() {
                assert_typed(&error);
            }
        },
    );
}

#[test]
fn part() {
    let fixtures = [
        "01 10 00000000000000000000000000000007 ac02 01 05 e807",
        "01 00",
    ];
    run_record(
        "part",
        fixtures.map(hex),
        Filed::encode,
        Filed::decode,
        |filed| {
            let _ = filed.part().map(|part| part.extent.block_count());
        },
    );
}

#[test]
fn block_checksums() {
    let fixture = hex("01 0100000000000000 edfe000000000000");
    run_record(
        "block checksums",
        [fixture],
        BlockChecksums::encode,
        BlockChecksums::decode,
        |_| (),
    );
}

#[test]
fn store_record() {
    let fixtures = [
        "01 10 0102030405060708090a0b0c0d0e0f10 00",
        "01 10 0102030405060708090a0b0c0d0e0f10 01",
        "02 10 00000000000000000000000000000007 ac02 01 10 0000000000000000000000000000000a \
         02 00 00 02 01 10 0000000000000000000000000000000b \
         01 ad02 01 10 0000000000000000000000000000000c 01 78",
    ];
    run_record(
        "store record",
        fixtures.map(hex),
        StoreRecord::encode,
        StoreRecord::decode,
        |_| (),
    );
}

#[test]
fn last_version() {
    run_record(
        "last version",
        [hex("01 ac02"), hex("02 ac02 e807")],
        LastVersion::encode,
        LastVersion::decode,
        |last| {
            let _ = last.version.next();
        },
    );
}

#[test]
fn base_version() {
    run_record(
        "base version",
        [hex("01 ac02 e807")],
        BaseVersion::encode,
        BaseVersion::decode,
        |base| {
            let _ = base.version.next();
        },
    );
}

#[test]
fn expiry_value_is_checked() {
    let decode = |value: &Bytes| check_expiry_value(value);
    run_record(
        "expiry value",
        [vec![1]],
        |()| expiry_value(),
        decode,
        |()| (),
    );
}
