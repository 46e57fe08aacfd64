//! Standard input and output that are closed, lose their reader, or stall.

use std::io::Read;

use crate::world::{Said, World, ends, noise, signal};

/// Number of files whose lines do not fit into a pipe.
const FILES: usize = 600;

/// Writes the files.
fn many_files(world: &World) {
    for number in 0..FILES {
        world.write(&format!("tree/{number:0200}"), b"x");
    }
}

/// Runs the tool, and closes the pipe after the first bytes.
fn read_a_little(world: &World, arguments: &[&str]) -> Said {
    let mut child = world.command(arguments).spawn().unwrap();
    child
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut [0; 10])
        .unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn get_and_ls_succeed_if_their_reader_stops() {
    let world = World::new();
    world.put("large", &noise(8_000_000));
    many_files(&world);
    world.ok(&["import", "tree"]);
    for arguments in [&["get", "large"][..], &["ls"], &["ls", "--json"]] {
        let said = read_a_little(&world, arguments);
        assert_eq!(
            (said.code, said.errors.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn other_commands_fail_if_their_reader_stops() {
    let world = World::new();
    many_files(&world);
    let fails = |arguments: &[&str]| {
        let said = read_a_little(&world, arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {said}");
        assert!(
            said.errors.contains("standard output can't be written"),
            "{arguments:?}: {said}"
        );
    };
    fails(&["import", "tree", "--json", "-j1"]);
    world.ok(&["import", "tree"]);
    fails(&["export", "out", "--json", "-j1"]);
    let keys = world.ok(&["ls"]).text().to_owned();
    let keys: Vec<&str> = keys.lines().collect();
    fails(&[&["rm", "--json"], &keys[..]].concat());
    fails(&["verify", "tree"]);
}

#[test]
fn signal_ends_a_command_with_a_stalled_reader() {
    let world = World::new();
    world.put("large", &noise(8_000_000));
    many_files(&world);
    for (arguments, name) in [
        (&["get", "large"][..], "-INT"),
        (&["get", "large"], "-TERM"),
        (&["get", "large", "-o", "/proc/self/fd/1"], "-TERM"),
        (&["import", "tree", "--json"], "-TERM"),
    ] {
        let mut child = world.command(arguments).spawn().unwrap();
        // The command is writing by then, and blocks because nothing more is read.
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0; 10])
            .unwrap();
        signal(&child, name);
        assert_eq!(ends(&mut child).code(), Some(1), "{arguments:?}");
        let said = Said::from(child.wait_with_output().unwrap());
        assert!(said.errors.contains("interrupted"), "{arguments:?}: {said}");
        world.ok(&["stat", "large"]);
    }
}

#[test]
fn put_from_a_closed_standard_input_is_an_error() {
    let world = World::new();
    world.put("a", b"before");
    for script in [r#""$@" <&-"#, r#""$@" 0>empty"#] {
        for arguments in [&["put", "a"][..], &["put", "a", "-"]] {
            let said = world.shell(script, arguments);
            assert_eq!(said.code, Some(1), "{script}: {said}");
            assert!(
                said.errors.contains("standard input is closed"),
                "{script}: {said}"
            );
        }
    }
    assert_eq!(world.ok(&["get", "a"]).bytes, b"before");
    world.ok(&["put", "a", "/dev/null"]);
    assert_eq!(
        world.shell(r#""$@" < /dev/null"#, &["put", "b"]).code,
        Some(0)
    );
    assert_eq!(world.ok(&["get", "b"]).bytes, b"");
}

#[test]
fn get_into_a_closed_standard_output_is_an_error() {
    let world = World::new();
    world.put("a", b"bytes");
    for script in [r#""$@" >&-"#, r#""$@" 1< /dev/null"#] {
        let said = world.shell(script, &["get", "a"]);
        assert_eq!(said.code, Some(1), "{script}: {said}");
        assert!(
            said.errors.contains("standard output is closed"),
            "{script}: {said}"
        );
    }
    assert_eq!(
        world.shell(r#""$@" > /dev/null"#, &["get", "a"]).code,
        Some(0)
    );
    assert_eq!(
        world.shell(r#""$@" >&-"#, &["get", "a", "-o", "file"]).code,
        Some(0)
    );
    let said = world.shell(r#""$@" 1< /dev/null"#, &["stat", "a"]);
    assert_eq!(said.code, Some(1), "a result that can't be written: {said}");
    assert_eq!(
        world.shell(r#""$@" > /dev/full"#, &["stat", "a"]).code,
        Some(1)
    );
}
