//! Interrupted puts in parts, and checks of their remains.
//!
//! A process is interrupted when its output reports a given number of durable parts. If it finishes
//! before the signal arrives, the test starts again in a new world, a bounded number of times.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::world::{Said, World, noise};

pub(crate) const MIB: usize = 1024 * 1024;

/// Largest number of worlds until a process is interrupted before it finishes.
const TRIES_MAX: usize = 20;

/// An interrupted put.
pub(crate) struct Interrupted {
    /// World of the put.
    pub(crate) world: World,
    /// Output and exit code of the put.
    pub(crate) said: Said,
    /// Id of the upload.
    pub(crate) upload_id: String,
    /// Numbers of the parts that were reported durable.
    pub(crate) reported: Vec<u64>,
}

/// Writes a file of 40 MiB.
pub(crate) fn forty_mib(world: &World) {
    world.write("file", &noise(40 * MIB));
}

/// Puts `file`, written by `prepare`, as `key` in parts, and sends the signal after this number of
/// reported parts.
pub(crate) fn interrupted(
    prepare: impl Fn(&World),
    signal: &str,
    parts: usize,
    arguments: &[&str],
) -> Interrupted {
    let kill = |_: &World, process: u32| {
        assert!(
            Command::new("kill")
                .args([signal, &process.to_string()])
                .status()
                .unwrap()
                .success()
        );
    };
    failed_after(prepare, parts, kill, arguments)
}

/// Puts `file`, written by `prepare`, as `key` in parts. After this number of reported parts `act`
/// makes the put fail.
pub(crate) fn failed_after(
    prepare: impl Fn(&World),
    parts: usize,
    act: impl Fn(&World, u32),
    arguments: &[&str],
) -> Interrupted {
    for _ in 0..TRIES_MAX {
        let world = World::new();
        prepare(&world);
        let mut child = world
            .command(&["put", "key", "file", "--json"])
            .args(arguments)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let mut seen: Vec<Value> = events.by_ref().take(1 + parts).collect();
        act(&world, child.id());
        seen.extend(events);
        let said = Said::from(child.wait_with_output().unwrap());
        if said.code == Some(0) {
            continue;
        }
        assert!(seen.len() > parts, "the put ended by itself: {said}");
        let upload_id = seen[0]["upload_id"].as_str().unwrap().to_owned();
        let reported = seen[1..]
            .iter()
            .map(|part| part["number"].as_u64().unwrap())
            .collect();
        return Interrupted {
            world,
            said,
            upload_id,
            reported,
        };
    }
    panic!("every process finished before the interruption: tries={TRIES_MAX}");
}

/// Returns the open uploads: id, parts, bytes.
pub(crate) fn open(world: &World) -> Vec<(String, u64, u64)> {
    let number = |upload: &Value, name: &str| upload[name].as_u64().unwrap();
    let listed = |upload: &Value| {
        (
            upload["upload_id"].as_str().unwrap().to_owned(),
            number(upload, "parts"),
            number(upload, "bytes"),
        )
    };
    world
        .ok(&["uploads", "--json"])
        .json()
        .iter()
        .map(listed)
        .collect()
}

/// Returns the numbers of all parts, of parts stored before, and of sent parts. Summary and events
/// of the put must agree.
#[track_caller]
pub(crate) fn counts(said: &Said) -> (u64, u64, u64) {
    let summary = said.summary();
    let events = said.json();
    let number = |name: &str| summary[name].as_u64().unwrap();
    let sent = events
        .iter()
        .filter(|event| event["event"] == "part")
        .count();
    assert_eq!(
        (sent as u64, number("there") + number("sent")),
        (number("sent"), number("parts")),
        "{said}"
    );
    assert_eq!(
        (&events[0]["event"], &events[0]["upload_id"]),
        (&"upload".into(), &summary["upload_id"]),
        "{said}"
    );
    (number("parts"), number("there"), number("sent"))
}

/// Asserts that object and file have the same bytes, without holding them in memory.
#[track_caller]
pub(crate) fn assert_same(world: &World, key: &str, file: &Path) {
    let mut child = world.command(&["get", key]).spawn().unwrap();
    let mut stored = child.stdout.take().unwrap();
    let mut file = File::open(file).unwrap();
    let mut left = vec![0; MIB];
    let mut right = vec![0; MIB];
    let mut at = 0;
    loop {
        let bytes = file.read(&mut right).unwrap();
        if bytes == 0 {
            break;
        }
        stored.read_exact(&mut left[..bytes]).unwrap();
        assert!(
            left[..bytes] == right[..bytes],
            "{key} differs within {bytes} bytes at {at}"
        );
        at += bytes;
    }
    assert_eq!(
        stored.read(&mut left).unwrap(),
        0,
        "{key} is longer than {at} bytes"
    );
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{said}");
}

/// Asserts that no upload is open, and that the blob tier contains this number of blobs.
#[track_caller]
pub(crate) fn assert_nothing_left(world: &World, blobs: usize) {
    assert_eq!(open(world), []);
    assert_eq!(world.blobs(), blobs);
    world.ok(&["scrub"]);
}
