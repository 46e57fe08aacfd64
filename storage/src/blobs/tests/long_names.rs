//! Tests of blobs of objects with long names: in the fan-out with the whole id in the trailer, and
//! at the older paths of earlier builds.

use bytes::Bytes;
use futures::TryStreamExt;
use opendal::Operator;
use opendal::services::Memory;
use tempfile::TempDir;
use uuid::Uuid;

use crate::blobs::path::{PATH_BYTES_MAX, older_path, path};
use crate::blobs::{
    BlobName, BlobOptions, BlobTier, FinishedBlob, FoundBlob, local, path_bytes_max, trailer,
};
use crate::env::Env;
use crate::types::{
    BLOCK_BYTES, ErrorKind, KEY_BYTES_MAX, NAMESPACE_PART_BYTES_MAX, NAMESPACE_SCOPES_MAX,
    Namespace, ObjectId, RevisionId, RevisionKey,
};

/// Number of directories of a local tier, which does not depend on its contents.
const FAN_OUT: usize = 256;

fn tier(operator: Operator) -> BlobTier {
    BlobTier::new(operator, Env::real().unwrap(), BlobOptions::default())
}

fn tiers(root: &TempDir) -> [BlobTier; 2] {
    [
        tier(local(root.path()).unwrap()),
        tier(Operator::new(Memory::default()).unwrap()),
    ]
}

fn revision(key: &str, number: u128) -> RevisionKey {
    RevisionKey {
        object: ObjectId::try_from(key).unwrap(),
        revision: RevisionId::from_uuid(Uuid::from_u128(number)),
    }
}

fn long(number: u128) -> RevisionKey {
    revision(&format!("{}{number}", "財務報告".repeat(20)), number)
}

async fn write(tier: &BlobTier, key: &RevisionKey, payload: &Bytes) -> FinishedBlob {
    let mut writer = tier.writer(key);
    writer.write(payload.clone()).await.unwrap();
    writer.finish().await.unwrap()
}

async fn read(tier: &BlobTier, key: &RevisionKey, blob: &FinishedBlob) -> Option<Bytes> {
    let blocks = tier
        .reader(key)
        .blocks(0, blob.blocks.len(), blob.bytes, &blob.blocks)
        .await
        .unwrap();
    blocks.map(|blocks| blocks.concat().into())
}

async fn found(tier: &BlobTier) -> Vec<FoundBlob> {
    tier.list().try_collect().await.unwrap()
}

/// Deletes a blob as the sweeper does.
async fn delete(tier: &BlobTier, key: &RevisionKey) {
    tier.delete(key).await.unwrap();
    tier.settle_deletes(std::slice::from_ref(key))
        .await
        .unwrap();
}

/// Moves a blob to the path of an earlier build and removes its trailer, which earlier builds did
/// not write.
async fn make_older(tier: &BlobTier, key: &RevisionKey) {
    let operator = tier.operator();
    let blob = operator.read(&path(key)).await.unwrap().to_bytes();
    let payload = blob.slice(..blob.len() - usize::try_from(trailer::length(&key.object)).unwrap());
    operator
        .write(&older_path(key).unwrap(), payload)
        .await
        .unwrap();
    operator.delete(&path(key)).await.unwrap();
}

fn directories(root: &TempDir) -> usize {
    let mut count = 0;
    let mut left = vec![root.path().to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                count += 1;
                left.push(entry.path());
            }
        }
    }
    count
}

fn valid_ids() -> Vec<ObjectId> {
    let part = "N".repeat(NAMESPACE_PART_BYTES_MAX);
    let scoped = |namespace: Namespace, _| namespace.with_scope(&part, &part).unwrap();
    let longest = (0..NAMESPACE_SCOPES_MAX).fold(Namespace::new(&part).unwrap(), scoped);
    let keys = [
        "é".repeat(160),
        "é".repeat(341),
        "é".repeat(512),
        "A".repeat(KEY_BYTES_MAX),
        "\n".repeat(KEY_BYTES_MAX),
    ];
    let of_default = keys
        .iter()
        .map(|key| ObjectId::try_from(key.as_str()).unwrap());
    let of_longest = keys.iter().map(|key| ObjectId::new(&longest, key).unwrap());
    of_default.chain(of_longest).collect()
}

#[tokio::test]
async fn every_valid_id_is_written_to_every_tier() {
    let root = TempDir::new().unwrap();
    for tier in tiers(&root) {
        tier.check_root().unwrap();
        for (number, object) in valid_ids().into_iter().enumerate() {
            let key = RevisionKey {
                object,
                revision: RevisionId::from_uuid(Uuid::from_u128(number as u128)),
            };
            let payload = Bytes::from(vec![b'p'; number * BLOCK_BYTES / 4]);
            let blob = write(&tier, &key, &payload).await;
            assert_eq!(tier.stat(&key).await.unwrap(), Some(payload.len() as u64));
            assert_eq!(read(&tier, &key, &blob).await, Some(payload));
        }
        for blob in found(&tier).await {
            let BlobName::Of(key) = tier.name_of(&blob).await.unwrap() else {
                panic!("blob without a name: {blob:?}")
            };
            assert_eq!(path(&key), blob.path);
            delete(&tier, &key).await;
        }
        assert_eq!(found(&tier).await, []);
    }
}

#[test]
fn every_path_fits_below_a_long_root_in_a_bucket() {
    for object in valid_ids() {
        let key = RevisionKey {
            object,
            revision: RevisionId::from_uuid(Uuid::from_u128(7)),
        };
        assert!(path(&key).len() <= PATH_BYTES_MAX);
    }
    assert!("/root/".len() + 790 + PATH_BYTES_MAX <= path_bytes_max("s3"));
}

#[tokio::test]
async fn long_names_leave_no_directory_behind() {
    let root = TempDir::new().unwrap();
    let tier = tier(local(root.path()).unwrap());
    let mut after_rounds = Vec::new();
    for round in 0..3 {
        for number in 0..100 {
            let key = revision(&format!("{round}/{number}/{}", "HTTPS".repeat(60)), number);
            write(&tier, &key, &"x".into()).await;
            delete(&tier, &key).await;
        }
        after_rounds.push(directories(&root));
    }
    assert_eq!(after_rounds, [FAN_OUT; 3]);
}

#[tokio::test]
async fn long_blob_contains_its_bytes_and_its_trailer() {
    let root = TempDir::new().unwrap();
    for tier in tiers(&root) {
        for (number, bytes) in [0, 1, BLOCK_BYTES, 4 * BLOCK_BYTES, 5 * BLOCK_BYTES + 3]
            .into_iter()
            .enumerate()
        {
            let key = long(number as u128);
            let payload = Bytes::from(vec![b'p'; bytes]);
            let blob = write(&tier, &key, &payload).await;
            assert_eq!(
                (blob.bytes, blob.checksum),
                (bytes as u64, crate::types::Checksum::of(&payload))
            );
            let whole = tier.operator().read(&path(&key)).await.unwrap().to_bytes();
            assert_eq!(
                whole,
                [&payload[..], &trailer::encode(&key).unwrap()[..]].concat()
            );
        }
    }
}

#[tokio::test]
async fn long_blob_that_is_too_short_is_corrupt() {
    let root = TempDir::new().unwrap();
    let key = long(1);
    let payload = Bytes::from(vec![b'p'; BLOCK_BYTES + 7]);
    for tier in tiers(&root) {
        let blob = write(&tier, &key, &payload).await;
        let whole = tier.operator().read(&path(&key)).await.unwrap().to_bytes();
        for bytes in [0, BLOCK_BYTES, payload.len() - 1] {
            tier.operator()
                .write(&path(&key), whole.slice(..bytes))
                .await
                .unwrap();
            let read = tier
                .reader(&key)
                .blocks(0, 2, blob.bytes, &blob.blocks)
                .await;
            assert_eq!(
                read.unwrap_err().kind(),
                ErrorKind::Corrupt,
                "bytes={bytes}"
            );
            assert_ne!(tier.stat(&key).await.unwrap(), Some(blob.bytes));
        }
        // Without its trailer, the blob still contains the bytes of the object.
        tier.operator()
            .write(&path(&key), payload.clone())
            .await
            .unwrap();
        assert_eq!(read(&tier, &key, &blob).await.unwrap(), payload);
        assert_ne!(tier.stat(&key).await.unwrap(), Some(blob.bytes));
    }
}

#[tokio::test]
async fn only_an_intact_trailer_at_its_path_names_a_blob() {
    let root = TempDir::new().unwrap();
    let key = long(1);
    let other = long(2);
    for tier in tiers(&root) {
        write(&tier, &key, &"payload".into()).await;
        let blob = found(&tier).await.remove(0);
        assert_eq!(
            tier.name_of(&blob).await.unwrap(),
            BlobName::Of(key.clone())
        );
        let unknown_length = FoundBlob {
            bytes: None,
            ..blob.clone()
        };
        assert_eq!(
            tier.name_of(&unknown_length).await.unwrap(),
            BlobName::Of(key.clone())
        );

        let whole = tier.operator().read(&path(&key)).await.unwrap().to_bytes();
        tier.operator()
            .write(&path(&other), whole.clone())
            .await
            .unwrap();
        let moved = FoundBlob {
            path: path(&other),
            revision: Some(other.revision),
            bytes: blob.bytes,
        };
        assert_eq!(tier.name_of(&moved).await.unwrap(), BlobName::Unknown);

        tier.operator()
            .write(&path(&key), whole.slice(..whole.len() - 1))
            .await
            .unwrap();
        assert_eq!(
            tier.name_of(&unknown_length).await.unwrap(),
            BlobName::Unknown
        );
        tier.delete(&key).await.unwrap();
        assert_eq!(tier.name_of(&unknown_length).await.unwrap(), BlobName::Gone);
        tier.delete(&other).await.unwrap();
    }
}

#[tokio::test]
async fn blob_at_its_older_path_is_read_named_and_deleted() {
    let root = TempDir::new().unwrap();
    let payload = Bytes::from(vec![b'p'; 2 * BLOCK_BYTES + 3]);
    for tier in tiers(&root) {
        let key = long(1);
        let missing = long(2);
        let blob = write(&tier, &key, &payload).await;
        make_older(&tier, &key).await;
        assert_eq!(tier.stat(&key).await.unwrap(), Some(blob.bytes));
        assert_eq!(read(&tier, &key, &blob).await, Some(payload.clone()));
        let hasher = tier.reader(&key).hash(blob.bytes).await.unwrap().unwrap();
        assert_eq!(hasher.finish(), (blob.checksum, blob.blocks.clone()));
        let listed = found(&tier).await.remove(0);
        assert_eq!(
            (listed.path.as_str(), listed.bytes),
            (older_path(&key).unwrap().as_str(), Some(blob.bytes))
        );
        assert_eq!(
            tier.name_of(&listed).await.unwrap(),
            BlobName::Of(key.clone())
        );

        assert_eq!(tier.stat(&missing).await.unwrap(), None);
        assert_eq!(read(&tier, &missing, &blob).await, None);
        let short = tier
            .reader(&key)
            .blocks(0, 4, blob.bytes + BLOCK_BYTES as u64, &[blob.checksum; 4])
            .await;
        assert_eq!(short.unwrap_err().kind(), ErrorKind::Corrupt);

        delete(&tier, &key).await;
        assert_eq!(found(&tier).await, []);
        assert_eq!(read(&tier, &key, &blob).await, None);
        delete(&tier, &key).await;
    }
    assert_eq!(directories(&root), FAN_OUT);
}

#[tokio::test]
async fn open_older_file_is_readable_after_its_deletion() {
    let root = TempDir::new().unwrap();
    let tier = tier(local(root.path()).unwrap());
    let key = long(1);
    let payload = Bytes::from(vec![b'p'; 2 * BLOCK_BYTES]);
    let blob = write(&tier, &key, &payload).await;
    make_older(&tier, &key).await;
    let reader = tier.reader(&key);
    reader
        .blocks(0, 1, blob.bytes, &blob.blocks)
        .await
        .unwrap()
        .unwrap();
    delete(&tier, &key).await;
    let rest = reader
        .clone()
        .blocks(1, 1, blob.bytes, &blob.blocks)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest.concat(), payload[BLOCK_BYTES..]);
}

#[tokio::test]
async fn older_directory_is_removed_with_its_last_blob() {
    let root = TempDir::new().unwrap();
    let tier = tier(local(root.path()).unwrap());
    // Both have the same name and fan-out, so they are in the same directories.
    let one = revision(&"漢".repeat(100), 0x0107);
    let two = revision(&"漢".repeat(100), 0x0207);
    for key in [&one, &two] {
        write(&tier, key, &"x".into()).await;
        make_older(&tier, key).await;
    }
    let full = directories(&root);
    assert!(full > FAN_OUT);
    delete(&tier, &one).await;
    assert_eq!(directories(&root), full);
    assert_eq!(tier.stat(&two).await.unwrap(), Some(1));
    delete(&tier, &two).await;
    assert_eq!(directories(&root), FAN_OUT);
}
