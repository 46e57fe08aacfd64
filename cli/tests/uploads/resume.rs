//! Puts in parts that are killed, interrupted or fail, and are resumed.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use cenotaph::{Engine, Env};

use super::stage::{
    MIB, assert_nothing_left, assert_same, counts, failed_after, forty_mib, interrupted, open,
};
use crate::world::{World, noise};

/// Returns the size of the file of the long run, in bytes. `.ci/run --full` sets a larger size.
fn resume_bytes() -> usize {
    std::env::var("CENOTAPH_RESUME_BYTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(256 * MIB)
}

/// Writes a file of this size whose MiB blocks all differ.
fn write_large(path: &Path, bytes: usize) {
    let mut file = File::create(path).unwrap();
    let mut block = noise(MIB);
    for at in (0..bytes).step_by(MIB) {
        block[..8].copy_from_slice(&(at as u64).to_le_bytes());
        file.write_all(&block[..MIB.min(bytes - at)]).unwrap();
    }
}

#[test]
fn killed_put_is_resumed_with_only_the_missing_parts() {
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
        // The resumed upload keeps its part size, whatever the option.
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

/// The long run. Prints its figures.
#[test]
fn large_file_killed_halfway_is_resumed() {
    let bytes = resume_bytes();
    let parts = 32;
    let part_size = bytes.div_ceil(parts).max(MIB).to_string();
    let large = |world: &World| write_large(&world.path("file"), bytes);
    let arguments = ["--part-size", &part_size, "--parallel", "4"];
    let killed = interrupted(large, "-KILL", parts / 2, &arguments);
    let world = &killed.world;
    assert_eq!(killed.said.code, None, "not killed: {}", killed.said);

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
        "a reported part was sent again: {again:?}"
    );
    assert_same(world, "key", &world.path("file"));
    assert_nothing_left(world, parts);
    println!(
        "{bytes} bytes in {all} parts of {part_size}, 4 at once: killed by SIGKILL when {} were \
         reported, {durable} were durable ({durable_bytes} bytes), sent {sent} of {all} in \
         {took:.2?}; read back: equal",
        killed.reported.len()
    );
}

#[test]
fn interrupted_put_explains_how_to_resume() {
    let stopped = interrupted(
        forty_mib,
        "-INT",
        5,
        &["--part-size", "1MiB", "--parallel", "2", "--meta", "a=b"],
    );
    let world = &stopped.world;
    let id = &stopped.upload_id;
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
        "{durable} of 40 parts were already stored, sent {}\nkey version 1\n",
        40 - durable
    );
    assert_eq!(said.text(), expected);
    assert!(
        said.errors.contains(&format!(
            "upload {id}: resumed, {durable} of 40 parts are already stored"
        )),
        "{said}"
    );
    assert_eq!(
        world.ok(&["stat", "key", "--json"]).json()[0]["custom"]["a"],
        "b",
        "metadata of the first command"
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
fn resume_of_a_changed_file_replaces_the_changed_parts() {
    let killed = interrupted(forty_mib, "-KILL", 10, &["--part-size", "1MiB"]);
    let world = &killed.world;
    let id = &killed.upload_id;
    let durable = open(world)[0].1;
    let mut changed = noise(40 * MIB);
    changed[(usize::try_from(killed.reported[0]).unwrap() - 1) * MIB + 7] ^= 1;
    changed.extend_from_slice(b"and a little more");
    world.write("file", &changed);
    // Without an id: the upload does not match the file, so a new upload begins.
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
    // With the id: all parts are reused except the part that differs.
    let said = world.ok(&["put", "key", "file", "--json", "--resume", id]);
    assert_eq!(counts(&said), (41, durable - 1, 42 - durable), "{said}");
    assert_same(world, "key", &world.path("file"));
    assert_nothing_left(world, 41);
}

#[test]
fn resume_of_a_shorter_file_keeps_no_part_beyond_its_end() {
    let killed = interrupted(
        forty_mib,
        "-KILL",
        20,
        &["--part-size", "1MiB", "--parallel", "1"],
    );
    let world = &killed.world;
    let id = &killed.upload_id;
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
fn file_changed_during_the_upload_fails_and_can_be_resumed() {
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
        let world = &changed.world;
        let id = &changed.upload_id;
        let said = &changed.said;
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
fn resume_takes_the_newest_upload_that_matches_the_file() {
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
    // Part size and numbers of the stored parts. From the third on, the parts are of another file.
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
            // Ids of the same millisecond have no order.
            Env::real().unwrap().sleep(Duration::from_millis(2)).await;
        }
        engine.multipart("key/longer").await.unwrap();
        engine.close().await.unwrap();
        ids
    });
    // Upload 1, the newest with parts of this file, has only the last part. Its number and length
    // determine the size of the others.
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
        "uploads of other files and objects must stay open"
    );
    assert!(
        left.iter()
            .map(|(id, ..)| id)
            .take(2)
            .eq([&ids[2], &ids[3]])
    );
}

#[test]
fn resume_without_an_open_upload_begins_one() {
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
