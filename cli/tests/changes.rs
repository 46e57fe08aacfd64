//! Preconditions, deadlines and changes of objects: put, rm, cp, mv, extend, amend.

use crate::world::{World, noise};

#[test]
fn failed_precondition_changes_nothing_and_exits_with_4() {
    let world = World::new();
    world.write("file", b"first");
    world.write("large", &noise(2_000_000));
    world.ok(&["put", "a", "file", "--if-absent"]);
    for body in ["file", "large"] {
        world.fails(
            4,
            "the precondition does not hold",
            &["put", "a", body, "--if-absent"],
        );
        world.fails(
            4,
            "current: version=1",
            &["put", "a", body, "--if-version", "7"],
        );
    }
    let etag = world.ok(&["stat", "a", "--json"]).json().remove(0)["etag"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        world
            .ok(&["put", "a", "large", "--if-etag", &etag, "--json"])
            .json()[0]["version"],
        2
    );
    world.fails(4, "current: version=2", &["rm", "a", "--if-etag", &etag]);
    world.fails(
        2,
        "cannot be used with",
        &["put", "a", "file", "--if-absent", "--if-version", "2"],
    );
    world.fails(2, "name one key", &["rm", "a", "b", "--if-version", "2"]);
    world.fails(
        2,
        "cannot be used with",
        &["rm", "--prefix", "a", "--if-version", "2"],
    );
    assert_eq!(
        world.ok(&["rm", "a", "--if-version", "2"]).text(),
        "deleted 1 object\n"
    );
    world.fails(4, "current: absent", &["rm", "a", "--if-version", "2"]);
}

#[test]
fn objects_are_copied_and_renamed() {
    let world = World::new();
    for (key, payload) in [("small", b"small".to_vec()), ("large", noise(2_000_000))] {
        world.write("file", &payload);
        world.ok(&["put", key, "file", "--content-type", "text/plain"]);
        let copied = world.ok(&["cp", key, "copy", "--json"]).json().remove(0);
        assert_eq!(
            (&copied["key"], &copied["from"]),
            (&"copy".into(), &key.into())
        );
        assert!(
            world.ok(&["get", "copy"]).bytes == payload && world.ok(&["get", key]).bytes == payload
        );
        world.fails(4, "does not hold", &["mv", key, "copy", "--if-absent"]);
        world.ok(&["mv", key, "copy"]);
        world.fails(3, "no such object", &["get", key]);
        assert!(world.ok(&["get", "copy"]).bytes == payload);
        assert_eq!(
            world.ok(&["stat", "copy", "--json"]).json()[0]["content_type"],
            "text/plain"
        );
    }
    world.fails(3, "no such object: key=nobody", &["cp", "nobody", "a"]);
    world.fails(3, "no such object: key=nobody", &["mv", "nobody", "a"]);
    world.ok(&["scrub"]);
}

#[test]
fn deadlines_are_set_shown_and_changed() {
    let world = World::new();
    world.write("file", b"x");
    let deadline =
        |key: &str| world.ok(&["stat", key, "--json"]).json().remove(0)["expires_at_ms"].as_u64();
    world.ok(&["put", "a", "file", "--ttl", "1h 30m"]);
    let stat = world.ok(&["stat", "a", "--json"]).json().remove(0);
    assert_eq!(
        stat["expiration"],
        serde_json::json!({ "policy": "time-to-live", "ms": 5_400_000 })
    );
    assert_eq!(
        stat["expires_at_ms"].as_u64(),
        stat["modified_ms"].as_u64().map(|at| at + 5_400_000)
    );
    assert_eq!(
        world.ok(&["ls", "--json"]).json()[0]["expires_at_ms"],
        stat["expires_at_ms"]
    );
    assert!(
        world
            .ok(&["stat", "a"])
            .text()
            .contains("1h 30m after the write")
    );

    let first = deadline("a").unwrap();
    world.ok(&["extend", "a", "--for", "1h"]);
    assert_eq!(deadline("a"), Some(first), "an extension does not shorten");
    world.ok(&["extend", "a", "--for", "1h", "--shorten"]);
    assert!(deadline("a").unwrap() < first);
    world.ok(&["extend", "a", "--never"]);
    assert_eq!(deadline("a"), None);
    world.fails(3, "no such object", &["extend", "b", "--never"]);
    world.fails(2, "required", &["extend", "a"]);
    world.fails(2, "--ttl", &["put", "a", "file", "--ttl", "for ever"]);

    world.ok(&["put", "brief", "file", "--tti", "1ms"]);
    // Closing and opening the store takes longer than 1 ms.
    world.fails(3, "no such object", &["get", "brief"]);
}

#[test]
fn longest_lifetime_is_100_years() {
    let world = World::new();
    world.write("file", b"x");
    world.ok(&["put", "a", "file", "--ttl", "100y"]);
    world.ok(&["put", "b", "file", "--tti", "100y"]);
    world.ok(&["put", "c", "file", "--ttl", "1h"]);
    world.ok(&["extend", "c", "--for", "100y"]);
    world.ok(&["amend", "c", "--ttl", "100y"]);
    for arguments in [
        ["put", "a", "file", "--ttl", "101y"],
        ["put", "a", "file", "--tti", "101y"],
    ] {
        world.fails(2, "at most 100y", &arguments);
    }
    world.fails(2, "at most 100y", &["extend", "c", "--for", "101y"]);
}

#[test]
fn rename_to_the_same_key_is_refused() {
    let world = World::new();
    world.put("a", b"x");
    world.fails(
        2,
        "an object can't be renamed to its own key: key=a",
        &["mv", "a", "a"],
    );
    assert_eq!(world.ok(&["get", "a"]).bytes, b"x");
    world.ok(&["cp", "a", "a"]);
    assert_eq!(world.ok(&["get", "a"]).bytes, b"x");
}

#[test]
fn deleting_everything_needs_the_option_all() {
    let world = World::new();
    world.put("a", b"x");
    world.put("b", b"x");
    for prefix in [["rm", "-r", ""], ["rm", "--prefix", ""]] {
        world.fails(2, "give --all", &prefix);
    }
    world.fails(2, "give --all", &["rm", "a", "-r", ""]);
    world.fails(2, "prefix=a", &["rm", "--all", "-r", "a"]);
    world.fails(2, "cannot be used with", &["rm", "a", "--all"]);
    world.fails(
        2,
        "cannot be used with",
        &["rm", "--all", "--if-version", "1"],
    );
    assert_eq!(world.ok(&["ls"]).text(), "a\nb\n");
    assert_eq!(
        world.ok(&["rm", "-r", "", "--all"]).text(),
        "deleted 2 objects\n"
    );
    world.put("a", b"x");
    assert_eq!(world.ok(&["rm", "--all"]).text(), "deleted 1 object\n");
}

#[test]
fn amend_changes_metadata_and_keeps_the_bytes() {
    let world = World::new();
    world.write("file", &noise(2_000_000));
    world.ok(&["put", "a", "file", "--meta", "old=1", "--meta", "kept=2"]);
    let arguments = [
        "--content-type",
        "image/png",
        "--filename",
        "a.png",
        "--set",
        "new=3",
        "--unset",
        "old",
    ];
    world.ok(&[
        &["amend", "a", "--if-version", "1", "--ttl", "1h"][..],
        &arguments,
    ]
    .concat());
    let stat = world.ok(&["stat", "a", "--json"]).json().remove(0);
    assert_eq!(
        stat["custom"],
        serde_json::json!({ "kept": "2", "new": "3" })
    );
    assert_eq!(
        (&stat["content_type"], &stat["filename"]),
        (&"image/png".into(), &"a.png".into())
    );
    assert_eq!(
        (&stat["version"], &stat["expiration"]["policy"]),
        (&2.into(), &"time-to-live".into())
    );
    assert!(world.ok(&["get", "a"]).bytes == noise(2_000_000));
    world.fails(
        4,
        "does not hold",
        &["amend", "a", "--if-version", "1", "--unset", "new"],
    );
    world.fails(3, "no such object", &["amend", "b", "--unset", "new"]);
}

#[test]
fn deletion_of_a_prefix_keeps_other_objects() {
    let world = World::new();
    for number in 0..1100 {
        world.write(&format!("tree/a/{number}"), b"x");
    }
    world.write("tree/b", b"x");
    world.ok(&["import", "tree"]);
    let removed = world
        .ok(&["rm", "--prefix", "a/", "--json"])
        .json()
        .remove(0);
    assert_eq!(
        removed,
        serde_json::json!({ "prefix": "a/", "deleted": 1100 })
    );
    assert_eq!(world.ok(&["ls"]).text(), "b\n");
}
