//! Commands on a shared store, and the list of its members.

use serde_json::{Value, json};

use super::server::SharedWorld;
use crate::world::{World, noise};

const LARGE: usize = 2_000_000;
/// Warning of a blob tier in a directory.
const WARNING: &str = "which all members must share";

#[test]
fn absent_shared_store_does_not_look_like_an_empty_one() {
    let Some(shared) = SharedWorld::start() else {
        return;
    };
    let world = &shared.world;
    // Twice: the refusal creates nothing.
    for _ in 0..2 {
        let absent = "the database has no store in this schema: schema=cenotaph";
        world.fails(1, absent, &["ls"]);
        world.fails(1, absent, &["stats"]);
        world.fails(1, absent, &["recover"]);
    }
    assert!(!world.path("data").exists());
    world.put("a", b"a");
    world.ok(&["ls"]);
    let absent = "no store in this schema: schema=mistyped";
    world.fails(1, absent, &["ls", "--index-schema", "mistyped"]);
    world.fails(1, "the name of the schema", &["ls", "--index-schema", "A"]);
}

#[test]
fn commands_of_all_directories_see_one_store() {
    let Some(mut shared) = SharedWorld::start() else {
        return;
    };
    let world = &mut shared.world;
    world.write("large", &noise(LARGE));
    let first = world.ok(&["put", "large", "large", "--json"]);
    assert_eq!(first.errors.matches(WARNING).count(), 1, "{first}");
    let again = world.ok(&["put", "large", "large", "--json"]);
    assert_eq!(again.errors, "", "the warning comes once");
    // Another machine has another data directory, and the same tier.
    let other = ["--data", "other", "--blobs", "fs:data/blobs"];
    let said = world.ok(&[&["get", "large"], &other[..]].concat());
    assert!(said.bytes == noise(LARGE) && said.errors.contains(WARNING));
    let said = world.ok(&["get", "large", "--data", "other"]);
    assert!(said.bytes == noise(LARGE), "the tier is remembered");
    let wrong = ["ls", "--data", "wrong", "--blobs", "fs:elsewhere"];
    world.fails(1, "blob tier", &wrong);
    world.fails(1, "can't be opened read-only", &["ls", "--read-only"]);
    let dry = ["migrate", "--from", "cenotaph:x", "--dry-run"];
    world.fails(2, "--dry-run", &dry);

    let stats = world.ok(&["stats", "--json"]).json().remove(0);
    assert_eq!(
        [&stats["shared"], &stats["members"], &stats["objects"]],
        [&json!(true), &json!(1), &json!(1)]
    );
    assert_eq!(
        stats["orphans"], 1,
        "of the first put, a member that is gone"
    );
    let said = world.ok(&["stats"]);
    let (whole, member) = said.text().split_once("of this member alone").unwrap();
    assert!(whole.starts_with("shared, members"), "{said}");
    assert!(whole.contains("orphans not settled"), "{said}");
    assert!(member.contains("  orphans settled since open"), "{said}");

    // Without the index, a directory of a shared store is not taken for an absent store.
    let url = shared.url.clone();
    world.unset("CENOTAPH_INDEX");
    for arguments in [&["ls"][..], &["put", "a", "large"]] {
        world.fails(1, "the index of this store is shared", arguments);
    }
    assert!(!world.path("data/index").exists());
    world.ok(&["ls", "--index", &url]);
    // And the reverse.
    world.ok(&["put", "a", "large", "--data", "embedded"]);
    let both = ["ls", "--data", "embedded", "--index", &url];
    world.fails(1, "an index of its own", &both);
}

fn names(members: &[Value]) -> Vec<&str> {
    let name = |member: &'_ Value| member["name"].as_str().is_some();
    assert!(members.iter().all(name), "{members:?}");
    members
        .iter()
        .filter_map(|member| member["name"].as_str())
        .collect()
}

#[test]
fn members_are_listed_until_they_are_declared_dead() {
    let Some(shared) = SharedWorld::start() else {
        return;
    };
    let world: &World = &shared.world;
    world.put("a", b"a");
    let alone = shared.members();
    assert_eq!(alone.len(), 1, "{alone:?}");
    assert_eq!(alone[0]["is_self"], true);
    assert!(names(&alone)[0].starts_with("cenotaph tool"), "{alone:?}");
    assert!(alone[0]["heartbeat_age_ms"].as_u64().unwrap() < 10_000);

    let mut child = shared.lingering_member();
    let both = shared.members();
    let own = |is_self: bool| move |member: &&Value| member["is_self"] == is_self;
    assert_eq!(both.iter().filter(own(true)).count(), 1, "{both:?}");
    let other = both.iter().find(own(false)).unwrap();
    let process = format!(", process {}", child.id());
    let name = other["name"].as_str().unwrap();
    assert!(name.ends_with(&process), "{name}");
    let said = world.ok(&["members"]);
    assert_eq!(said.text().lines().count(), 3, "{said}");
    assert_eq!(said.text().matches("this process").count(), 1, "{said}");

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(shared.members().len(), 2, "its entry remains");
    let said = world.ok(&["recover", "--json"]).json().remove(0);
    assert_eq!(said["changes"], 0, "{said}");
    assert_eq!(shared.members().len(), 1, "it was declared dead");
}
