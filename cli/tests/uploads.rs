//! Uploads in parts: put, killed, resumed, listed, aborted.

mod stage;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cenotaph::{Engine, Env};

use crate::world::{Said, World, noise};
use stage::{MIB, assert_nothing_left, assert_same, counts, failed_after, interrupted, open};

/// Bytes of the file of the long run; `.ci/run --full` says more.
fn resume_bytes() -> usize {
    std::env::var("CENOTAPH_RESUME_BYTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(256 * MIB)
}

/// A file of so many bytes, no two MiB of which are alike.
fn write_large(path: &Path, bytes: usize) {
    let (mut file, mut block) = (File::create(path).unwrap(), noise(MIB));
    for at in (0..bytes).step_by(MIB) {
        block[..8].copy_from_slice(&(at as u64).to_le_bytes());
        file.write_all(&block[..MIB.min(bytes - at)]).unwrap();
    }
}

fn forty_mib(world: &World) {
    world.write("file", &noise(40 * MIB));
}

#[test]
fn a_file_is_put_in_parts_with_all_that_is_stated() {
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
fn only_a_regular_file_is_put_in_parts_and_only_as_it_can_be() {
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
    world.fails(
        2,
        "no upload id is spelled so",
        &["put", "--resume", "a", "file"],
    );
    world.fails(1, "no such file", &["put", "a", "no such file", "--resume"]);
    // With a hole in it, which takes no space.
    File::create(world.path("huge"))
        .unwrap()
        .set_len((5 << 40) + 1)
        .unwrap();
    world.fails(1, "the file is too large", &["put", "a", "huge"]);
    assert_eq!(open(&world), []);
}

/// Parts whose upload had begun and not ended when the process was killed.
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
fn so_many_parts_are_under_way_together_as_told_and_no_more() {
    assert!(under_way("1") <= 1);
    let seen: Vec<u64> = (0..20)
        .map(|_| under_way("3"))
        .take_while(|parts| *parts <= 1)
        .collect();
    assert!(seen.len() < 20, "never more than one: {seen:?}");
    assert!(under_way("3") <= 3);
}

#[test]
fn a_killed_put_is_resumed_with_only_the_missing_parts() {
    for resume in ["named", "newest"] {
        let killed = interrupted(forty_mib, "-KILL", 20, &["--part-size", "1MiB"]);
        let world = &killed.world;
        let (upload_id, durable, bytes) = open(world).remove(0);
        assert_eq!(
            (&upload_id, bytes),
            (&killed.upload_id, durable * MIB as u64)
        );
        assert!(
            (killed.reported.len() as u64..40).contains(&durable),
            "{durable} of {:?}",
            killed.reported
        );
        world.fails(3, "no such object", &["get", "key"]);
        // Today's options are not asked how long the parts of then are.
        let named = format!("--resume={upload_id}");
        let resume = if resume == "named" {
            named.as_str()
        } else {
            "--resume"
        };
        let said = world.ok(&[
            "put",
            "key",
            "file",
            "--json",
            "--part-size",
            "7MiB",
            resume,
        ]);
        assert_eq!(counts(&said), (40, durable, 40 - durable), "{said}");
        assert_eq!(said.summary()["upload_id"], upload_id.as_str());
        assert_same(world, "key", &world.path("file"));
        assert_nothing_left(world, 40);
    }
}

/// The long run: prints its figures.
#[test]
fn a_large_file_killed_halfway_is_resumed_with_only_the_missing_parts() {
    let (bytes, parts) = (resume_bytes(), 32);
    let part_size = bytes.div_ceil(parts).max(MIB).to_string();
    let large = |world: &World| write_large(&world.path("file"), bytes);
    let arguments = ["--part-size", &part_size, "--parallel", "4"];
    let killed = interrupted(large, "-KILL", parts / 2, &arguments);
    let world = &killed.world;
    assert_eq!(killed.said.code, None, "killed, not ended: {}", killed.said);

    let (upload_id, durable, durable_bytes) = open(world).remove(0);
    assert_eq!(upload_id, killed.upload_id);
    assert!(
        durable >= killed.reported.len() as u64,
        "{durable} parts are durable, reported were {:?}",
        killed.reported
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = runtime.block_on(async { Env::real().unwrap() });
    let started = env.monotonic();
    let said = world.ok(&[
        "put",
        "key",
        "file",
        "--json",
        "--parallel",
        "4",
        "--resume",
        &upload_id,
    ]);
    let took = env.monotonic() - started;
    let (all, there, sent) = counts(&said);
    assert_eq!(
        (all, there, sent),
        (parts as u64, durable, parts as u64 - durable),
        "{said}"
    );
    let again: Vec<u64> = said
        .json()
        .iter()
        .filter_map(|event| event["number"].as_u64())
        .collect();
    assert!(
        killed.reported.iter().all(|number| !again.contains(number)),
        "what was reported is sent again: {again:?}"
    );
    assert_same(world, "key", &world.path("file"));
    assert_nothing_left(world, parts);
    println!(
        "{bytes} bytes in {all} parts of {part_size}, 4 at once: killed by SIGKILL when {} were reported, {durable} were durable \
         ({durable_bytes} bytes), sent {sent} of {all} in {took:.2?}; read back: the same",
        killed.reported.len()
    );
}

#[test]
fn an_interrupted_put_says_how_to_go_on_and_what_is_there_is_told() {
    let stopped = interrupted(
        forty_mib,
        "-INT",
        5,
        &["--part-size", "1MiB", "--parallel", "2", "--meta", "a=b"],
    );
    let (world, id) = (&stopped.world, &stopped.upload_id);
    assert_eq!(stopped.said.code, Some(1));
    for part in [
        "interrupted",
        &format!("--resume={id}"),
        &format!("`abort key {id}`"),
    ] {
        assert!(
            stopped.said.errors.contains(part),
            "{part}: {}",
            stopped.said
        );
    }
    let durable = open(world)[0].1;
    world.fails(
        2,
        "begun with other metadata",
        &["put", "key", "file", "--meta", "a=c", "--resume", id],
    );
    let said = world.ok(&["put", "key", "file", "--resume", id]);
    let expected = format!(
        "{durable} of 40 parts were there already, sent {}\nkey version 1\n",
        40 - durable
    );
    assert_eq!(said.text(), expected);
    assert!(
        said.errors.contains(&format!(
            "upload {id}: resumed, {durable} of 40 parts are there"
        )),
        "{said}"
    );
    assert_eq!(
        world.ok(&["stat", "key", "--json"]).json()[0]["custom"]["a"],
        "b",
        "as it was begun"
    );
    assert_same(world, "key", &world.path("file"));
    world.fails(
        3,
        "the upload has been completed",
        &["put", "key", "file", "--resume", id],
    );
    world.fails(3, "the upload has been completed", &["abort", "key", id]);
}

#[test]
fn a_resume_takes_no_upload_of_another_file_and_replaces_what_has_become_other() {
    let killed = interrupted(forty_mib, "-KILL", 10, &["--part-size", "1MiB"]);
    let (world, id) = (&killed.world, &killed.upload_id);
    let durable = open(world)[0].1;
    let mut changed = noise(40 * MIB);
    changed[(usize::try_from(killed.reported[0]).unwrap() - 1) * MIB + 7] ^= 1;
    changed.extend_from_slice(b"and a little more");
    world.write("file", &changed);
    // Without an id: a new upload, and the other stays as it is.
    let said = world.ok(&[
        "put",
        "key",
        "file",
        "--json",
        "--resume",
        "--part-size",
        "8MiB",
    ]);
    assert_eq!(counts(&said), (6, 0, 6));
    assert_eq!(open(world)[0], (id.clone(), durable, durable * MIB as u64));
    world.ok(&["rm", "key"]);
    // With it: all but the part that differs.
    let said = world.ok(&["put", "key", "file", "--json", "--resume", id]);
    assert_eq!(counts(&said), (41, durable - 1, 42 - durable), "{said}");
    assert_same(world, "key", &world.path("file"));
    assert_nothing_left(world, 41);
}

#[test]
fn a_resume_of_a_file_that_has_become_shorter_keeps_nothing_of_what_it_was() {
    let killed = interrupted(
        forty_mib,
        "-KILL",
        20,
        &["--part-size", "1MiB", "--parallel", "1"],
    );
    let (world, id) = (&killed.world, &killed.upload_id);
    File::options()
        .write(true)
        .open(world.path("file"))
        .unwrap()
        .set_len(5 * MIB as u64 + 1)
        .unwrap();
    let said = world.ok(&["put", "key", "file", "--json", "--resume", id]);
    assert_eq!(counts(&said), (6, 5, 1));
    assert_same(world, "key", &world.path("file"));
    assert_nothing_left(world, 6);
}

#[test]
fn a_file_that_changes_while_it_is_uploaded_is_an_error_and_the_upload_goes_on_with_what_it_has_become()
 {
    let longer = |world: &World, _| {
        let mut file = File::options()
            .append(true)
            .open(world.path("file"))
            .unwrap();
        file.write_all(b"more").unwrap();
    };
    let shorter = |world: &World, _| {
        File::options()
            .write(true)
            .open(world.path("file"))
            .unwrap()
            .set_len(20 * MIB as u64 + 1)
            .unwrap();
    };
    let other = |world: &World, _| {
        let mut file = File::options()
            .write(true)
            .open(world.path("file"))
            .unwrap();
        file.write_all(b"other").unwrap();
    };
    for (change, parts) in [(longer as fn(&World, u32), 41), (shorter, 21), (other, 40)] {
        let changed = failed_after(
            forty_mib,
            1,
            change,
            &["--part-size", "1MiB", "--parallel", "1"],
        );
        let (world, id, said) = (&changed.world, &changed.upload_id, &changed.said);
        assert_eq!(said.code, Some(1), "{said}");
        assert!(
            said.errors
                .contains("the file changed while it was read: path=file; the upload stays open"),
            "{said}"
        );
        world.fails(3, "no such object", &["get", "key"]);
        let resumed = world.ok(&["put", "key", "file", "--json", "--resume", id]);
        let (all, there, _sent) = counts(&resumed);
        assert!(all == parts && there > 0, "{resumed}");
        assert_same(world, "key", &world.path("file"));
        assert_nothing_left(world, usize::try_from(parts).unwrap());
    }
}

#[test]
fn nobody_reading_what_happens_ends_no_upload() {
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
    assert_eq!(said.code, Some(1), "its summary was not written: {said}");
    assert_same(&world, "key", &world.path("file"));
}

#[test]
fn a_resume_takes_the_newest_upload_that_is_of_the_file() {
    let world = World::new();
    let file = noise(5 * MIB + 5);
    world.write("file", &file);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let part = |number: usize, bytes: usize| {
        file[(number - 1) * bytes..file.len().min(number * bytes)].to_vec()
    };
    // Length of parts, and numbers of those that are there; the last is of another file.
    let uploads = [
        (2 * MIB, vec![1, 2]),
        (MIB, vec![6]),
        (MIB, vec![1]),
        (3 * MIB, vec![1, 2]),
        (MIB, vec![]),
    ];
    let ids: Vec<String> = runtime.block_on(async {
        let engine = Engine::builder(world.path("data")).open().await.unwrap();
        let mut ids = Vec::new();
        for (at, (bytes, numbers)) in uploads.iter().enumerate() {
            let upload = engine.multipart("key").await.unwrap();
            for &number in numbers {
                let mut body = part(number, *bytes);
                body[0] ^= u8::from(at >= 2);
                upload
                    .part(u32::try_from(number).unwrap(), body)
                    .await
                    .unwrap();
            }
            ids.push(upload.upload_id().to_string());
            // Uploads of one millisecond are in no order.
            Env::real().unwrap().sleep(Duration::from_millis(2)).await;
        }
        engine.multipart("key/longer").await.unwrap();
        engine.close().await.unwrap();
        ids
    });
    // The newest that has parts of this file has its last one only: the number and length of that
    // tell the others'.
    for (id, expected) in [(1, (6, 1, 5)), (0, (3, 2, 1)), (4, (1, 0, 1))] {
        let said = world.ok(&["put", "key", "file", "--resume", "--json"]);
        assert_eq!(
            (said.summary()["upload_id"].as_str().unwrap(), counts(&said)),
            (&*ids[id], expected),
            "{said}"
        );
        assert_same(&world, "key", &world.path("file"));
    }
    let left = open(&world);
    assert_eq!(
        left.len(),
        3,
        "those of other files and objects stay as they are"
    );
    assert!(
        left.iter()
            .map(|(id, ..)| id)
            .take(2)
            .eq([&ids[2], &ids[3]])
    );
}

#[test]
fn a_resume_without_an_open_upload_begins_one() {
    let world = World::new();
    world.write("file", &noise(3 * MIB));
    world.ok(&["put", "key/longer", "file"]);
    let said = world.ok(&[
        "put",
        "key",
        "file",
        "--resume",
        "--part-size",
        "1MiB",
        "--json",
    ]);
    assert_eq!(
        (counts(&said), &said.json()[0]["resumed"]),
        ((3, 0, 3), &false.into())
    );
    let said = world.ok(&["put", "key", "file", "--resume", "--part-size", "1MiB"]);
    assert_eq!(said.text(), "key version 2\n");
    assert_same(&world, "key", &world.path("file"));
}

#[test]
fn a_foreign_or_forged_upload_id_is_refused_alike() {
    let killed = interrupted(forty_mib, "-KILL", 1, &["--part-size", "1MiB"]);
    let (world, id) = (&killed.world, &killed.upload_id);
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
    world.fails(2, "no upload id is spelled so", &["abort", "key", "forged"]);
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
    assert_eq!(open(world)[0].0, *id, "it is still open");
}

#[test]
fn uploads_are_listed_and_aborted() {
    let killed = interrupted(
        forty_mib,
        "-KILL",
        3,
        &["--part-size", "1MiB", "--content-type", "text/plain"],
    );
    let (world, id) = (&killed.world, &killed.upload_id);
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
fn a_condition_holds_when_the_upload_begins_and_when_it_completes() {
    let killed = interrupted(
        forty_mib,
        "-KILL",
        3,
        &["--part-size", "1MiB", "--if-absent"],
    );
    let (world, id) = (&killed.world, &killed.upload_id);
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
