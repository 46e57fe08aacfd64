//! `migrate --tier`: its output, exit codes and effects, and the remembered locations at each point
//! where a crash may interrupt it.

use std::path::{Path, PathBuf};
use std::process::Command;

use cenotaph::Engine;
use serde_json::{Value, json};

use crate::world::{Said, World, noise};

const MOVE: [&str; 3] = ["migrate", "--tier", "fs:new"];
const LARGE: usize = 2_000_000;

/// Creates a store with a large and a small object.
fn world() -> World {
    let world = World::new();
    world.put("large", &noise(LARGE));
    world.put("small", b"small");
    world
}

/// Returns the URI of a directory of this world.
fn at(world: &World, name: &str) -> String {
    format!("fs:{}", world.path(name).display())
}

fn remembered(world: &World) -> Value {
    serde_json::from_slice(&std::fs::read(world.path("data/tier.json")).unwrap()).unwrap()
}

/// Remembers that the store moves from its directory to `new`.
fn remember_both(world: &World) {
    let both = json!({ "format": 2, "blobs": at(world, "new"), "older": ["fs:"] });
    world.write("data/tier.json", format!("{both}\n").as_bytes());
}

/// Copies a directory with all files and times.
fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    assert!(copy.status().unwrap().success());
}

/// Returns the paths of the blobs below a directory.
fn blobs(dir: PathBuf) -> Vec<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file() && entry.file_name() != cenotaph::MARKER_PATH)
        .map(|entry| entry.into_path())
        .collect()
}

/// Moves the store until the switch: the tool remembers both tiers, and nothing is copied. A step
/// that fails before the switch leaves the mark in the new tier, as a crash would.
fn marked(world: &World) {
    let obstacle = world.path("data/tier.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let said = world.fails(1, "the step before the move", &MOVE);
    assert!(!said.errors.contains("next time"), "{said}");
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(world.path("new").join(cenotaph::MARKER_PATH).is_file());
    assert_eq!(remembered(world), json!({ "format": 1, "blobs": "fs:" }));
}

/// Runs every kind of command without options for the tiers.
fn every_command_works(world: &World) {
    assert!(world.ok(&["get", "large"]).bytes == noise(LARGE));
    assert_eq!(world.ok(&["ls", "--json"]).json().len(), 2);
    world.ok(&["stat", "large"]);
    world.ok(&["stats"]);
    world.ok(&["scrub"]);
    world.ok(&["recover"]);
    world.ok(&["doctor"]);
    world.put("more", &noise(LARGE + 1));
    world.ok(&["cp", "large", "copy"]);
    world.ok(&["rm", "more", "copy"]);
}

/// Runs commands that read, without options for the tiers and without writing.
fn reads_work(world: &World) {
    let before = remembered(world);
    let read_only = |arguments: &[&str]| world.ok(&[&["--read-only"], arguments].concat());
    assert!(read_only(&["get", "large"]).bytes == noise(LARGE));
    assert_eq!(read_only(&["ls", "--json"]).json().len(), 2);
    read_only(&["stats"]);
    read_only(&["scrub"]);
    assert_eq!(remembered(world), before);
}

fn stats(world: &World) -> (Value, Value) {
    let mut stats = world.ok(&["stats", "--json"]).json().remove(0);
    (stats["blobs"].take(), stats["older_blobs"].take())
}

#[test]
fn store_moves_to_another_directory_and_no_longer_needs_the_first() {
    let world = world();
    assert_eq!(stats(&world), (json!("fs:"), json!([])));
    let said = world.ok(&MOVE);
    let new = at(&world, "new");
    let moved = format!("moved 1 object, 1.9 MiB to {new} in ");
    assert!(said.text().starts_with(&moved), "{said}");
    let end = format!(
        "0 failed; {} is no longer needed\n",
        at(&world, "data/blobs")
    );
    assert!(said.text().ends_with(&end), "{said}");
    std::fs::remove_dir_all(world.path("data/blobs")).unwrap();
    every_command_works(&world);
    reads_work(&world);
    assert_eq!(remembered(&world), json!({ "format": 1, "blobs": new }));
    assert_eq!(stats(&world), (json!(new), json!([])));
    let again = world
        .ok(&[&MOVE[..], &["--json", "--verify"]].concat())
        .summary();
    let mut expected = json!({
        "event": "summary", "dry_run": false, "blobs": new, "older_blobs": [], "released": [],
        "moved": 0, "failed": 0, "bytes": 0, "left": 0, "passes": 1, "problems": 0,
    });
    expected["elapsed_ms"] = again["elapsed_ms"].clone();
    assert_eq!(again, expected);
    // And back, into the directory under the data directory.
    let back = ["migrate", "--tier", "fs:", "--json", "--verify"];
    let back = world.ok(&back).summary();
    assert_eq!(
        (&back["moved"], &back["bytes"], &back["released"]),
        (&json!(1), &json!(LARGE), &json!([new]))
    );
    std::fs::remove_dir_all(world.path("new")).unwrap();
    every_command_works(&world);
}

#[test]
fn dry_run_counts_and_changes_nothing() {
    let world = world();
    let files = || crate::world::files(&world.path(""));
    let before = files();
    let said = world.ok(&[&MOVE[..], &["--dry-run"]].concat());
    assert!(
        said.text().starts_with("would move 1 object, 1.9 MiB to "),
        "{said}"
    );
    let dry = world
        .ok(&[&MOVE[..], &["--dry-run", "--json"]].concat())
        .summary();
    assert_eq!(
        (&dry["moved"], &dry["bytes"], &dry["dry_run"]),
        (&json!(1), &json!(LARGE), &json!(true))
    );
    assert!(files() == before && !world.path("new").exists());
    world.write("new/notes.txt", b"mine");
    let dry = [&MOVE[..], &["--dry-run"]].concat();
    world.fails(1, "moves to an empty tier: file=notes.txt", &dry);
}

#[test]
fn refused_tier_is_not_remembered() {
    let world = world();
    let other = World::new();
    other.put("a", &noise(LARGE));
    world.write("new/notes.txt", b"mine");
    world.fails(1, "moves to an empty tier: file=notes.txt", &MOVE);
    let theirs = at(&other, "data/blobs");
    world.fails(
        1,
        "belongs to another store",
        &["migrate", "--tier", &theirs],
    );
    assert_eq!(remembered(&world), json!({ "format": 1, "blobs": "fs:" }));
    every_command_works(&world);
    World::new().fails(1, "there is no store here", &MOVE);
}

#[test]
fn only_migrate_moves_a_store() {
    let world = world();
    std::fs::remove_file(world.path("data/tier.json")).unwrap();
    let both = ["--blobs", "fs:new", "--older-blobs", "fs:data/blobs"];
    let get = [&both[..], &["get", "large"]].concat();
    world.fails(1, "moves no store", &get);
    world.fails(1, "moves no store", &[&get[..], &["--read-only"]].concat());
    assert!(!world.path("new").exists() && !world.path("data/tier.json").exists());
    every_command_works(&world);
}

/// Begins an upload of `file`, of 5 parts of 2 MB, and uploads the first two. Returns its id.
fn upload_begun(world: &World) -> String {
    let file = noise(5 * LARGE);
    world.write("file", &file);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = Engine::builder(world.path("data")).open().await.unwrap();
        let upload = engine.multipart("key").await.unwrap();
        for (number, part) in file.chunks(LARGE).take(2).enumerate() {
            let number = u32::try_from(number).unwrap() + 1;
            upload.part(number, part.to_vec()).await.unwrap();
        }
        engine.close().await.unwrap();
        upload.upload_id().to_string()
    })
}

#[test]
fn open_upload_keeps_the_older_tier_until_it_ends() {
    let world = &world();
    let upload = upload_begun(world);
    let said = world.fails(1, "; 1 upload open (complete or abort; ", &MOVE);
    let needs = format!("still needs {}: ", at(world, "data/blobs"));
    assert!(said.errors.contains(&needs), "{said}");
    assert!(
        said.errors.contains("migrate --tier 'fs:/"),
        "the way out: {said}"
    );
    let new = json!(at(world, "new"));
    let both = json!({ "format": 2, "blobs": new, "older": ["fs:"] });
    assert_eq!(remembered(world), both);
    assert_eq!(stats(world), (new.clone(), json!(["fs:"])));
    let text = world.ok(&["stats"]);
    assert!(text.text().contains("\n  older "), "{text}");
    let json = world.run(&[&MOVE[..], &["--json"]].concat()).summary();
    assert_eq!(
        (&json["older_blobs"], &json["released"], &json["moved"]),
        (&json!(["fs:"]), &json!([]), &json!(0))
    );
    assert_eq!(json["left"], 2);
    // The upload continues on the parts of both tiers.
    let said = world.ok(&["put", "key", "file", "--resume", &upload, "--json"]);
    assert_eq!(said.summary()["there"], 2, "{said}");
    world.ok(&MOVE);
    assert_eq!(stats(world), (new, json!([])));
    std::fs::remove_dir_all(world.path("data/blobs")).unwrap();
    assert!(world.ok(&["get", "key"]).bytes == noise(5 * LARGE));
}

#[test]
fn damaged_blob_keeps_the_older_tier_and_is_named() {
    let world = world();
    world.put("other", &noise(LARGE + 1));
    let blob = blobs(world.path("data/blobs"))
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("large"))
        .unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[LARGE / 2] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let said = world.fails(1, "1 object could not be copied", &MOVE);
    assert!(said.text().starts_with("failed large: "), "{said}");
    let said: Said = world.run(&[&MOVE[..], &["--json"]].concat());
    assert_eq!(said.json()[0]["event"], "failed");
    let summary = said.summary();
    assert_eq!(
        (&summary["moved"], &summary["failed"]),
        (&json!(0), &json!(1))
    );
    let verified = world.run(&[&MOVE[..], &["--verify", "--json"]].concat());
    assert_eq!(verified.code, Some(1));
    assert_eq!(verified.summary()["problems"], 1, "{verified}");
    assert_eq!(world.ok(&["get", "other"]).bytes.len(), LARGE + 1);
    world.ok(&["scrub", "--drop-damaged"]);
    world.ok(&MOVE);
    assert_eq!(stats(&world), (json!(at(&world, "new")), json!([])));
}

#[test]
fn crash_before_the_locations_are_remembered_leaves_the_store_as_it_was() {
    let world = world();
    marked(&world);
    reads_work(&world);
    every_command_works(&world);
    assert_eq!(stats(&world), (json!("fs:"), json!([])));
    world.ok(&MOVE);
    every_command_works(&world);
}

#[test]
fn crash_before_the_switch_is_completed_by_the_next_command() {
    let world = world();
    marked(&world);
    remember_both(&world);
    reads_work(&world);
    let both = json!({ "format": 2, "blobs": at(&world, "new"), "older": ["fs:"] });
    copy(&world.path("data"), &world.path("before"));
    copy(&world.path("new"), &world.path("new before"));
    for first in [
        &["get", "large"][..],
        &["ls"],
        &["stats"],
        &["put", "next", "/dev/null"],
        &["scrub"],
    ] {
        for (saved, dir) in [("before", "data"), ("new before", "new")] {
            std::fs::remove_dir_all(world.path(dir)).unwrap();
            copy(&world.path(saved), &world.path(dir));
        }
        world.ok(first);
        assert_eq!(remembered(&world), both, "{first:?}");
        assert_eq!(stats(&world), (json!(at(&world, "new")), json!(["fs:"])));
    }
    world.ok(&["rm", "next"]);
    // The switch was before nothing was copied: new objects go to the new tier.
    assert_eq!(blobs(world.path("new")), [] as [PathBuf; 0]);
    reads_work(&world);
    every_command_works(&world);
    let moved = world.ok(&[&MOVE[..], &["--json"]].concat()).summary();
    assert_eq!(moved["released"], json!(["fs:"]));
    std::fs::remove_dir_all(world.path("data/blobs")).unwrap();
    every_command_works(&world);
}

#[test]
fn crash_before_a_released_tier_is_forgotten_does_not_need_it() {
    let world = world();
    world.ok(&MOVE);
    let new = json!({ "format": 1, "blobs": at(&world, "new") });
    for is_removed in [false, true] {
        if is_removed {
            std::fs::remove_dir_all(world.path("data/blobs")).unwrap();
        }
        remember_both(&world);
        reads_work(&world);
        assert_eq!(stats(&world).1, json!([]));
        assert_eq!(remembered(&world), new, "the tier is forgotten");
        every_command_works(&world);
    }
}

#[test]
fn lost_locations_are_given_once() {
    let world = world();
    marked(&world);
    remember_both(&world);
    world.ok(&["ls"]);
    world.put("other", &noise(LARGE + 1));
    std::fs::remove_file(world.path("data/tier.json")).unwrap();
    world.fails(
        1,
        "another tier of this store than its current one",
        &["get", "large"],
    );
    let blobs = ["--blobs", "fs:new"];
    let get = [&blobs[..], &["get", "large"]].concat();
    world.fails(1, "older blob tier, which was not given", &get);
    let older = ["--older-blobs", "fs:data/blobs", "--older-blobs", "fs:new"];
    assert!(world.ok(&[&older[..], &get].concat()).bytes == noise(LARGE));
    let default = at(&world, "data/blobs");
    assert_eq!(remembered(&world)["older"], json!([default]));
    world.fails(1, "another blob tier", &["--blobs", "fs:", "ls"]);
    assert_eq!(world.ok(&["get", "other"]).bytes.len(), LARGE + 1);
    world.ok(&MOVE);
    std::fs::remove_dir_all(world.path("data/blobs")).unwrap();
    assert!(world.ok(&["get", "large"]).bytes == noise(LARGE));
}

#[test]
fn salvaged_store_is_used_with_all_tiers() {
    let world = world();
    marked(&world);
    remember_both(&world);
    world.ok(&["ls"]);
    world.put("other", &noise(LARGE + 1));
    let said = world.ok(&["salvage", "data", "salvaged"]);
    let options = format!("--blobs {} --older-blobs fs:data/blobs", at(&world, "new"));
    assert!(said.errors.contains(&options), "{said}");
    let options: Vec<&str> = options.split(' ').collect();
    let data = world.path("salvaged");
    let data = ["--data", data.to_str().unwrap()];
    // The option --data is given twice, and the last one counts.
    let get = |key| [&options[..], &["get", key], &data].concat();
    let shell = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cenotaph"));
        let command = command.args(arguments).current_dir(world.path(""));
        Said::from(command.output().unwrap())
    };
    assert!(shell(&get("large")).bytes == noise(LARGE));
    assert!(shell(&get("other")).bytes == noise(LARGE + 1));
}

#[test]
fn wrong_use_is_refused() {
    let world = world();
    world.fails(2, "--from <URI>|--tier <URI>|--source-lost", &["migrate"]);
    for option in [
        &["--from", "fs:old"][..],
        &["--source-lost"],
        &["--delete-source"],
        &["--allow-empty"],
        &["--skip-unnameable"],
    ] {
        world.fails(2, "cannot be used with", &[&MOVE[..], option].concat());
    }
    world.fails(2, "--tier: known schemes", &["migrate", "--tier", "http:x"]);
    world.fails(2, "--older-blobs: ", &["--older-blobs", "disk", "ls"]);
    world.fails(2, "--read-only", &[&MOVE[..], &["--read-only"]].concat());
    world.fails(
        1,
        "another blob tier",
        &[&["--blobs", "fs:x"], &MOVE[..]].concat(),
    );
    assert!(!world.path("new").exists());
    marked(&world);
    remember_both(&world);
    world.ok(&["ls"]);
    world.fails(
        1,
        "is being moved away from this tier",
        &["migrate", "--tier", "fs:"],
    );
    world.fails(
        1,
        "can't be adopted",
        &["--blobs", "fs:data/blobs", "adopt"],
    );
    every_command_works(&world);
}
