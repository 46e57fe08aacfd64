//! Tests of the blob tier on the memory service and on the fs service.

mod long_names;

use bytes::Bytes;
use futures::TryStreamExt;
use opendal::Operator;
use opendal::services::Memory;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::{BlobName, BlobOptions, BlobTier, FinishedBlob, FoundBlob, local, path, trailer};
use crate::env::Env;
use crate::types::{
    BLOCK_BYTES, Checksum, ErrorKind, ObjectId, PartEtag, Result, RevisionId, RevisionKey,
};

/// A tier of each service, and the directory of the fs tier.
struct Tiers {
    memory: BlobTier,
    fs: BlobTier,
    root: TempDir,
}

impl Tiers {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let tier = |operator| BlobTier::new(operator, Env::real().unwrap(), BlobOptions::default());
        let memory = tier(Operator::new(Memory::default()).unwrap());
        Self {
            memory,
            fs: tier(local(root.path()).unwrap()),
            root,
        }
    }

    fn all(&self) -> [&BlobTier; 2] {
        [&self.memory, &self.fs]
    }
}

fn revision(key: &str, number: u128) -> RevisionKey {
    RevisionKey {
        object: ObjectId::try_from(key).unwrap(),
        revision: RevisionId::from_uuid(Uuid::from_u128(number)),
    }
}

/// Returns bytes in which no two blocks are equal.
fn payload(bytes: usize) -> Bytes {
    (0..bytes)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)).to_le_bytes()[0])
        .collect()
}

async fn write(
    tier: &BlobTier,
    key: &RevisionKey,
    chunks: impl IntoIterator<Item = Bytes>,
) -> FinishedBlob {
    let mut writer = tier.writer(key);
    let mut bytes = 0;
    for chunk in chunks {
        bytes += chunk.len() as u64;
        writer.write(chunk).await.unwrap();
        assert_eq!(writer.bytes_so_far(), bytes);
    }
    writer.finish().await.unwrap()
}

async fn read(
    tier: &BlobTier,
    key: &RevisionKey,
    blob: &FinishedBlob,
) -> Result<Option<Vec<Bytes>>> {
    tier.reader(key)
        .blocks(0, blob.blocks.len(), blob.bytes, &blob.blocks)
        .await
}

async fn found(tier: &BlobTier) -> Vec<FoundBlob> {
    let mut found: Vec<FoundBlob> = tier.list().try_collect().await.unwrap();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Cuts `payload` into chunks of these lengths, which repeat.
fn cut<'a>(payload: &'a Bytes, lengths: &'a [usize]) -> impl Iterator<Item = Bytes> + 'a {
    let mut rest = payload.clone();
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths
            .next()
            .copied()
            .unwrap_or(rest.len())
            .min(rest.len());
        (!rest.is_empty()).then(|| rest.split_to(length))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_chunking_writes_the_same_blob(
        bytes in 0..5 * BLOCK_BYTES,
        lengths in proptest::collection::vec(
            prop_oneof![4096..BLOCK_BYTES, Just(BLOCK_BYTES), BLOCK_BYTES..3 * BLOCK_BYTES], 1..6
        ),
    ) {
        let payload = payload(bytes);
        let expected = FinishedBlob {
            bytes: bytes as u64,
            checksum: Checksum::of(&payload),
            blocks: payload.chunks(BLOCK_BYTES).map(Checksum::of).collect(),
            etag: PartEtag::of(&payload),
        };
        Runtime::new().unwrap().block_on(async {
            let tiers = Tiers::new();
            let key = revision("k", 1);
            for tier in tiers.all() {
                let blob = write(tier, &key, cut(&payload, &lengths)).await;
                assert_eq!(blob, expected);
                let stored = tier.operator().read(&path::path(&key)).await.unwrap();
                assert_eq!(stored.to_bytes(), payload);
                let blocks = read(tier, &key, &blob).await.unwrap().unwrap();
                assert!(blocks.iter().map(|block| &block[..]).eq(payload.chunks(BLOCK_BYTES)));
            }
        });
    }
}

#[tokio::test]
async fn lengths_around_a_block_boundary_are_read_back() {
    let tiers = Tiers::new();
    for tier in tiers.all() {
        for (number, bytes) in [
            0,
            1,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            4 * BLOCK_BYTES + 3,
        ]
        .iter()
        .enumerate()
        {
            let key = revision("border", number as u128);
            let payload = payload(*bytes);
            let blob = write(tier, &key, [payload.clone()]).await;
            assert_eq!(blob.blocks.len(), bytes.div_ceil(BLOCK_BYTES));
            assert_eq!(
                read(tier, &key, &blob).await.unwrap().unwrap().concat(),
                payload
            );
            assert_eq!(
                tier.operator()
                    .stat(&path::path(&key))
                    .await
                    .unwrap()
                    .content_length(),
                *bytes as u64
            );
        }
    }
}

#[tokio::test]
async fn range_of_blocks_is_read_alone() {
    let tiers = Tiers::new();
    let key = revision("range", 1);
    let payload = payload(4 * BLOCK_BYTES + 3);
    for tier in tiers.all() {
        let blob = write(tier, &key, [payload.clone()]).await;
        let reader = tier.reader(&key);
        for (first, count) in [(0, 1), (1, 3), (3, 2), (4, 1), (2, 0)] {
            let blocks = reader
                .blocks(first, count, blob.bytes, &blob.blocks)
                .await
                .unwrap()
                .unwrap();
            let end = ((first + count) * BLOCK_BYTES).min(payload.len());
            assert_eq!(
                blocks.concat(),
                payload[(first * BLOCK_BYTES).min(end)..end]
            );
            assert_eq!(blocks.len(), count);
        }
    }
}

#[tokio::test]
async fn flipped_bit_is_corrupt_in_its_block_only() {
    let tiers = Tiers::new();
    let key = revision("flipped", 1);
    let payload = payload(3 * BLOCK_BYTES + 5);
    for tier in tiers.all() {
        let blob = write(tier, &key, [payload.clone()]).await;
        for at in [0, BLOCK_BYTES, 2 * BLOCK_BYTES - 1, 3 * BLOCK_BYTES + 4] {
            let mut damaged = payload.to_vec();
            damaged[at] ^= 0x10;
            tier.operator()
                .write(&path::path(&key), damaged)
                .await
                .unwrap();
            let reader = tier.reader(&key);
            for block in 0..blob.blocks.len() {
                let outcome = reader.blocks(block, 1, blob.bytes, &blob.blocks).await;
                if block == at / BLOCK_BYTES {
                    let error = outcome.unwrap_err();
                    assert_eq!(
                        (error.kind(), error.id()),
                        (ErrorKind::Corrupt, Some(&key.object))
                    );
                } else {
                    assert_eq!(
                        outcome.unwrap().unwrap().concat(),
                        payload.chunks(BLOCK_BYTES).nth(block).unwrap()
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn truncated_blob_is_corrupt() {
    let tiers = Tiers::new();
    let key = revision("truncated", 1);
    let payload = payload(2 * BLOCK_BYTES + 5);
    for tier in tiers.all() {
        let blob = write(tier, &key, [payload.clone()]).await;
        for bytes in [payload.len() - 1, 2 * BLOCK_BYTES, BLOCK_BYTES + 1, 1, 0] {
            tier.operator()
                .write(&path::path(&key), payload.slice(..bytes))
                .await
                .unwrap();
            assert_eq!(
                read(tier, &key, &blob).await.unwrap_err().kind(),
                ErrorKind::Corrupt,
                "bytes={bytes}"
            );
        }
    }
}

#[tokio::test]
async fn wrong_number_of_checksums_is_corrupt() {
    let tiers = Tiers::new();
    let key = revision("unfitting", 1);
    for tier in tiers.all() {
        let blob = write(tier, &key, [payload(BLOCK_BYTES + 1)]).await;
        for (bytes, checksums) in [
            (blob.bytes, &blob.blocks[..1]),
            (blob.bytes, &[]),
            (BLOCK_BYTES as u64, &blob.blocks[..]),
        ] {
            let outcome = tier.reader(&key).blocks(0, 1, bytes, checksums).await;
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}

#[tokio::test]
async fn missing_blob_reads_as_none_and_deletes_as_ok() {
    let tiers = Tiers::new();
    let key = revision("missing", 1);
    for tier in tiers.all() {
        tier.delete(&key).await.unwrap();
        let blob = write(tier, &key, [payload(10)]).await;
        tier.delete(&key).await.unwrap();
        assert_eq!(read(tier, &key, &blob).await.unwrap(), None);
        tier.delete(&key).await.unwrap();
        tier.settle_deletes(&[key.clone(), revision("never written", 2)])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn open_file_is_readable_after_its_deletion() {
    let tiers = Tiers::new();
    let key = revision("unlinked", 1);
    let payload = payload(2 * BLOCK_BYTES);
    let blob = write(&tiers.fs, &key, [payload.clone()]).await;
    let reader = tiers.fs.reader(&key);
    reader
        .blocks(0, 1, blob.bytes, &blob.blocks)
        .await
        .unwrap()
        .unwrap();
    tiers.fs.delete(&key).await.unwrap();
    let rest = reader
        .clone()
        .blocks(1, 1, blob.bytes, &blob.blocks)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest.concat(), payload[BLOCK_BYTES..]);
}

#[tokio::test]
async fn listing_returns_and_names_written_blobs() {
    let tiers = Tiers::new();
    let keys = [
        revision("a", 1),
        revision("../B c", 2),
        revision(&"x/".repeat(512), 3),
        revision("a", 0x0100),
    ];
    for tier in tiers.all() {
        assert_eq!(found(tier).await, []);
        for (bytes, key) in keys.iter().enumerate() {
            write(tier, key, [payload(bytes)]).await;
        }
        tier.operator().write("stray", "!").await.unwrap();
        let mut expected: Vec<FoundBlob> = keys
            .iter()
            .zip(0..)
            .map(|(key, bytes)| FoundBlob {
                path: path::path(key),
                revision: Some(key.revision),
                bytes: Some(bytes + trailer::length(&key.object)),
            })
            .collect();
        expected.push(FoundBlob {
            path: "stray".to_owned(),
            revision: None,
            bytes: Some(1),
        });
        expected.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(found(tier).await, expected);
        for blob in expected {
            let key = keys.iter().find(|key| Some(key.revision) == blob.revision);
            let name = key.map_or(BlobName::Unknown, |key| BlobName::Of(key.clone()));
            assert_eq!(tier.name_of(&blob).await.unwrap(), name);
        }
    }
}

#[tokio::test]
async fn listing_survives_files_that_vanish() {
    let tiers = Tiers::new();
    let keys: Vec<_> = (0..300)
        .map(|number| revision("vanishing", number))
        .collect();
    for key in &keys {
        tiers
            .fs
            .operator()
            .write(&path::path(key), "x")
            .await
            .unwrap();
    }
    let mut listing = tiers.fs.list();
    let mut listed = 1;
    assert!(listing.try_next().await.unwrap().is_some());
    for fan in std::fs::read_dir(tiers.root.path()).unwrap() {
        std::fs::remove_dir_all(fan.unwrap().path()).unwrap();
    }
    while listing.try_next().await.unwrap().is_some() {
        listed += 1;
    }
    assert!(listed < keys.len());
}

#[tokio::test]
async fn writer_touches_no_blob_before_a_unit_is_full() {
    let tiers = Tiers::new();
    for tier in tiers.all() {
        let mut writer = tier.writer(&revision("lazy", 1));
        writer.write(payload(BLOCK_BYTES - 1)).await.unwrap();
        drop(writer);
        assert_eq!(found(tier).await, []);
    }
}

#[tokio::test]
async fn delete_removes_the_rest_of_a_dropped_writer() {
    let tiers = Tiers::new();
    let key = revision("dropped", 1);
    for tier in tiers.all() {
        let mut writer = tier.writer(&key);
        writer.write(payload(9 * BLOCK_BYTES)).await.unwrap();
        drop(writer);
        tier.delete(&key).await.unwrap();
        assert_eq!(found(tier).await, []);
        let mut writer = tier.writer(&key);
        writer.write(payload(9 * BLOCK_BYTES)).await.unwrap();
        writer.abandon().await;
        tier.delete(&key).await.unwrap();
        assert_eq!(found(tier).await, []);
    }
}

#[tokio::test]
async fn upload_buffer_is_bounded_by_length_and_limit() {
    let tiers = Tiers::new();
    assert_eq!(tiers.fs.upload_buffer_bytes(None), 9 * BLOCK_BYTES);
    assert_eq!(
        tiers.memory.upload_buffer_bytes(None),
        (8 * 6 + 1) * BLOCK_BYTES
    );
    for tier in tiers.all() {
        assert_eq!(
            tier.upload_buffer_bytes(Some(BLOCK_BYTES as u64 + 1)),
            2 * BLOCK_BYTES
        );
        assert_eq!(
            tier.upload_buffer_bytes(Some(u64::MAX)),
            tier.upload_buffer_bytes(None)
        );
        assert_eq!(tier.upload_buffer_bytes(Some(0)), 0);
    }
}

#[test]
fn options_have_defaults_and_refuse_unknown_fields() {
    let options: BlobOptions = serde_json::from_str("{\"concurrent\":2}").unwrap();
    assert_eq!(
        options,
        BlobOptions {
            concurrent: 2,
            ..BlobOptions::default()
        }
    );
    assert!(serde_json::from_str::<BlobOptions>("{\"chunks\":2}").is_err());
}
