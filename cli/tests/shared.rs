//! The tool on a shared index: a build without the cargo feature refuses it; with the feature, one
//! file per topic runs the tool on a real PostgreSQL server.
//!
//! Without PostgreSQL these tests print `SKIPPED` and pass (CONTRIBUTING.md describes its
//! installation).

use crate::world::World;

#[cfg(feature = "postgres")]
mod members;
#[cfg(feature = "postgres")]
mod moving;
#[cfg(feature = "postgres")]
mod secrets;
#[cfg(feature = "postgres")]
mod server;

/// A URL whose port nobody listens on.
const NOWHERE: &str = "postgres://me:s3cret@127.0.0.1:1/x";

#[test]
fn build_without_the_feature_names_it() {
    let mut world = World::new();
    let message = match cfg!(feature = "postgres") {
        true => return,
        false => "does not support a shared index: feature=postgres",
    };
    let said = world.fails(2, message, &["ls", "--index", NOWHERE]);
    assert!(said.errors.contains("--features postgres"), "{said}");
    assert!(!said.errors.contains("s3cret"), "{said}");
    world.set("CENOTAPH_INDEX", NOWHERE);
    world.fails(2, message, &["ls"]);
    // The variable names the index of another store than the directory that these commands are given.
    world.fails(1, "there is no index", &["doctor"]);
    world.unset("CENOTAPH_INDEX");
    world.put("a", b"a");
}

#[test]
fn commands_on_a_directory_refuse_a_shared_index() {
    let world = World::new();
    for arguments in [&["doctor"][..], &["salvage", "old", "new"], &["demo"]] {
        let said = world.fails(
            2,
            "is for stores whose index is in a directory",
            &[arguments, &["--index", NOWHERE]].concat(),
        );
        assert!(!said.errors.contains("s3cret"), "{said}");
    }
}

#[test]
fn embedded_store_has_no_members() {
    let world = World::new();
    world.put("a", b"a");
    let said = world.fails(1, "the store is not shared", &["members"]);
    assert_eq!(said.text(), "");
    let stats = world.ok(&["stats", "--json"]).json().remove(0);
    assert_eq!(
        (&stats["shared"], &stats["members"]),
        (&false.into(), &serde_json::Value::Null)
    );
}

#[test]
fn index_of_a_source_needs_a_store_as_source() {
    let world = World::new();
    world.write("files/a", b"a");
    let migrate = ["migrate", "--from", "fs:files", "--from-index", NOWHERE];
    world.fails(2, "expected cenotaph:DIR", &migrate);
}
