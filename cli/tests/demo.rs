//! A small run of the demo: it kills a child, recovers, and detects a corrupted blob.

use crate::world::{Said, World, noise};

/// Writes a tree with files below and above the inline limit of the demo.
fn small_tree(world: &World) {
    for number in 0..120 {
        world.write(
            &format!("tree/{}/{number}", number % 7),
            &noise(number * 100),
        );
    }
}

/// Runs the demo, which must remove its temporary files.
fn demo(world: &World, arguments: &[&str]) -> Said {
    std::fs::create_dir(world.path("temporary")).unwrap();
    let mut command = world.command(&["demo", "--size-mib", "32", "--tree", "tree"]);
    let said = command
        .args(arguments)
        .env("TMPDIR", world.path("temporary"))
        .output()
        .unwrap()
        .into();
    let left: Vec<_> = std::fs::read_dir(world.path("temporary"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "remnants of the demo: {left:?}: {said}");
    said
}

#[test]
fn demo_recovers_a_killed_import_completely() {
    let world = World::new();
    small_tree(&world);
    world.write("tree/also large", &noise(100_000));
    let said = demo(&world, &["--json"]);
    assert_eq!(said.code, Some(0), "{said}");
    let steps = said.json();
    let what = |step: &str| {
        let found = steps.iter().rev().find(|line| line["step"] == step);
        found.unwrap_or_else(|| panic!("no step {step}: {said}"))["what"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(
        what("import").starts_with("child killed by SIGKILL"),
        "{said}"
    );
    assert!(what("recover").starts_with("no change left"), "{said}");
    assert!(what("verify").starts_with("122 files"), "{said}");
    assert!(what("delete").starts_with("40 objects"), "{said}");
    assert!(
        what("blob tier").starts_with("holds exactly the "),
        "{said}"
    );
}

#[test]
fn demo_names_the_object_of_a_corrupted_blob() {
    let world = World::new();
    small_tree(&world);
    let said = demo(&world, &["--corrupt"]);
    assert_eq!(said.code, Some(1), "{said}");
    // The blob is random. The demo prints its path, which contains the key.
    let path = said
        .text()
        .split_once("of one blob: ")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap();
    let escaped = path.split_once('!').unwrap().1.split_once('@').unwrap().0;
    let key = escaped.replace("%2f", "/");
    assert!(
        said.text().contains(&format!("damaged {key}: ")),
        "{key}: {said}"
    );
    assert!(
        said.errors.contains(&format!("damaged {key}: ")) && said.errors.contains("corrupt"),
        "{key}: {said}"
    );
}
