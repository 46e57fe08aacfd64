//! Names in the blob tier: paths, trailers of long names, the marker of the owner.

use cenotaph_fuzz::Target;
use cenotaph_storage::blobs::path::{self, PATH_BYTES_MAX};
use cenotaph_storage::blobs::{marker, trailer};
use cenotaph_storage::{Namespace, ObjectId, RevisionId, RevisionKey, StoreId};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::contract::{assert_typed, hex};

fn revision() -> RevisionId {
    RevisionId::from_uuid(Uuid::from_u128(0x0198_c5a2_1f00_7abc_8def_0000_0000_007f))
}

fn key(key: &str) -> RevisionKey {
    let namespace = Namespace::new("photos")
        .unwrap()
        .with_scope("org", "17")
        .unwrap();
    RevisionKey {
        object: ObjectId::new(&namespace, key).unwrap(),
        revision: revision(),
    }
}

fn keys() -> [RevisionKey; 4] {
    [
        "k",
        "holidays/2026.JPG",
        &"\u{e9}".repeat(200),
        &"x".repeat(1024),
    ]
    .map(key)
}

#[test]
fn path_of_a_revision() {
    let paths = keys().into_iter().flat_map(|key| {
        [Some(path::path(&key)), path::older_path(&key)]
            .into_iter()
            .flatten()
    });
    Target::new("path of a revision", paths).run_text(|text| {
        match path::from_path(text) {
            Ok(key) => {
                let older = path::older_path(&key).unwrap_or_else(|| path::path(&key));
                assert_eq!(older, text, "two paths of one revision");
                assert_eq!(path::revision_at(text), Some(key.revision));
                assert!(path::path(&key).len() <= PATH_BYTES_MAX);
            }
            Err(error) => assert_typed(&error),
        }
        let revision = path::revision_at(text);
        assert!(revision.is_none_or(|revision| text.ends_with(&revision.to_string())));
        revision.is_some()
    });
}

/// Repairs length and checksum of a trailer, if it has the shape of one.
fn seal_trailer(bytes: &mut Vec<u8>) {
    const HEAD: &[u8] = b"\ncenotaph-object\n";
    const FOOT_BYTES: usize = 34;
    let Some(head) = bytes.windows(HEAD.len()).rposition(|window| window == HEAD) else {
        return;
    };
    let id_at = head + HEAD.len();
    let Some(foot_at) = bytes
        .len()
        .checked_sub(FOOT_BYTES)
        .filter(|&at| at >= id_at)
    else {
        return;
    };
    let mut id = bytes[id_at..foot_at].to_vec();
    let Some(end) = id.iter().position(|&byte| byte == b'\n') else {
        return;
    };
    id[end] = 0;
    let sum = xxh3_64(&[&revision().as_bytes()[..], &id].concat());
    let foot = format!("\n{:04} {sum:016x} cenotaph-1\n", id.len());
    bytes.truncate(foot_at);
    bytes.extend_from_slice(foot.as_bytes());
}

#[test]
fn trailer_of_a_long_name() {
    let trailers = keys().into_iter().filter_map(|key| trailer::encode(&key));
    let blobs =
        trailers.flat_map(|trailer| [trailer.to_vec(), [b"payload", &trailer[..]].concat()]);
    let target = Target::new("trailer of a long name", blobs).sealed(seal_trailer);
    target.run(|tail| {
        let Some(object) = trailer::decode(tail, revision()) else {
            return false;
        };
        let other = RevisionId::from_uuid(Uuid::from_u128(8));
        assert_eq!(
            trailer::decode(tail, other),
            None,
            "the trailer of another revision"
        );
        let key = RevisionKey {
            object,
            revision: revision(),
        };
        // A trailer of a short name is never written, and names its object all the same.
        if let Some(encoded) = trailer::encode(&key) {
            assert_eq!(encoded.len() as u64, trailer::length(&key.object));
            assert_eq!(trailer::decode(&encoded, key.revision), Some(key.object));
        }
        true
    });
}

#[test]
fn marker_of_the_owner() {
    let golden = hex("43454e4f54415048010102030405060708090a0b0c0d0e0f1091c038d95fe42a03");
    let seal = |bytes: &mut Vec<u8>| {
        if let Some(sum_at) = bytes.len().checked_sub(8) {
            let sum = xxh3_64(&bytes[..sum_at]);
            bytes[sum_at..].copy_from_slice(&sum.to_le_bytes());
        }
    };
    let id = StoreId::from_slice(&golden[9..25]).unwrap();
    let later = hex(
        "43454e4f54415048020102030405060708090a0b0c0d0e0f10000000000000000000000000000000f06f2bf8647190c44e",
    );
    let target = Target::new("marker of the owner", [golden.clone(), later]).sealed(seal);
    target.run(|input| {
        assert!(!marker::is_unfinished(input, id) || input.len() <= golden.len());
        match marker::decode(input) {
            Ok(mark) => {
                assert_eq!(marker::encode(mark), input, "two markers of one store");
                true
            }
            Err(error) => {
                assert_typed(&error);
                false
            }
        }
    });
}
