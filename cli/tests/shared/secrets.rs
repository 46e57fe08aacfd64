//! No output contains the URL of the index or its password.

use super::NOWHERE;
use super::server::{PASSWORD, SharedWorld};
use crate::world::{Said, World};

/// Asserts that nothing of the output is a part of the URL that nobody may read.
#[track_caller]
fn assert_secret(said: &Said) {
    for text in [said.text(), &said.errors] {
        for secret in [PASSWORD, "postgres://me", "postgres://cenotaph"] {
            assert!(!text.contains(secret), "{said}");
        }
    }
}

#[test]
fn failures_do_not_contain_the_url() {
    let mut world = World::new();
    world.set("RUST_LOG", "trace");
    for (code, message, url) in [
        (1, "the shared index is not reachable", NOWHERE),
        (1, "can't be read", "postgres://me:s3cret@127.0.0.1:port/x"),
        (
            2,
            "expected postgres://USER",
            "postgres:me:s3cret@127.0.0.1",
        ),
        (
            2,
            "expected postgres://USER",
            "mysql://me:s3cret@127.0.0.1/x",
        ),
        (2, "expected postgres://USER", "s3cret"),
    ] {
        for arguments in [&["ls"][..], &["ls", "--json"], &["put", "a"]] {
            world.unset("CENOTAPH_INDEX");
            let given = [arguments, &["--index", url]].concat();
            assert_secret(&world.fails(code, message, &given));
            world.set("CENOTAPH_INDEX", url);
            assert_secret(&world.fails(code, message, arguments));
        }
    }
    world.unset("CENOTAPH_INDEX");
    world.write("store/index/empty", b"");
    let from = ["migrate", "--from", "cenotaph:x"];
    world.set("CENOTAPH_FROM_INDEX", NOWHERE);
    assert_secret(&world.fails(1, "not reachable", &from));
    // Of the parser of arguments.
    for wrong in [
        &["ls", "--index", NOWHERE, "--index", NOWHERE][..],
        &["ls", "--indexx", NOWHERE],
        &["ls", "--index-schema"],
    ] {
        let said = world.run(wrong);
        assert_eq!(said.code, Some(2), "{said}");
        assert_secret(&said);
    }
}

#[test]
fn successes_do_not_contain_the_url() {
    let Some(mut shared) = SharedWorld::start() else {
        return;
    };
    let world = &mut shared.world;
    world.set("RUST_LOG", "trace");
    world.write("file", b"file");
    for arguments in [
        &["put", "a", "file"][..],
        &["stats"],
        &["stats", "--json"],
        &["members"],
        &["members", "--json"],
    ] {
        assert_secret(&world.ok(arguments));
    }
    let remembered = std::fs::read_to_string(world.path("data/tier.json")).unwrap();
    assert_eq!(
        remembered,
        "{\"blobs\":\"fs:\",\"format\":3,\"older\":[]}\n"
    );
    let denied = shared.url.replace("/postgres", "/absent");
    world.set("CENOTAPH_INDEX", &denied);
    assert_secret(&world.fails(1, "does not exist", &["ls"]));
}
