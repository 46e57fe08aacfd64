//! Uploads in parts: puts, preconditions, listings and aborts. `resume.rs` tests interrupted puts.

mod resume;
mod stage;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Command;

use crate::world::{Said, World, noise};
use stage::{MIB, assert_nothing_left, assert_same, counts, forty_mib, interrupted, open};

#[test]
fn file_is_put_in_parts_with_its_metadata() {
    let world = World::new();
    for (bytes, part_size, parts) in [
        (0, "1MiB", 1),
        (5, "1MiB", 1),
        (3 * MIB, "1MiB", 3),
        (3 * MIB + 1, "1500000", 3),
    ] {
        world.write("file", &noise(bytes));
        let arguments = [
            "--parallel",
            "3",
            "--part-size",
            part_size,
            "--content-type",
            "text/plain",
            "--ttl",
            "1h",
        ];
        let said = world.ok(&[
            &["put", "a", "file", "--json", "--meta", "x=y"],
            &arguments[..],
        ]
        .concat());
        assert_eq!(counts(&said), (parts, 0, parts));
        assert_same(&world, "a", &world.path("file"));
        let stat = world.ok(&["stat", "a", "--json"]).json().remove(0);
        assert_eq!(
            (&stat["size"], &stat["etag"]),
            (&bytes.into(), &said.summary()["etag"])
        );
        assert_eq!(
            (&stat["content_type"], &stat["custom"]["x"]),
            (&"text/plain".into(), &"y".into())
        );
        assert_eq!(stat["expiration"]["policy"], "time-to-live");
    }
    let said = world.ok(&["put", "b", "file", "--parallel", "2"]);
    assert_eq!(said.text(), "b version 1\n");
    assert!(said.errors.contains("1 part of 64.0 MiB"), "{said}");
    assert_eq!(open(&world), []);
}

#[test]
fn invalid_options_and_inputs_of_parts_are_refused() {
    let world = World::new();
    world.write("file", b"x");
    for flag in ["--parallel=2", "--part-size=1MiB", "--resume"] {
        world.fails(2, "required", &["put", "a", flag]);
        world.fails(2, "only a regular file", &["put", "a", "-", flag]);
        world.fails(2, "only a regular file", &["put", "a", "/dev/null", flag]);
    }
    world.fails(
        2,
        "from 1.0 MiB to 5.0 GiB",
        &["put", "a", "file", "--part-size", "1KiB"],
    );
    world.fails(2, "1 to 256", &["put", "a", "file", "--parallel", "0"]);
    world.fails(2, "invalid upload id", &["put", "--resume", "a", "file"]);
    world.fails(1, "no such file", &["put", "a", "no such file", "--resume"]);
    // A sparse file takes no space.
    File::create(world.path("huge"))
        .unwrap()
        .set_len((5 << 40) + 1)
        .unwrap();
    world.fails(1, "the file is too large", &["put", "a", "huge"]);
    assert_eq!(open(&world), []);
}

/// Returns the number of parts that were being sent when the process was killed.
fn under_way(parallel: &str) -> u64 {
    let killed = interrupted(
        forty_mib,
        "-KILL",
        2,
        &["--part-size", "4MiB", "--parallel", parallel],
    );
    killed.world.ok(&["recover", "--json"]).json()[0]["fenced"]
        .as_u64()
        .unwrap()
}

#[test]
fn concurrent_parts_are_bounded_by_the_option() {
    assert!(under_way("1") <= 1);
    let seen: Vec<u64> = (0..20)
        .map(|_| under_way("3"))
        .take_while(|parts| *parts <= 1)
        .collect();
    assert!(seen.len() < 20, "never two at once: {seen:?}");
    assert!(under_way("3") <= 3);
}

#[test]
fn upload_continues_if_the_reader_of_its_events_stops() {
    let world = World::new();
    forty_mib(&world);
    let mut child = world
        .command(&["put", "key", "file", "--json", "--part-size", "1MiB"])
        .spawn()
        .unwrap();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut String::new())
        .unwrap();
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(1), "the summary has no reader: {said}");
    assert_same(&world, "key", &world.path("file"));
}

#[test]
fn foreign_and_forged_upload_ids_are_refused_alike() {
    let killed = interrupted(forty_mib, "-KILL", 1, &["--part-size", "1MiB"]);
    let world = &killed.world;
    let id = &killed.upload_id;
    let forged: String = id
        .chars()
        .map(|digit| if digit == '0' { '1' } else { digit })
        .collect();
    for (key, id) in [("key", &forged), ("other", id), ("key/longer", id)] {
        world.fails(
            3,
            "the object has no such upload",
            &["put", key, "file", "--resume", id],
        );
        world.fails(3, "the object has no such upload", &["abort", key, id]);
    }
    world.fails(
        3,
        "the object has no such upload",
        &["--namespace", "a", "abort", "key", id],
    );
    world.fails(2, "invalid upload id", &["abort", "key", "forged"]);
    let elsewhere = ["--data", "elsewhere", "put", "key", "file", "--resume", id];
    let said: Said = Command::new(env!("CARGO_BIN_EXE_cenotaph"))
        .args(elsewhere)
        .current_dir(world.path(""))
        .output()
        .unwrap()
        .into();
    assert!(
        said.code == Some(1) && said.errors.contains("there is no store here"),
        "{said}"
    );
    assert_eq!(open(world)[0].0, *id, "the upload must stay open");
}

#[test]
fn uploads_are_listed_and_aborted() {
    let killed = interrupted(
        forty_mib,
        "-KILL",
        3,
        &["--part-size", "1MiB", "--content-type", "text/plain"],
    );
    let world = &killed.world;
    let id = &killed.upload_id;
    let listed = world.ok(&["uploads", "ke", "--json"]).json().remove(0);
    assert_eq!(
        (&listed["key"], &listed["content_type"]),
        (&"key".into(), &"text/plain".into())
    );
    assert_eq!(
        listed["expires_at_ms"].as_u64(),
        listed["initiated_ms"]
            .as_u64()
            .map(|at| at + 7 * 24 * 3_600_000)
    );
    let text = world.ok(&["uploads"]);
    let parts = listed["parts"].as_u64().unwrap();
    assert!(
        text.text()
            .starts_with(&format!("{parts} parts  {parts}.0 MiB  begun 2")),
        "{text}"
    );
    assert!(text.text().ends_with(&format!("  {id}  key\n")), "{text}");
    assert_eq!(world.ok(&["uploads", "key/"]).text(), "");
    assert_eq!(world.ok(&["--namespace", "a", "uploads"]).text(), "");

    let aborted = world.ok(&["abort", "key", id, "--json"]).json().remove(0);
    assert_eq!(
        aborted,
        serde_json::json!({ "key": "key", "upload_id": id, "aborted": true })
    );
    assert_nothing_left(world, 0);
    world.fails(3, "the upload has been aborted", &["abort", "key", id]);
    world.fails(
        3,
        "the upload has been aborted",
        &["put", "key", "file", "--resume", id],
    );
}

#[test]
fn precondition_is_checked_at_begin_and_completion() {
    let killed = interrupted(
        forty_mib,
        "-KILL",
        3,
        &["--part-size", "1MiB", "--if-absent"],
    );
    let world = &killed.world;
    let id = &killed.upload_id;
    world.put("key", b"first");
    world.fails(
        4,
        "does not hold",
        &["put", "key", "file", "--part-size", "1MiB", "--if-absent"],
    );
    let said = world.fails(4, "does not hold", &["put", "key", "file", "--resume", id]);
    assert!(said.errors.contains("the upload stays open"), "{said}");
    assert_eq!(open(world), [(id.clone(), 40, 40 * MIB as u64)]);
    let plain = interrupted(forty_mib, "-KILL", 3, &["--part-size", "1MiB"]);
    plain.world.put("key", b"first");
    for condition in ["--if-absent", "--if-version=7"] {
        plain.world.fails(
            4,
            "does not hold",
            &[
                "put",
                "key",
                "file",
                "--resume",
                &plain.upload_id,
                condition,
            ],
        );
    }
    plain.world.ok(&[
        "put",
        "key",
        "file",
        "--resume",
        &plain.upload_id,
        "--if-version=1",
    ]);
    assert_eq!(world.ok(&["get", "key"]).bytes, b"first");
    world.ok(&["rm", "key"]);
    let said = world.ok(&["put", "key", "file", "--json", "--resume", id]);
    assert_eq!(counts(&said), (40, 40, 0));
    assert_same(world, "key", &world.path("file"));
}
