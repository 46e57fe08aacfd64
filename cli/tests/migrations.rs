//! `migrate` and `--fallback`: their output, exit codes and effects.

use crate::world::{World, noise};

/// Creates a directory of files and no store.
fn world() -> World {
    let world = World::new();
    world.write("old/a/small", b"small");
    world.write("old/large", &noise(2_000_000));
    world.write("old/z", b"z");
    world
}

#[test]
fn files_are_served_moved_and_no_longer_needed() {
    let world = world();
    let from = ["migrate", "--from", "fs:old"];
    world.put("z", b"ours");
    world.fails(
        1,
        "never opened over a fallback",
        &["migrate", "--source-lost"],
    );
    // The source is attached by the first command that names it.
    let said = world.ok(&["get", "a/small", "--fallback", "fs:old"]);
    assert_eq!(said.bytes, b"small");
    world.ok(&["rm", "a/small", "--fallback", "fs:old"]);
    world.fails(1, "open it with the fallback", &["get", "large"]);
    world.fails(
        1,
        "another fallback",
        &["get", "large", "--fallback", "fs:data"],
    );
    let dry = world
        .ok(&[&from[..], &["--dry-run", "--json"]].concat())
        .summary();
    assert_eq!((&dry["moved"], &dry["kept"]), (&1.into(), &2.into()));
    assert_eq!(
        (&dry["sealed"], &dry["bytes"]),
        (&false.into(), &2_000_000.into())
    );
    let stats = world
        .ok(&["stats", "--json", "--fallback", "fs:old"])
        .json()
        .remove(0);
    assert_eq!(stats["fallback_state"], "open");
    let done = world
        .ok(&[&from[..], &["--verify", "--json"]].concat())
        .summary();
    assert_eq!((&done["moved"], &done["kept"]), (&1.into(), &2.into()));
    assert_eq!(
        (&done["sealed"], &done["failed"]),
        (&true.into(), &0.into())
    );
    std::fs::remove_dir_all(world.path("old")).unwrap();
    assert_eq!(world.ok(&["get", "large"]).bytes, noise(2_000_000));
    assert_eq!(world.ok(&["get", "z"]).bytes, b"ours");
    world.fails(3, "no such object", &["get", "a/small"]);
    let stats = world.ok(&["stats", "--json"]).json().remove(0);
    assert_eq!(
        (&stats["fallback_state"], &stats["fallback_moved"]),
        (&"sealed".into(), &1.into())
    );
}

#[test]
fn dry_run_creates_no_store() {
    let world = world();
    let said = world.ok(&["migrate", "--from", "fs:old", "--dry-run"]);
    assert!(
        said.text().starts_with("would move 3 objects, 1.9 MiB in "),
        "{said}"
    );
    assert!(!world.path("data").exists());
}

#[test]
fn another_store_is_moved_and_emptied_if_asked() {
    let world = world();
    let other = world.path("other");
    let other = other.to_str().unwrap();
    world.ok(&["import", "old", "--data", other]);
    let from = format!("cenotaph:{other}");
    let said = world.ok(&["migrate", "--from", &from, "--delete-source"]);
    assert!(
        said.text().starts_with("moved 3 objects, 1.9 MiB in "),
        "{said}"
    );
    assert!(said.text().ends_with("; sealed\n"), "{said}");
    world.ok(&["verify", "old"]);
    assert_eq!(world.ok(&["ls", "--data", other]).text(), "");
    // The imported times and modes are those of the files.
    world.ok(&["export", "copy"]);
    let modified = |path: &str| {
        std::fs::metadata(world.path(path))
            .unwrap()
            .modified()
            .unwrap()
    };
    assert_eq!(modified("copy/a/small"), modified("old/a/small"));
}

#[test]
fn empty_or_missing_sources_are_not_sealed() {
    let world = World::new();
    world.fails(1, "No such file", &["migrate", "--from", "fs:old"]);
    assert!(!world.path("old").exists());
    std::fs::create_dir(world.path("old")).unwrap();
    world.fails(1, "--allow-empty", &["migrate", "--from", "fs:old"]);
    world.ok(&["migrate", "--from", "fs:old", "--allow-empty"]);
    world.fails(2, "--from", &["migrate"]);
    world.fails(2, "--fallback", &["migrate", "--from", "http://host"]);
}

#[test]
fn lost_source_is_declared_once() {
    let world = world();
    world.put("ours", b"ours");
    world.ok(&["get", "z", "--fallback", "fs:old"]);
    std::fs::remove_dir_all(world.path("old")).unwrap();
    world.fails(1, "fallback", &["ls"]);
    world.ok(&["migrate", "--source-lost"]);
    world.ok(&["get", "ours"]);
    world.fails(3, "no such object", &["get", "z"]);
}
