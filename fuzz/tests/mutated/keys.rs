//! Keys of the index. Their encoding is canonical: an accepted key is the key of its value.

use std::fmt::Debug;

use bytes::Bytes;
use cenotaph_fuzz::Target;
use cenotaph_storage::records::{
    Due, decode_upload_record_key, expiry_key, last_version_key, last_version_object, part_key,
    read_expiry_key, read_part_key, upload_expiry_key, upload_record_key,
};
use cenotaph_storage::{
    Namespace, ObjectId, OperationId, PartNumber, Result, RevisionId, StoreId, Timestamp, UploadId,
};

use super::contract::{assert_typed, hex};

fn run_key<T: Debug>(
    name: &'static str,
    keys: impl IntoIterator<Item = Bytes>,
    decode: impl Fn(&[u8]) -> Result<T>,
    encode: impl Fn(&T) -> Bytes,
) {
    Target::new(name, keys).run(|input| match decode(input) {
        Ok(value) => {
            assert_eq!(encode(&value), input, "two keys of {value:?}");
            true
        }
        Err(error) => {
            assert_typed(&error);
            false
        }
    });
}

fn ids() -> [ObjectId; 3] {
    let scoped = Namespace::new("photos")
        .unwrap()
        .with_scope("org", "17")
        .unwrap();
    [
        ObjectId::try_from("k").unwrap(),
        ObjectId::new(&scoped, "a\0b/\u{e9}").unwrap(),
        ObjectId::new(&scoped, &"long".repeat(256)).unwrap(),
    ]
}

fn upload() -> UploadId {
    UploadId::new(Timestamp::from_millis(1), [1, 2])
}

#[test]
fn object_id() {
    let keys = ids().map(|id| id.encoded().clone());
    run_key("object id", keys, ObjectId::decode, |id| {
        assert_eq!(ObjectId::new(&id.namespace(), id.key()).unwrap(), *id);
        assert!(id.encoded().starts_with(&id.namespace().encoded_prefix()));
        assert!(!id.to_string().chars().any(char::is_control));
        id.encoded().clone()
    });
}

#[test]
fn key_of_a_last_version() {
    run_key(
        "key of a last version",
        ids().map(|id| last_version_key(&id)),
        last_version_object,
        last_version_key,
    );
}

#[test]
fn key_of_an_upload_record() {
    let keys = ids().map(|id| upload_record_key(&id, &upload()));
    run_key(
        "key of an upload record",
        keys,
        decode_upload_record_key,
        |(id, upload)| upload_record_key(id, upload),
    );
}

#[test]
fn key_of_a_part() {
    let key = Bytes::from(hex(
        "01 000000000001 0000000000000001 0000000000000002 0102",
    ));
    let last = part_key(&upload(), PartNumber::new(10_000).unwrap());
    run_key(
        "key of a part",
        [key, last],
        read_part_key,
        |(upload, number)| part_key(upload, *number),
    );
}

#[test]
fn key_of_an_expiry_entry() {
    let at = Timestamp::from_millis(0x1234);
    let keys = ids()
        .into_iter()
        .flat_map(|id| [expiry_key(at, &id), upload_expiry_key(at, &id, &upload())]);
    run_key(
        "key of an expiry entry",
        keys,
        read_expiry_key,
        |(at, due)| match due {
            Due::Object(id) => expiry_key(*at, id),
            Due::Upload(id, upload) => upload_expiry_key(*at, id, upload),
        },
    );
}

#[test]
fn uuid_keys() {
    // Version 7, 1 and 6, and none.
    let uuids = [
        "0198c5a21f007abc8def00000000007f",
        "c232ab00941411ecb3c89f6bdeced846",
        "1ec9414c232a6b00b3c89f6bdeced846",
        "00000000000000000000000000000000",
    ];
    Target::new("uuid keys", uuids.map(hex)).run(|input| {
        let revision = RevisionId::from_slice(input);
        assert_eq!(revision.is_some(), input.len() == 16);
        assert_eq!(OperationId::from_slice(input).is_some(), revision.is_some());
        assert_eq!(StoreId::from_slice(input).is_some(), revision.is_some());
        revision.is_some_and(|revision| {
            let _ = revision.born();
            revision.as_bytes() == input
        })
    });
}
