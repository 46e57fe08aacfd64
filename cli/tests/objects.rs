//! Commands on single objects: put, get, ls, stat, rm, and their exit codes.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use cenotaph::Engine;

use crate::world::{Said, World, noise};

#[test]
fn objects_are_read_whole_by_range_and_into_a_file() {
    let world = World::new();
    for bytes in [0, 1, 1024 * 1024, 1024 * 1024 + 1, 3_000_000] {
        let payload = noise(bytes);
        world.put("from/stdin", &payload);
        assert!(
            world.ok(&["get", "from/stdin"]).bytes == payload,
            "{bytes} bytes from standard input"
        );
        world.write("file", &payload);
        world.ok(&["put", "from/file", "file"]);
        world.ok(&["get", "from/file", "-o", "copy"]);
        assert!(
            std::fs::read(world.path("copy")).unwrap() == payload,
            "{bytes} bytes into a file"
        );
    }
    let payload = noise(3_000_000);
    let ranges = [
        ("0-0", &payload[..1]),
        ("5-9", &payload[5..10]),
        ("2999990-", &payload[2_999_990..]),
        ("-10", &payload[2_999_990..]),
    ];
    for (range, expected) in ranges {
        assert!(
            world.ok(&["get", "from/file", "--range", range]).bytes == expected,
            "{range}"
        );
    }
    assert!(
        world
            .ok(&["get", "from/file", "--range=1048570-1048580"])
            .bytes
            == payload[1_048_570..=1_048_580]
    );
    let left: Vec<_> = std::fs::read_dir(world.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 3, "an unfinished file remains: {left:?}");
}

#[test]
fn get_into_a_device_does_not_replace_it() {
    let world = World::new();
    world.put("a", b"bytes");
    world.ok(&["get", "a", "-o", "/dev/null"]);
    let is_file = std::fs::metadata("/dev/null").unwrap().is_file();
    assert!(!is_file, "/dev/null was replaced");
    assert_eq!(world.ok(&["get", "a", "-o", "-"]).bytes, b"bytes");
}

#[test]
fn get_follows_links_and_keeps_mode_and_owner() {
    let world = World::new();
    world.put("a", b"bytes");
    world.write("dir/target", b"old, and longer than the new");
    std::fs::set_permissions(world.path("dir/target"), Permissions::from_mode(0o640)).unwrap();
    symlink("dir/second", world.path("first")).unwrap();
    symlink("target", world.path("dir/second")).unwrap();
    for name in ["first", "dir/target"] {
        world.ok(&["get", "a", "-o", name]);
        let target = std::fs::metadata(world.path("dir/target")).unwrap();
        assert_eq!(std::fs::read(world.path("dir/target")).unwrap(), b"bytes");
        assert_eq!(target.permissions().mode() & 0o7777, 0o640, "{name}");
        std::fs::write(world.path("dir/target"), b"old again").unwrap();
    }
    assert!(
        ["first", "dir/second"]
            .iter()
            .all(|link| world.path(link).is_symlink()),
        "a link was replaced"
    );
    // Only root may give a file away.
    if std::os::unix::fs::chown(world.path("dir/target"), Some(1), Some(2)).is_ok() {
        world.ok(&["get", "a", "-o", "first"]);
        let target = std::fs::metadata(world.path("dir/target")).unwrap();
        assert_eq!(
            (
                target.uid(),
                target.gid(),
                target.permissions().mode() & 0o7777
            ),
            (1, 2, 0o640)
        );
    }
    symlink("dir/new", world.path("dangling")).unwrap();
    world.ok(&["get", "a", "-o", "dangling"]);
    assert_eq!(std::fs::read(world.path("dir/new")).unwrap(), b"bytes");
    symlink("round", world.path("round")).unwrap();
    world.fails(1, "too many links", &["get", "a", "-o", "round"]);
}

#[test]
fn get_to_a_name_of_an_open_file_writes_to_that_file() {
    let world = World::new();
    world.put("a", b"bytes,");
    symlink("/proc/self/fd/1", world.path("link")).unwrap();
    for (name, script) in [
        ("/proc/self/fd/1", r#"(printf 1,; "$@"; printf 2) > out"#),
        ("link", r#"(printf 1,; "$@"; printf 2) > out"#),
        (
            "/dev/fd/3",
            r#"(printf 1, >&3; "$@") 3> out; printf 2 >> out"#,
        ),
    ] {
        let said = world.shell(script, &["get", "a", "-o", name]);
        assert_eq!(
            std::fs::read(world.path("out")).unwrap(),
            b"1,bytes,2",
            "{name}: {said}"
        );
    }
    let said = world.shell(r#""$@" | cat"#, &["get", "a", "-o", "/proc/self/fd/1"]);
    assert_eq!((said.code, said.text()), (Some(0), "bytes,"), "{said}");
}

#[test]
fn get_into_a_full_device_is_an_error() {
    let world = World::new();
    world.put("a", b"bytes");
    world.fails(1, "No space", &["get", "a", "-o", "/dev/full"]);
}

#[test]
fn no_control_character_of_a_name_is_printed() {
    const EVIL: &str = "\u{1b}[2J\r\u{7f}\u{9b}31mx\nfake: all is well";
    let world = World::new();
    let evil = |name: &str| format!("{name}{EVIL}");
    world.write(&evil("tree/name"), b"x");
    world.write(&format!("tree/{}{EVIL}", "l".repeat(200)), b"x");
    symlink("nowhere", world.path(&evil("tree/link"))).unwrap();
    world.write(&evil("out/key"), b"other");
    let key = evil("key");
    world.put(&key, b"x");
    let runs: [&[&str]; 18] = [
        &["import", "tree"],
        &["import", "tree", "--json"],
        &["verify", "tree"],
        &["export", "out"],
        &["put", &key, &evil("missing")],
        &["put", "b", "file", "--content-type", &evil("a")],
        &["stat", &key],
        &["stat", &evil("missing")],
        &["cp", &key, &evil("copy")],
        &["mv", &key, &key],
        &["get", &key, "-o", &evil("no/dir")],
        &["ls", "--json"],
        &["ls", "-l", &evil("x")],
        &["rm", "--all", "-r", &evil("x")],
        &["get", &key, &format!("--{EVIL}")],
        &["--namespace", &evil("x"), "ls"],
        &["--blobs", &evil("fs:x"), "ls"],
        &["import", &evil("missing")],
    ];
    for arguments in runs {
        let said = world.run(arguments);
        let all = said.text().to_owned() + &said.errors;
        let raw = all.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{arguments:?}: {all:?}");
        assert!(
            !all.lines().any(|line| line.starts_with("fake:")),
            "{arguments:?} forged a line: {all:?}"
        );
    }
    let said = Command::new(env!("CARGO_BIN_EXE_cenotaph"))
        .args(["--data", &evil("none"), "ls"])
        .output()
        .unwrap();
    assert!(
        !String::from_utf8(said.stderr)
            .unwrap()
            .trim_end()
            .contains(char::is_control)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn files_whose_size_is_not_their_length_are_put_completely() {
    let world = World::new();
    // Sizes of 0, and of 4096 for fewer bytes. The last, where it exists, is larger than the limit
    // of a read at once.
    let files = [
        "/proc/version",
        "/sys/devices/system/cpu/online",
        "/proc/kallsyms",
    ];
    for path in files
        .into_iter()
        .filter(|path| std::fs::metadata(path).is_ok_and(|file| file.is_file()))
    {
        let bytes = std::fs::read(path).unwrap();
        world.ok(&["put", "a", path]);
        assert!(world.ok(&["get", "a"]).bytes == bytes, "{path}");
    }
    world.fails(
        1,
        "more bytes than its size says",
        &["put", "a", "/proc/version", "--parallel", "2"],
    );
    assert_eq!(world.ok(&["uploads"]).text(), "");
    world.ok(&["rm", "a"]);
    // The two excluded files differ at each read.
    let tree = [
        "/proc/sys/kernel/random",
        "--exclude",
        "uuid",
        "--exclude",
        "entropy_avail",
    ];
    world.ok(&[&["import"], &tree[..]].concat());
    assert_eq!(
        world.ok(&["get", "boot_id"]).bytes,
        std::fs::read("/proc/sys/kernel/random/boot_id").unwrap()
    );
    world.ok(&[&["verify"], &tree[..]].concat());
    world.ok(&["put", "boot_id", "/proc/version"]);
    world.fails(1, "differs boot_id", &[&["verify"], &tree[..]].concat());
}

#[test]
fn reserved_names_of_custom_entries_are_refused() {
    let world = World::new();
    world.put("a", b"x");
    world.write("file", b"x");
    world.fails(
        2,
        "reserved",
        &["put", "a", "file", "--meta", "cenotaph.mode=4755"],
    );
    world.fails(
        2,
        "reserved",
        &["amend", "a", "--set", "cenotaph.mtime=1.000000000"],
    );
    world.ok(&["put", "a", "file", "--meta", "mode=4755"]);
}

#[test]
fn stat_shows_the_metadata_of_the_put() {
    let world = World::new();
    world.put("a/b", b"hello");
    world.write("file", b"hello, again");
    world.ok(&[
        "put",
        "a/b",
        "file",
        "--content-type",
        "text/plain",
        "--meta",
        "team=finance",
        "--meta",
        "empty=",
    ]);
    let stat = world.ok(&["stat", "a/b", "--json"]).json().remove(0);
    assert_eq!(stat["size"], 12);
    assert_eq!(stat["version"], 2);
    assert_eq!(stat["content_type"], "text/plain");
    assert_eq!(
        stat["custom"],
        serde_json::json!({ "team": "finance", "empty": "" })
    );
    let text = world.ok(&["stat", "a/b"]);
    for part in ["a/b", "12 bytes", "text/plain", "custom team", "finance"] {
        assert!(text.text().contains(part), "{part}: {text}");
    }
}

#[test]
fn listing_over_pages_has_every_key_once_in_order() {
    let world = World::new();
    for number in 0..1205 {
        world.write(&format!("tree/{}/{number:04}", number % 3), b"x");
    }
    world.ok(&["import", "tree"]);
    let keys: Vec<String> = world
        .ok(&["ls"])
        .text()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(keys.len(), 1205);
    assert!(keys.is_sorted());
    let json = world.ok(&["ls", "--json"]).json();
    assert!(
        json.iter()
            .map(|entry| entry["key"].as_str().unwrap())
            .eq(&keys)
    );
    assert_eq!(world.ok(&["ls", "1/"]).text().lines().count(), 402);
    assert_eq!(world.ok(&["ls", "--delimiter", "/"]).text(), "0/\n1/\n2/\n");
    assert_eq!(
        world.ok(&["ls", "--limit", "1001"]).text().lines().count(),
        1001
    );
    assert_eq!(world.ok(&["ls", "--limit", "0"]).text(), "");
    let long = world.ok(&["ls", "--long", "--limit", "1"]);
    assert!(
        long.text().starts_with('1') && long.text().ends_with("v1  0/0000\n"),
        "{long}"
    );
}

#[test]
fn deleted_objects_are_gone_and_others_stay() {
    let world = World::new();
    for key in ["a/1", "a/2", "b"] {
        world.put(key, b"x");
    }
    world.put("a/large", &noise(2_000_000));
    let removed = world.ok(&["rm", "b", "no such", "--json"]).json();
    assert_eq!(
        removed[0],
        serde_json::json!({ "key": "b", "existed": true })
    );
    assert_eq!(removed[1]["existed"], false);
    assert_eq!(world.ok(&["ls"]).text(), "a/1\na/2\na/large\n");
    assert_eq!(
        world.ok(&["rm", "--recursive", "a/"]).text(),
        "deleted 3 objects\n"
    );
    assert_eq!(world.ok(&["ls"]).text(), "");
    assert_eq!(world.blobs(), 0, "the blob of a deleted object remains");
}

#[test]
fn exit_codes_distinguish_absence_usage_and_failure() {
    let world = World::new();
    world.fails(1, "there is no store here", &["ls"]);
    world.put("a", b"x");
    world.fails(3, "no such object: key=b", &["get", "b"]);
    world.fails(3, "no such object: key=b", &["stat", "b"]);
    world.fails(2, "Usage", &["no such command"]);
    world.fails(2, "required", &["rm"]);
    world.fails(2, "key must have", &["get", ""]);
    world.fails(2, "ends before it starts", &["get", "a", "--range", "5-4"]);
    world.fails(2, "known schemes", &["--blobs", "ftp://host", "ls"]);
    world.fails(2, "--namespace", &["--namespace", "a/b", "ls"]);
    world.fails(1, "total=1", &["get", "a", "--range", "1-"]);
    world.fails(1, "no such file", &["put", "a", "no such file"]);
    assert_eq!(world.ok(&["get", "a"]).bytes, b"x");
}

#[test]
fn open_store_is_refused_with_its_directory() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let engine = Engine::builder(world.path("data")).open().await.unwrap();
        engine.put("a", "x").await.unwrap();
        let said = world.fails(1, "the store is open already", &["get", "a"]);
        assert!(
            said.errors.contains(world.path("data").to_str().unwrap()),
            "{said}"
        );
        engine.close().await.unwrap();
    });
    assert_eq!(world.ok(&["get", "a"]).bytes, b"x");
}

#[test]
fn namespaces_and_blob_directories_are_separate() {
    let world = World::new();
    let payload = noise(2_000_000);
    world.write("file", &payload);
    let place = ["--namespace", "photos/org=17", "--blobs", "fs:elsewhere"];
    world.ok(&[&place[..], &["put", "a", "file"]].concat());
    assert!(world.ok(&[&place[..], &["get", "a"]].concat()).bytes == payload);
    assert!(!world.path("data/blobs").exists() && world.path("elsewhere").is_dir());
    world.fails(3, "no such object", &["get", "a"]);
}

#[test]
fn stats_and_recover_print_json() {
    let world = World::new();
    world.put("a", b"12345");
    let stats = world.ok(&["stats", "--json"]).json().remove(0);
    assert_eq!(
        (&stats["objects"], &stats["bytes"], &stats["changes"]),
        (&1.into(), &5.into(), &0.into())
    );
    let recovered = world.ok(&["recover", "--json"]).json().remove(0);
    for name in ["fenced", "swept", "left", "changes"] {
        assert_eq!(recovered[name], 0, "{name}");
    }
    assert!(world.ok(&["stats"]).text().contains("changes not settled"));
    assert!(world.ok(&["recover"]).text().starts_with("fenced 0"));
}

#[test]
fn interrupted_put_leaves_nothing_behind() {
    let world = World::new();
    world.put("a", b"before");
    assert!(
        Command::new("mkfifo")
            .arg(world.path("fifo"))
            .status()
            .unwrap()
            .success()
    );
    let child = world.command(&["put", "a", "fifo"]).spawn().unwrap();
    // This open returns when the tool opens the other end. Its store is open by then.
    let mut fifo = std::fs::File::options()
        .write(true)
        .open(world.path("fifo"))
        .unwrap();
    fifo.write_all(&noise(3_000_000)).unwrap();
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(1), "{said}");
    assert!(said.errors.contains("interrupted"), "{said}");
    drop(fifo);
    let recovered = world.ok(&["recover", "--json"]).json().remove(0);
    assert_eq!(recovered["changes"], 0);
    assert_eq!(world.ok(&["get", "a"]).bytes, b"before");
}

#[test]
fn credentials_of_a_uri_are_never_printed() {
    let world = World::new();
    for uri in [
        "s3://me:hush@bucket/root?secret_access_key=hush",
        "azblob://c/r?account_key=hush",
        "gcs:hush",
        "hush",
    ] {
        let said = world.run(&["--blobs", uri, "put", "a", "no such file"]);
        assert!(
            said.code != Some(0) && !said.errors.contains("hush"),
            "{said}"
        );
    }
}
