//! `migrate` from an embedded store to a shared one, and back.

use serde_json::{Value, json};

use super::server::SharedWorld;
use crate::world::{World, ends, noise, signal};

/// Sizes of objects in the rows, beside the rows, and in the blob tier.
const SIZES: [(&str, usize); 4] = [
    ("empty", 0),
    ("small", 100),
    ("medium", 100_000),
    ("large", 2_500_000),
];

/// Objects of a killed migration, and the bytes of each.
const OBJECTS: usize = 60;
const BYTES: usize = 20_000;
/// Payloads over this size are in the blob tier.
const INLINE: &str = "1000";

/// Returns everything that a move keeps of an object.
fn kept(world: &World, key: &str, options: &[&str]) -> Value {
    let mut stat = world
        .ok(&[&["stat", key, "--json"], options].concat())
        .json()
        .remove(0);
    let stat = stat.as_object_mut().unwrap();
    // Names of a version in its store.
    stat.remove("version");
    stat.remove("etag");
    json!(stat)
}

/// Fills the embedded store in this directory, and returns what must arrive.
fn fill(world: &World, data: &str) -> Vec<(String, Value)> {
    for (name, bytes) in SIZES {
        world.write("file", &noise(bytes));
        for (key, more) in [
            (
                name.to_owned(),
                &["--meta", "a=b", "--content-type", "x/y"][..],
            ),
            (format!("{name}/ttl"), &["--ttl", "30d"]),
            (format!("{name}/tti"), &["--tti", "12h", "--meta", "c=d"]),
        ] {
            let put = ["put", &key, "file", "--data", data];
            world.ok(&[&put[..], more].concat());
        }
    }
    world.ok(&["put", "gone", "file", "--data", data]);
    world.ok(&["rm", "gone", "--data", data]);
    let mut keys = Vec::new();
    for (name, _) in SIZES {
        keys.extend(["", "/ttl", "/tti"].map(|end| format!("{name}{end}")));
    }
    keys.into_iter()
        .map(|key| {
            let kept = kept(world, &key, &["--data", data]);
            (key, kept)
        })
        .collect()
}

/// Asserts that the store has exactly these objects, and needs no source.
fn assert_arrived(world: &World, objects: &[(String, Value)], options: &[&str]) {
    let with = |arguments: &[&str]| world.ok(&[arguments, options].concat());
    for (key, expected) in objects {
        assert_eq!(&kept(world, key, options), expected);
    }
    let bytes: std::collections::BTreeMap<_, _> = SIZES.into_iter().collect();
    for (key, _) in objects {
        let size = bytes[key.split('/').next().unwrap()];
        assert!(with(&["get", key]).bytes == noise(size), "{key}");
    }
    assert_eq!(with(&["ls", "--json"]).json().len(), objects.len());
    let stats = with(&["stats", "--json"]).json().remove(0);
    assert_eq!(stats["fallback_state"], "sealed", "{stats}");
    assert_eq!(stats["fallback_moved"], objects.len(), "{stats}");
    with(&["scrub"]);
}

#[test]
fn store_moves_to_a_shared_index_and_back() {
    let Some(mut shared) = SharedWorld::start() else {
        return;
    };
    shared.world.unset("CENOTAPH_INDEX");
    let objects = fill(&shared.world, "old");
    shared.world.set("CENOTAPH_INDEX", &shared.url);
    let world = &shared.world;
    let said = world.ok(&["migrate", "--from", "cenotaph:old", "--verify", "--json"]);
    let summary = said.summary();
    assert_eq!(summary["sealed"], true, "{said}");
    assert_eq!(summary["moved"], objects.len(), "{said}");
    std::fs::rename(world.path("old"), world.path("moved")).unwrap();
    assert_arrived(world, &objects, &[]);

    // Back, but not while another member may write to it.
    let mut other = shared.lingering_member();
    let url = shared.url.clone();
    let back = ["migrate", "--from", "cenotaph:data", "--data", "back"];
    shared.world.unset("CENOTAPH_INDEX");
    let world = &shared.world;
    let refused = "other members have the source open";
    let said = world.fails(1, refused, &[&back[..], &["--from-index", &url]].concat());
    let name = format!(", process {}", other.id());
    assert!(said.errors.contains(&name), "{said}");
    assert!(!world.path("back").exists(), "nothing was created");
    signal(&other, "-TERM");
    ends(&mut other);
    world.fails(1, "index of this store is shared and was not named", &back);
    shared.world.set("CENOTAPH_FROM_INDEX", &url);
    let world = &shared.world;
    // A target that does not open leaves no member behind in the source.
    let elsewhere = ["--blobs", "fs:data/blobs"];
    world.fails(1, "blob tier", &[&back[..], &elsewhere].concat());
    let left = ["members", "--json", "--index", &url];
    assert_eq!(world.ok(&left).json().len(), 1);
    let said = world.ok(&[&back[..], &["--json"]].concat());
    assert_eq!(said.summary()["sealed"], true, "{said}");
    shared.world.unset("CENOTAPH_FROM_INDEX");
    let world = &shared.world;
    std::fs::rename(world.path("data"), world.path("gone")).unwrap();
    assert_arrived(world, &objects, &["--data", "back"]);
}

/// Returns the number of blobs under a directory.
fn blobs(world: &World, data: &str) -> usize {
    let files = walkdir::WalkDir::new(world.path(data).join("blobs")).into_iter();
    files
        .flatten()
        .filter(|file| file.file_type().is_file() && file.file_name() != cenotaph::MARKER_PATH)
        .count()
}

/// Runs a migration to the store in `target`, kills it when a part has arrived, runs it again, and
/// asserts that everything is there.
fn assert_completes_after_a_kill(shared: &SharedWorld, source: &str, target: &str) {
    let world = &shared.world;
    let from = format!("cenotaph:{source}");
    let migrate = ["migrate", "--from", &from, "--data", target];
    let migrate = [&migrate[..], &["--json", "--inline-max", INLINE]].concat();
    let slow = ["--bytes-per-second", "200000", "--jobs", "2"];
    let slow = [&migrate[..], &slow].concat();
    let mut child = world.command(&slow).spawn().unwrap();
    shared.until(|| blobs(world, target) >= 10);
    signal(&child, "-KILL");
    assert!(!ends(&mut child).success(), "it ended before it was killed");
    assert!(blobs(world, target) < OBJECTS, "it was killed too late");
    let said = world.ok(&migrate);
    let summary = said.summary();
    assert_eq!(summary["sealed"], true, "{said}");
    let listed = world.ok(&["ls", "--json", "--data", target]).json();
    assert_eq!(listed.len(), OBJECTS);
    for number in [0, 1, OBJECTS / 2, OBJECTS - 1] {
        let got = world.ok(&["get", &key(number), "--data", target]);
        assert!(got.bytes == noise(BYTES + number), "{number}");
    }
    let scrub = world.ok(&["scrub", "--grace", "0s", "--data", target]);
    assert!(!scrub.text().is_empty(), "{scrub}");
}

fn key(number: usize) -> String {
    format!("{number:03}")
}

fn import(world: &World, data: &str) {
    for number in 0..OBJECTS {
        let name = format!("tree/{}", key(number));
        world.write(&name, &noise(BYTES + number));
    }
    let import = ["import", "tree", "--inline-max", INLINE, "--data", data];
    world.ok(&import);
}

#[test]
fn killed_migration_to_a_shared_index_completes() {
    let Some(mut shared) = SharedWorld::start() else {
        return;
    };
    shared.world.unset("CENOTAPH_INDEX");
    import(&shared.world, "old");
    shared.world.set("CENOTAPH_INDEX", &shared.url);
    assert_completes_after_a_kill(&shared, "old", "data");
}

#[test]
fn killed_migration_from_a_shared_index_completes() {
    let Some(mut shared) = SharedWorld::start() else {
        return;
    };
    import(&shared.world, "data");
    shared.world.unset("CENOTAPH_INDEX");
    shared.world.set("CENOTAPH_FROM_INDEX", &shared.url);
    assert_completes_after_a_kill(&shared, "data", "new");
}
