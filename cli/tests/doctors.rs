//! `doctor`: what it says of a damaged store, and that it changes nothing.

use std::fs;
use std::path::PathBuf;

use crate::world::{World, files, noise};

/// A store whose objects were put by one process each.
fn world() -> World {
    let world = World::new();
    for key in 0..8 {
        world.put(&format!("k{key}"), &noise(3000 + key));
    }
    world
}

fn journal(world: &World) -> PathBuf {
    let database = world.path("data/index/store/database");
    let mut journals: Vec<_> = fs::read_dir(database)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    journals.pop().unwrap()
}

fn flip(path: &PathBuf, at: usize) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let mut changed = bytes.clone();
    changed[at] ^= 65;
    fs::write(path, changed).unwrap();
    bytes
}

#[test]
fn a_doctor_finds_a_healthy_store_healthy_and_changes_nothing() {
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
fn a_doctor_explains_a_damaged_journal_and_what_each_way_out_loses() {
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
    // What the doctor explains, the open refuses, and neither changes anything.
    world.fails(1, "cenotaph doctor", &["ls"]);
    assert_eq!(files(&world.path("data")), before);
    fs::write(&path, bytes).unwrap();
    assert_eq!(world.ok(&["ls"]).text().lines().count(), 8);
}

#[test]
fn a_doctor_tells_a_tail_from_damage_and_says_where_it_is_kept() {
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
fn a_doctor_names_a_damaged_manifest_mark_and_record() {
    let world = world();
    for (file, at, what) in [
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
            said.text().contains(what) && said.text().contains("loses:"),
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
