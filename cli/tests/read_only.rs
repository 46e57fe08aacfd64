//! `--read-only`: commands that read succeed, commands that write are refused, and no file of the
//! store changes.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{Said, World, noise};

/// Entries below a directory: mode, times of the last change of content and inode, bytes.
type Picture = BTreeMap<PathBuf, (u32, [i64; 4], Vec<u8>)>;

/// Reads the entries below a directory.
fn picture(dir: &Path) -> Picture {
    let seen = |entry: walkdir::Result<walkdir::DirEntry>| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let bytes = if metadata.is_dir() {
            Vec::new()
        } else {
            std::fs::read(entry.path()).unwrap()
        };
        let times = [
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ];
        (entry.into_path(), (metadata.mode(), times, bytes))
    };
    walkdir::WalkDir::new(dir).into_iter().map(seen).collect()
}

#[track_caller]
fn assert_unchanged(before: &Picture, dir: &Path) {
    let after = picture(dir);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    for (path, seen) in before {
        assert!(*seen == after[path], "{} has changed", path.display());
    }
}

/// Creates a store with a small tree, and a directory for temporary files.
fn filled() -> World {
    let world = World::new();
    world.tree();
    world.ok(&["import", "tree"]);
    std::fs::create_dir(world.path("tmp")).unwrap();
    world
}

/// Runs the tool, which must leave no temporary files.
fn run(world: &World, arguments: &[&str]) -> Said {
    let said = Said::from(
        world
            .command(arguments)
            .env("TMPDIR", world.path("tmp"))
            .output()
            .unwrap(),
    );
    assert_eq!(
        std::fs::read_dir(world.path("tmp")).unwrap().count(),
        0,
        "{arguments:?} left temporary files: {said}"
    );
    said
}

#[test]
fn commands_that_read_change_nothing() {
    let world = filled();
    let before = picture(&world.path("data"));
    for arguments in [
        &["ls"][..],
        &["stat", "small"],
        &["uploads"],
        &["verify", "tree"],
        &["stats"],
        &["scrub"],
        &["doctor"],
        &["export", "out"],
    ] {
        let said = run(&world, &[&["--read-only"], arguments].concat());
        assert_eq!(said.code, Some(0), "{arguments:?}: {said}");
        assert_unchanged(&before, &world.path("data"));
    }
    assert!(run(&world, &["get", "large", "--read-only"]).bytes == noise(5 * 1024 * 1024 + 12_345));
    assert_eq!(run(&world, &["get", "absent", "--read-only"]).code, Some(3));
    assert_eq!(std::fs::read(world.path("out/small")).unwrap(), b"small");
    assert_unchanged(&before, &world.path("data"));
    world.ok(&["put", "small", "tree/small"]);
}

#[test]
fn commands_that_write_are_refused() {
    let world = filled();
    let before = picture(&world.path("data"));
    for arguments in [
        &["put", "new", "tree/small"][..],
        &["rm", "small"],
        &["abort", "small", &"0".repeat(44)],
        &["cp", "small", "copy"],
        &["mv", "small", "moved"],
        &["extend", "small", "--for", "1h"],
        &["amend", "small", "--content-type", "text/plain"],
        &["import", "tree"],
        &["scrub", "--repair"],
        &["scrub", "--drop-damaged"],
        &["recover"],
        &["salvage", "data", "new"],
        &["adopt", "--blobs", "fs:"],
        &["demo"],
    ] {
        let said = run(&world, &[&["--read-only"], arguments].concat());
        assert_eq!(said.code, Some(2), "{arguments:?}: {said}");
        assert!(
            said.errors
                .contains("--read-only is for commands that only read"),
            "{arguments:?}: {said}"
        );
    }
    world.fails(
        2,
        "`put` writes",
        &["--read-only", "put", "new", "tree/small"],
    );
    assert_unchanged(&before, &world.path("data"));
    assert!(!world.path("new").exists());
}

#[test]
fn store_without_write_permission_is_readable() {
    let world = filled();
    for entry in walkdir::WalkDir::new(world.path("data")) {
        let entry = entry.unwrap();
        let mode = if entry.file_type().is_dir() {
            0o555
        } else {
            0o444
        };
        std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let before = picture(&world.path("data"));
    let tmp = world.path("tmp");
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o777)).unwrap();
    let ran = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        if is_root() {
            // Permissions do not apply to root, so another user runs the tool. That user may have
            // no access to the build directory, and runs a copy.
            std::fs::set_permissions(world.path(""), std::fs::Permissions::from_mode(0o755))
                .unwrap();
            let copy = world.path("cenotaph");
            if !copy.exists() {
                std::fs::copy(command.get_program(), &copy).unwrap();
            }
            let mut other = Command::new(copy);
            other
                .args(command.get_args())
                .current_dir(world.path(""))
                .uid(65_534)
                .gid(65_534);
            command = other;
        }
        Said::from(command.env("TMPDIR", &tmp).output().unwrap())
    };
    let writing = ran(&["ls"]);
    assert_eq!(
        writing.code,
        Some(1),
        "without the option the tool must write: {writing}"
    );
    for arguments in [&["ls"][..], &["stats"], &["scrub"], &["verify", "tree"]] {
        let said = ran(&[&["--read-only"], arguments].concat());
        assert_eq!(said.code, Some(0), "{arguments:?}: {said}");
    }
    assert!(ran(&["--read-only", "get", "large"]).bytes == noise(5 * 1024 * 1024 + 12_345));
    assert_unchanged(&before, &world.path("data"));
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[test]
fn absent_store_is_not_created() {
    let world = World::new();
    world.fails(1, "there is no store here", &["--read-only", "ls"]);
    std::fs::create_dir_all(world.path("data/index")).unwrap();
    world.fails(1, "there is no store here", &["--read-only", "ls"]);
    assert_eq!(picture(&world.path("data")).len(), 2);
}

#[test]
fn store_files_are_accessible_to_their_owner_only() {
    let world = filled();
    let seen = picture(&world.path("data"));
    assert!(seen.contains_key(&world.path("data/tier.json")));
    for (path, (mode, ..)) in seen {
        // Files that fjall creates later are protected by the modes of their directories.
        let is_fjalls =
            path.components().any(|part| part.as_os_str() == "database") && !path.is_dir();
        assert!(
            mode & 0o077 == 0 || is_fjalls,
            "{} mode={mode:o}",
            path.display()
        );
    }
}
