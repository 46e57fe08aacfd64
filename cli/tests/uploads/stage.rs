//! A put in parts that does not end well, and what there is of it afterwards.
//!
//! A process is interrupted when it has said that so many parts are durable: its lines are read as
//! they come. It may be done before the signal reaches it; then the world is made anew, a bounded
//! number of times.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::world::{Said, World};

pub(crate) const MIB: usize = 1024 * 1024;

/// Worlds tried until a process is interrupted before it has finished.
const TRIES_MAX: usize = 20;

/// What an interrupted put has said.
pub(crate) struct Interrupted {
    pub(crate) world: World,
    pub(crate) said: Said,
    pub(crate) upload_id: String,
    /// The numbers of the parts that it said were durable.
    pub(crate) reported: Vec<u64>,
}

/// Puts `file` as `key` in parts, in a world where `prepare` wrote it, and sends the signal once so
/// many parts are reported.
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

/// Puts `file` as `key` in parts, in a world where `prepare` wrote it, and does to it once so many
/// parts are reported what lets it fail.
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
        assert!(seen.len() > parts, "it ended by itself: {said}");
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
    panic!("no process was interrupted before it had finished: tries={TRIES_MAX}");
}

/// The uploads that are open: id, parts, bytes.
pub(crate) fn open(world: &World) -> Vec<(String, u64, u64)> {
    let number = |upload: &Value, name: &str| upload[name].as_u64().unwrap();
    let told = |upload: &Value| {
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
        .map(told)
        .collect()
}

/// How many parts of the file there are, were there before and were sent, as the put has said, and
/// as it has counted them out.
#[track_caller]
pub(crate) fn counts(said: &Said) -> (u64, u64, u64) {
    let (summary, events) = (said.summary(), said.json());
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

/// Reads the object and the file side by side.
#[track_caller]
pub(crate) fn assert_same(world: &World, key: &str, file: &Path) {
    let mut child = world.command(&["get", key]).spawn().unwrap();
    let (mut stored, mut file) = (child.stdout.take().unwrap(), File::open(file).unwrap());
    let (mut left, mut right) = (vec![0; MIB], vec![0; MIB]);
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

/// No upload is open, and the blob tier holds nothing but the object's parts.
#[track_caller]
pub(crate) fn assert_nothing_left(world: &World, blobs: usize) {
    assert_eq!(open(world), []);
    assert_eq!(world.blobs(), blobs);
    world.ok(&["scrub"]);
}
