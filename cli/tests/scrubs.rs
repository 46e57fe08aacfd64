//! `scrub`, `stats` and `salvage`: their output and exit codes.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::world::{World, noise};

/// Creates a store with objects in both tiers.
fn world() -> World {
    let world = World::new();
    world.put("small", b"small");
    world.put("large", &noise(2_000_000));
    world.put("other", &noise(2_000_001));
    world
}

/// Returns the path of the blob of an object.
fn blob(world: &World, key: &str) -> PathBuf {
    let blobs = walkdir::WalkDir::new(world.path("data/blobs"))
        .into_iter()
        .map(|entry| entry.unwrap().into_path());
    blobs
        .into_iter()
        .find(|path| path.file_name().unwrap().to_str().unwrap().contains(key))
        .unwrap()
}

/// Returns the damage and the fate of each finding.
fn damages(lines: &[Value]) -> Vec<(&str, &str)> {
    let findings = lines.iter().filter(|line| line["event"] == "finding");
    findings
        .map(|line| {
            (
                line["damage"].as_str().unwrap(),
                line["fate"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn scrub_of_a_healthy_store_finds_nothing() {
    let world = world();
    let said = world.ok(&["scrub"]);
    assert!(
        said.text()
            .starts_with("checked 3 objects, 2 blobs, 3.8 MiB in "),
        "{said}"
    );
    assert!(said.text().ends_with("0 problems, 0 repaired\n"), "{said}");
    let summary = world.ok(&["scrub", "--json"]).summary();
    assert_eq!(
        (&summary["objects"], &summary["blobs"], &summary["bytes"]),
        (&3.into(), &2.into(), &4_000_006.into())
    );
    assert_eq!(
        (&summary["found"], &summary["left"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        world.ok(&["scrub", "--shallow", "--json"]).summary()["bytes"],
        0
    );
}

#[test]
fn damage_is_named_and_repaired_on_request() {
    let world = world();
    std::fs::remove_file(blob(&world, "large")).unwrap();
    let unknown = "7f/default!nobody@019b76da-d800-7abc-8def-00000000007f";
    world.write(&format!("data/blobs/{unknown}"), b"nobody's");

    let said = world.fails(
        1,
        "2 problems left; the first: missing-blob: object=large",
        &["scrub"],
    );
    assert!(
        said.text()
            .contains("left missing-blob: object=large revision="),
        "{said}"
    );
    assert!(
        said.text().contains("left unknown-blob: object=nobody"),
        "{said}"
    );
    let said = world.fails(1, "1 problem left", &["scrub", "--repair", "--json"]);
    let lines = said.json();
    assert_eq!(
        damages(&lines),
        [("missing-blob", "left"), ("unknown-blob", "repaired")]
    );
    assert_eq!(
        lines[0]["object"],
        json!({ "namespace": "default", "key": "large" })
    );
    let summary = said.summary();
    assert_eq!(
        (&summary["found"], &summary["repaired"], &summary["left"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert!(
        !world.path("data/blobs").join(unknown).exists(),
        "a blob queued by the repair must be deleted before the tool exits"
    );

    let dropped = world.ok(&["scrub", "--drop-damaged"]);
    assert!(
        dropped.text().contains("repaired missing-blob"),
        "{dropped}"
    );
    assert!(world.ok(&["scrub"]).text().contains("0 problems"));
    world.fails(3, "no such object: key=large", &["get", "large"]);
}

#[test]
fn unknown_blob_within_the_grace_time_is_ignored() {
    let world = world();
    // The time of its revision is in the year 2286.
    world.write(
        "data/blobs/7f/default!nobody@0915a7a4-8000-7abc-8def-00000000007f",
        b"nobody's",
    );
    assert!(
        world
            .ok(&["scrub", "--repair", "--grace", "1d"])
            .text()
            .contains("0 problems")
    );
    world.fails(2, "--grace", &["scrub", "--grace", "soon"]);
}

#[test]
fn flipped_byte_is_found_except_by_a_shallow_scrub() {
    let world = world();
    let file = blob(&world, "large");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1_999_999] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    world.ok(&["scrub", "--shallow"]);
    world.fails(1, "corrupt-blob: object=large", &["scrub", "--repair"]);
    world.ok(&["scrub", "--drop-damaged"]);
    world.ok(&["scrub"]);
}

#[test]
fn stats_count_both_tiers_and_show_the_oldest() {
    let world = world();
    let stats = world.ok(&["stats", "--json"]).json().remove(0);
    let counted = [
        "objects",
        "inline_objects",
        "inline_bytes",
        "blob_objects",
        "blob_bytes",
        "bytes",
        "expired",
    ];
    let expected = [3u64, 1, 5, 2, 4_000_001, 4_000_006, 0];
    for (name, expected) in counted.into_iter().zip(expected) {
        assert_eq!(stats[name], expected, "{name}");
    }
    assert!(
        stats["oldest_ms"].as_u64().unwrap() > 1_700_000_000_000,
        "{stats}"
    );
    assert_eq!(
        (&stats["oldest_change_ms"], &stats["oldest_orphan_ms"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&stats["sessions"], &stats["oldest_session_ms"]),
        (&0.into(), &Value::Null)
    );
    let text = world.ok(&["stats"]);
    for part in [
        "objects",
        "in the blob tier",
        "4,000,006",
        "oldest object",
        "changes not settled",
        "open uploads",
    ] {
        assert!(text.text().contains(part), "{part}: {text}");
    }
    let quick = world
        .ok(&["stats", "--no-count", "--json"])
        .json()
        .remove(0);
    assert_eq!(
        (&quick["objects"], &quick["orphans"]),
        (&Value::Null, &0.into())
    );
}

#[test]
fn incomplete_salvage_exits_with_5() {
    let world = world();
    let old = world.path("old");
    let new = world.path("new");
    std::fs::rename(world.path("data"), &old).unwrap();
    let database = old.join("index/store/database");
    let journal = std::fs::read(database.join("0.jnl")).unwrap();
    // A gap in the numbers of the journals: `1.jnl` is missing.
    std::fs::write(database.join("2.jnl"), "").unwrap();
    std::fs::remove_file(old.join("index/store/high-water")).unwrap();
    let old = old.to_str().unwrap();
    let new = new.to_str().unwrap();
    let said = world.fails(5, "not everything could be copied", &["salvage", old, new]);
    assert!(
        said.text().contains("lost-batches") && said.text().contains("copied 3 objects"),
        "{said}"
    );
    assert_eq!(std::fs::read(database.join("0.jnl")).unwrap(), journal);
    let said = world.run(&["salvage", "--json", old, &format!("{new}er")]);
    assert_eq!(
        (said.code, &said.json()[0]["complete"]),
        (Some(5), &serde_json::json!(false)),
        "{said}"
    );
}

#[test]
fn salvage_copies_a_store_and_explains_its_use() {
    let world = world();
    let data = world.path("data");
    let old = world.path("old");
    let new = world.path("new");
    std::fs::rename(&data, &old).unwrap();
    let old = old.to_str().unwrap();
    let new = new.to_str().unwrap();
    let said = world.ok(&["salvage", old, new]);
    assert!(said.text().starts_with("copied 3 objects, "), "{said}");
    let blobs = format!("fs:{old}/blobs");
    assert!(
        said.errors
            .contains(&format!("--data {new} --blobs {blobs}")),
        "{said}"
    );
    world.fails(1, "not empty", &["salvage", old, new]);
    world.fails(
        1,
        "there is no store here",
        &["salvage", "nowhere", "newer"],
    );
    std::fs::rename(new, &data).unwrap();
    assert_eq!(
        world.ok(&["--blobs", &blobs, "get", "large"]).bytes,
        noise(2_000_000)
    );
    assert_eq!(
        world.ok(&["--blobs", &blobs, "scrub", "--json"]).summary()["found"],
        0
    );
}
