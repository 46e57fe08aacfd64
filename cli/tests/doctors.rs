//! `doctor`: its report on a damaged store. It changes no file.

use std::fs;
use std::path::PathBuf;

use crate::world::{World, files, noise};

/// Creates a store with 8 objects, each put by a process of its own.
fn world() -> World {
    let world = World::new();
    for key in 0..8 {
        world.put(&format!("k{key}"), &noise(3000 + key));
    }
    world
}

/// Returns the path of the journal.
fn journal(world: &World) -> PathBuf {
    let database = world.path("data/index/store/database");
    let mut journals: Vec<_> = fs::read_dir(database)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    journals.pop().unwrap()
}

/// Changes the byte at an offset. Returns the original bytes.
fn flip(path: &PathBuf, at: usize) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let mut changed = bytes.clone();
    changed[at] ^= 65;
    fs::write(path, changed).unwrap();
    bytes
}

#[test]
fn doctor_reports_a_healthy_store_and_changes_nothing() {
    let world = world();
    let before = files(&world.path("data"));
    let said = world.ok(&["doctor"]);
    assert!(
        said.text().starts_with("no damage was found: dir="),
        "{said}"
    );
    let said = world.ok(&["doctor", world.path("data").to_str().unwrap(), "--json"]);
    assert_eq!(said.json()[0]["condition"], "healthy");
    assert_eq!(files(&world.path("data")), before);
    world.fails(
        1,
        "there is no index",
        &["doctor", world.path("nowhere").to_str().unwrap()],
    );
}

#[test]
fn doctor_explains_a_damaged_journal_and_the_ways_out() {
    let world = world();
    let path = journal(&world);
    let bytes = flip(&path, 6000);
    let before = files(&world.path("data"));
    let said = world.fails(1, "the store is damaged: problems=1", &["doctor"]);
    for part in [
        "damaged in acknowledged batches",
        "at=",
        "way out: `cenotaph salvage",
        "way out: restore",
        "truncate -s",
    ] {
        assert!(said.text().contains(part), "{part}: {said}");
    }
    let problem = world.run(&["doctor", "--json"]).json()[0]["problems"][0].clone();
    assert!(
        problem["at"].as_u64().is_some_and(|at| at <= 6000),
        "{problem}"
    );
    assert_eq!(problem["file"], path.to_str().unwrap());
    // The open refuses the same damage. Neither changes a file.
    world.fails(1, "cenotaph doctor", &["ls"]);
    assert_eq!(files(&world.path("data")), before);
    fs::write(&path, bytes).unwrap();
    assert_eq!(world.ok(&["ls"]).text().lines().count(), 8);
}

#[test]
fn doctor_distinguishes_an_unacknowledged_tail_from_damage() {
    let world = world();
    let path = journal(&world);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..], &bytes[..40]].concat()).unwrap();
    let said = world.ok(&["doctor"]);
    assert!(
        said.text()
            .contains("note: the journal ends with an unacknowledged batch"),
        "{said}"
    );
    assert_eq!(world.ok(&["ls"]).text().lines().count(), 8);
    let said = world.ok(&["doctor"]);
    assert!(
        said.text()
            .contains("an earlier open moved the end of a journal to a file: file="),
        "{said}"
    );
}

#[test]
fn doctor_names_a_damaged_manifest_high_water_mark_and_record() {
    let world = world();
    for (file, at, message) in [
        (
            "data/index/store/database/keyspaces/1/current",
            9,
            "checksum of the manifest",
        ),
        ("data/index/store/record.json", 3, "the record is damaged"),
    ] {
        let path = world.path(file);
        let bytes = flip(&path, at);
        let said = world.fails(1, "the store is damaged", &["doctor"]);
        assert!(
            said.text().contains(message) && said.text().contains("loses:"),
            "{said}"
        );
        fs::write(&path, bytes).unwrap();
    }
    let mark = world.path("data/index/store/high-water");
    fs::write(&mark, [7; 8192]).unwrap();
    let said = world.fails(1, "the store is damaged", &["doctor"]);
    assert!(said.text().contains("way out: remove the file"), "{said}");
    fs::remove_file(&mark).unwrap();
    assert_eq!(world.ok(&["ls"]).text().lines().count(), 8);
}
