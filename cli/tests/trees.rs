//! Commands on directory trees: import, verify, export.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, UNIX_EPOCH};

use crate::world::{World, files};

#[test]
fn exported_tree_equals_the_imported_tree() {
    let world = World::new();
    world.tree();
    std::fs::set_permissions(world.path("tree/small"), Permissions::from_mode(0o750)).unwrap();
    std::fs::set_permissions(
        world.path("tree/a/over the limit"),
        Permissions::from_mode(0o444),
    )
    .unwrap();
    let old = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options()
        .write(true)
        .open(world.path("tree/large"))
        .unwrap()
        .set_modified(old)
        .unwrap();

    let imported = world.ok(&["import", "tree", "--json"]);
    assert_eq!(imported.summary()["imported"], 9);
    assert_eq!(
        imported
            .json()
            .iter()
            .filter(|line| line["event"] == "file")
            .count(),
        9
    );
    let verified = world.ok(&["verify", "tree", "--json"]).summary();
    assert_eq!(
        (&verified["same"], &verified["problems"]),
        (&9.into(), &0.into())
    );
    world.ok(&["export", "copy"]);
    let tree = files(&world.path("tree"));
    let copy = files(&world.path("copy"));
    assert_eq!(tree.len(), 9);
    assert!(tree == copy, "the trees differ");
    let again = world.ok(&["export", "copy", "--json"]).summary();
    assert_eq!(
        (&again["exported"], &again["unchanged"]),
        (&0.into(), &9.into())
    );
}

#[test]
fn verify_names_changed_missing_and_extra_files() {
    let world = World::new();
    world.tree();
    world.ok(&["import", "tree"]);
    let mut large = std::fs::read(world.path("tree/large")).unwrap();
    large[4_000_000] ^= 1;
    world.write("tree/large", &large);
    world.write("tree/small", b"longer than before");
    std::fs::remove_file(world.path("tree/a/b/c/deep")).unwrap();
    world.write("tree/new", b"new");
    let said = world.fails(1, "4 problems", &["verify", "tree", "--json"]);
    let mut problems: Vec<_> = said
        .json()
        .into_iter()
        .filter(|line| line["event"] == "problem")
        .map(|line| {
            format!("{} {}: {}", line["problem"], line["name"], line["detail"]).replace('"', "")
        })
        .collect();
    problems.sort();
    let expected = [
        "differs large: first at byte 4000000",
        "differs small: the object has 5 bytes, the file 18",
        "extra a/b/c/deep: the tree has no such file",
        "missing new: the store has no such object",
    ];
    assert_eq!(problems, expected);
    assert!(
        world
            .run(&["verify", "tree"])
            .text()
            .contains("differs large: first at byte 4000000")
    );
}

#[test]
fn resumed_import_puts_only_new_or_changed_files() {
    let world = World::new();
    world.tree();
    world.ok(&["import", "tree"]);
    let again = world.ok(&["import", "tree", "--json"]).summary();
    assert_eq!(
        (&again["imported"], &again["unchanged"]),
        (&0.into(), &9.into())
    );
    world.write("tree/new", b"new");
    world.write("tree/small", b"other");
    let again = world.ok(&["import", "tree", "--json"]).summary();
    assert_eq!(
        (&again["imported"], &again["unchanged"]),
        (&2.into(), &8.into())
    );
    assert_eq!(world.ok(&["get", "small"]).bytes, b"other");
    world.ok(&["verify", "tree"]);
}

#[test]
fn import_by_checksum_ignores_times() {
    let world = World::new();
    world.tree();
    world.ok(&["import", "tree"]);
    let path = world.path("tree/large");
    let kept = std::fs::metadata(&path).unwrap().modified().unwrap();
    let touch = |time| {
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    touch(kept + Duration::from_secs(1));
    let again = world
        .ok(&["import", "tree", "--checksum", "--json"])
        .summary();
    assert_eq!(again["imported"], 0, "another time, the same bytes");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    touch(kept);
    assert_eq!(
        world.ok(&["import", "tree", "--json"]).summary()["imported"],
        0,
        "the same size and time"
    );
    assert_eq!(
        world
            .ok(&["import", "tree", "--checksum", "--json"])
            .summary()["imported"],
        1,
        "other bytes"
    );
    world.ok(&["verify", "tree"]);
}

#[test]
fn file_name_that_is_not_utf8_fails_alone() {
    let world = World::new();
    world.write("tree/good", b"x");
    let bad = std::os::unix::ffi::OsStrExt::as_bytes(std::ffi::OsStr::new("bad"))
        .iter()
        .copied()
        .chain([0xff]);
    let bad: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(bad.collect());
    std::fs::write(world.path("tree").join(bad), b"x").unwrap();
    let said = world.fails(1, "bad\\xFF", &["import", "tree", "--json"]);
    assert!(said.errors.contains("not UTF-8"), "{said}");
    let summary = said.summary();
    assert_eq!(
        (&summary["imported"], &summary["failed"]),
        (&1.into(), &1.into())
    );
    assert_eq!(world.ok(&["ls"]).text(), "good\n");
    world.fails(1, "bad\\xFF", &["verify", "tree"]);
}

#[test]
fn links_are_skipped_and_reported() {
    let world = World::new();
    world.write("tree/file", b"x");
    std::os::unix::fs::symlink("file", world.path("tree/link")).unwrap();
    std::os::unix::fs::symlink(world.path("tree"), world.path("tree/round")).unwrap();
    let said = world.ok(&["import", "tree", "--json"]);
    assert_eq!(said.summary()["skipped"], 2);
    assert!(
        world
            .ok(&["import", "tree"])
            .errors
            .contains("skipped: a symbolic link")
    );
    assert_eq!(world.ok(&["ls"]).text(), "file\n");
    world.ok(&["verify", "tree"]);
}

#[test]
fn store_directories_are_neither_imported_nor_exported_to() {
    let world = World::new();
    world.write("file", b"x");
    world.write("target/built", b"x");
    world.write("sub/target/built", b"x");
    let said = world.ok(&["import", ".", "--json", "--exclude", "target"]);
    assert_eq!(
        (&said.summary()["imported"], &said.summary()["skipped"]),
        (&1.into(), &1.into())
    );
    assert_eq!(world.ok(&["ls"]).text(), "file\n");
    world.ok(&["verify", ".", "--exclude", "target"]);
    world.fails(2, "belongs to the store itself", &["import", "data"]);
    world.fails(2, "belongs to the store itself", &["export", "data/blobs"]);
}

#[test]
fn prefixes_separate_trees() {
    let world = World::new();
    world.write("one/a", b"1");
    world.write("two/a", b"2");
    world.ok(&["import", "one", "--prefix", "first"]);
    world.ok(&["import", "two", "--prefix", "second/"]);
    assert_eq!(world.ok(&["ls"]).text(), "first/a\nsecond/a\n");
    world.ok(&["verify", "one", "--prefix", "first"]);
    world.fails(
        1,
        "differs second/a",
        &["verify", "one", "--prefix", "second"],
    );
    world.ok(&["export", "out", "--prefix", "second"]);
    assert_eq!(std::fs::read(world.path("out/a")).unwrap(), b"2");
}

#[test]
fn export_stays_in_its_directory_and_keeps_other_files() {
    let world = World::new();
    for key in ["../outside", "/rooted", "a//b", "fine"] {
        world.put(key, b"new");
    }
    world.write("out/fine", b"old");
    let said = world.fails(1, "4 objects could not be exported", &["export", "out"]);
    assert!(
        said.errors.contains("../outside") && said.errors.contains("the target is another file"),
        "{said}"
    );
    assert_eq!(std::fs::read(world.path("out/fine")).unwrap(), b"old");
    world.fails(1, "3 objects", &["export", "out", "--overwrite"]);
    assert_eq!(std::fs::read(world.path("out/fine")).unwrap(), b"new");
    assert!(!world.path("outside").exists());
}

#[test]
fn file_with_equal_bytes_counts_as_exported() {
    let world = World::new();
    world.put("plain", b"put, not imported");
    world.write("tree/file", b"imported");
    world.ok(&["import", "tree"]);
    world.ok(&["export", "out"]);
    // As on a file system with times of whole seconds.
    let whole = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let set_times = |name: &str| {
        File::options()
            .write(true)
            .open(world.path(name))
            .unwrap()
            .set_modified(whole)
            .unwrap();
    };
    set_times("out/file");
    let again = world.ok(&["export", "out", "--json"]).summary();
    assert_eq!(
        (&again["exported"], &again["unchanged"]),
        (&0.into(), &2.into())
    );
    let kept = std::fs::metadata(world.path("tree/file"))
        .unwrap()
        .modified()
        .unwrap();
    let exported = || {
        std::fs::metadata(world.path("out/file"))
            .unwrap()
            .modified()
            .unwrap()
    };
    assert_eq!(exported(), whole, "the time was changed");
    assert_eq!(
        world
            .ok(&["export", "out", "--overwrite", "--json"])
            .summary()["unchanged"],
        2
    );
    assert_eq!(exported(), kept);
    world.write("out/plain", b"as long, but else");
    world.fails(1, "1 object could not be exported", &["export", "out"]);
    assert_eq!(
        world
            .ok(&["export", "out", "--overwrite", "--json"])
            .summary()["exported"],
        1
    );
}

#[test]
fn special_bits_are_set_only_on_request() {
    let world = World::new();
    world.write("file", b"x");
    for mode in ["33204", "4755", "2755", "755", "0"] {
        world.ok(&[
            "put",
            mode,
            "file",
            "--meta",
            &format!("mode={mode}"),
            "--meta",
            "mtime=1.000000000",
        ]);
    }
    world.write("tree/imported", b"x");
    std::fs::set_permissions(world.path("tree/imported"), Permissions::from_mode(0o6755)).unwrap();
    world.ok(&["import", "tree"]);
    assert_eq!(
        world.ok(&["import", "tree", "--json"]).summary()["unchanged"],
        1
    );
    world.ok(&["export", "out"]);
    let default = std::fs::metadata(world.path("file"))
        .unwrap()
        .permissions()
        .mode();
    for (name, _, mode, _) in files(&world.path("out")) {
        let expected = if name == "imported" {
            0o100_755
        } else {
            default
        };
        assert_eq!(mode, expected, "{name}: {mode:o}");
    }
    world.ok(&["export", "asked", "--special-bits"]);
    let asked = files(&world.path("asked"))
        .into_iter()
        .find(|file| file.0 == "imported")
        .unwrap();
    assert_eq!(asked.2, 0o106_755);
}

#[test]
fn remnants_of_a_killed_export_are_skipped_and_removed() {
    let world = World::new();
    world.write("tree/a/file", b"x");
    world.ok(&["import", "tree"]);
    world.write("out/a/.cenotaph-aB3xyz.part", b"half");
    world.write("out/a/.cenotaph-mine.part", b"whole");
    let said = world.ok(&["--namespace", "other", "import", "out"]);
    assert!(
        said.errors.contains("an unfinished file of an export"),
        "{said}"
    );
    assert_eq!(
        world.ok(&["--namespace", "other", "ls"]).text(),
        "a/.cenotaph-mine.part\n"
    );
    world.ok(&["export", "out"]);
    let left: Vec<String> = files(&world.path("out"))
        .into_iter()
        .map(|file| file.0)
        .collect();
    assert_eq!(left, ["a/.cenotaph-mine.part", "a/file"]);
    world.write(".cenotaph-aB3xyz.part", b"half");
    world.ok(&["get", "a/file", "-o", "file"]);
    assert!(!world.path(".cenotaph-aB3xyz.part").exists());
}

#[test]
fn export_replaces_links_and_never_special_files() {
    let world = World::new();
    world.put("link", b"new");
    world.put("pipe", b"new");
    world.write("out/target", b"old");
    std::os::unix::fs::symlink("target", world.path("out/link")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(world.path("out/pipe"))
            .status()
            .unwrap()
            .success()
    );
    let said = world.fails(
        1,
        "1 object could not be exported",
        &["export", "out", "--overwrite"],
    );
    assert!(
        said.errors.contains("the target is a special file"),
        "{said}"
    );
    assert!(!world.path("out/link").is_symlink());
    assert_eq!(std::fs::read(world.path("out/target")).unwrap(), b"old");
}

#[test]
fn absent_directory_is_not_imported() {
    let world = World::new();
    world.write("file", b"x");
    world.fails(1, "can't be read", &["import", "nowhere"]);
    world.fails(1, "not a directory", &["import", "file"]);
}
