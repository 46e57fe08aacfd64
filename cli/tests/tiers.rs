//! Location of the blob tier: remembered, checked, and changed only by `adopt`.

use crate::world::{World, noise};

/// Writes a file that is too large for the index. Returns its bytes.
fn large(world: &World, name: &str) -> Vec<u8> {
    let bytes = noise(2_000_000);
    world.write(name, &bytes);
    bytes
}

/// Returns the URI of a directory of this world.
fn at(world: &World, name: &str) -> String {
    format!("fs:{}", world.path(name).display())
}

#[test]
fn unmounted_tier_is_an_error_and_loses_nothing() {
    let world = World::new();
    let bytes = large(&world, "big");
    let disk = at(&world, "disk");
    world.ok(&["--blobs", &disk, "put", "one", "big"]);
    std::fs::rename(world.path("disk"), world.path("away")).unwrap();
    for makes_mount_point in [false, true] {
        if makes_mount_point {
            std::fs::create_dir(world.path("disk")).unwrap();
        }
        for blobs in [&[][..], &["--blobs", &disk][..]] {
            world.fails(1, "is missing", &[blobs, &["get", "one"]].concat());
            world.fails(1, "is missing", &[blobs, &["put", "two", "big"]].concat());
            world.fails(1, "is missing", &[blobs, &["rm", "one"]].concat());
        }
        assert_eq!(
            world.path("disk").exists(),
            makes_mount_point,
            "a directory was created in place of the tier"
        );
    }
    assert_eq!(std::fs::read_dir(world.path("disk")).unwrap().count(), 0);
    std::fs::remove_dir(world.path("disk")).unwrap();
    std::fs::rename(world.path("away"), world.path("disk")).unwrap();
    assert!(world.ok(&["get", "one"]).bytes == bytes);
    world.fails(3, "two", &["get", "two"]);
}

#[test]
fn tier_is_remembered_and_another_tier_refused() {
    let world = World::new();
    let bytes = large(&world, "big");
    world.ok(&["--blobs", &at(&world, "disk"), "put", "one", "big"]);
    assert!(!world.path("data/blobs").exists());
    assert!(world.ok(&["get", "one"]).bytes == bytes);
    assert!(
        world.ok(&["--blobs", "fs:disk", "get", "one"]).bytes == bytes,
        "a relative path to the same tier"
    );
    for other in ["fs:", "fs:elsewhere", "fs:/nowhere/at/all"] {
        world.fails(1, "adopt", &["--blobs", other, "get", "one"]);
    }
    assert!(!world.path("elsewhere").exists() && !world.path("data/blobs").exists());
}

#[test]
fn moved_tier_is_adopted_on_request() {
    let world = World::new();
    let bytes = large(&world, "big");
    world.ok(&["--blobs", &at(&world, "disk"), "put", "one", "big"]);
    std::fs::rename(world.path("disk"), world.path("moved")).unwrap();
    world.fails(1, "is missing", &["get", "one"]);
    world.fails(
        1,
        "this store uses another blob tier",
        &["--blobs", "fs:moved", "get", "one"],
    );
    assert!(
        world
            .ok(&["--blobs", "fs:moved", "adopt"])
            .text()
            .contains("moved")
    );
    assert!(world.ok(&["get", "one"]).bytes == bytes);
    World::new().fails(1, "there is no store here", &["adopt"]);
}

#[test]
fn tier_of_another_store_is_refused() {
    let world = World::new();
    let other = World::new();
    large(&world, "big");
    large(&other, "big");
    world.ok(&["put", "one", "big"]);
    let tier = format!("fs:{}", world.path("data/blobs").display());
    other.fails(
        1,
        "belongs to another store",
        &["--blobs", &tier, "put", "two", "big"],
    );
    world.ok(&["get", "one"]);
}

#[test]
fn missing_blob_fails_every_command_that_reads_it() {
    let world = World::new();
    large(&world, "tree/big");
    world.ok(&["import", "tree"]);
    let blob = walkdir::WalkDir::new(world.path("data/blobs"))
        .min_depth(2)
        .into_iter()
        .filter_map(Result::ok);
    let blob = blob
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path())
        .next()
        .unwrap();
    std::fs::remove_file(blob).unwrap();
    world.ok(&["stat", "big"]);
    world.fails(1, "missing blob", &["get", "big"]);
    world.fails(1, "missing blob", &["cp", "big", "copy"]);
    let exported = world.run(&["export", "out"]);
    assert!(
        exported.code == Some(1) && exported.to_string().contains("missing blob"),
        "{exported}"
    );
    let verified = world.run(&["verify", "tree"]);
    assert!(
        verified.code == Some(1) && verified.to_string().contains("missing blob"),
        "{verified}"
    );
    world.fails(3, "no such", &["get", "copy"]);
}

/// Needs a build without the features: with them the tool would contact the services.
#[test]
#[cfg(not(any(feature = "s3", feature = "gcs", feature = "azblob")))]
fn cloud_tier_without_its_feature_is_a_usage_error() {
    let world = World::new();
    world.put("a", b"bytes");
    let remembered = std::fs::read(world.path("data/tier.json")).unwrap();
    for scheme in ["s3", "gcs", "azblob"] {
        let uri = format!("{scheme}://me:hush@bucket/root?key=hush");
        let commands = [&["get", "a"][..], &["adopt"], &["salvage", "data", "new"]];
        for arguments in commands {
            let said = world.fails(
                2,
                "cargo install cenotaph-cli --features cloud",
                &[&["--blobs", &uri], arguments].concat(),
            );
            assert!(said.errors.contains(&format!("feature={scheme}")), "{said}");
            assert!(!said.errors.contains("hush"), "{said}");
        }
        let empty = World::new();
        for arguments in [&["put", "a", "/dev/null"][..], &["ls"]] {
            empty.fails(
                2,
                "--features cloud",
                &[&["--blobs", &uri], arguments].concat(),
            );
        }
        assert!(!empty.path("data").exists(), "a store was created");
    }
    assert!(!world.path("new").exists(), "a store was salvaged");
    assert_eq!(
        std::fs::read(world.path("data/tier.json")).unwrap(),
        remembered
    );
    // A store that another build put on such a tier.
    std::fs::write(
        world.path("data/tier.json"),
        r#"{"format":1,"blobs":"s3://bucket/root"}"#,
    )
    .unwrap();
    world.fails(2, "--features cloud", &["get", "a"]);
}
