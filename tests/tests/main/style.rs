//! The code keeps to the measures of how it reads, to one direction of imports, and its documents
//! to links with a target.

use std::path::{Path, PathBuf};

use cenotaph_tests::links::Links;
use cenotaph_tests::rooms::Rooms;
use cenotaph_tests::style::Style;

/// Crates whose rooms import each other in one direction only.
const CRATES_IN_LAYERS: [&str; 5] = ["storage", "actors", "engine", "cli", "sim"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn doc_paragraphs_name_their_subject() {
    let style = Style::of_workspace(&root()).unwrap();
    println!("{style}");
    assert!(style.paragraphs > 1000, "the sources are found");
    assert!(
        style.openings_percent() <= 3.0,
        "too many doc paragraphs open with What, Whether, Who or How:\n{}",
        style.openings.join("\n")
    );
}

#[test]
fn imports_between_rooms_run_one_way() {
    for name in CRATES_IN_LAYERS {
        let rooms = Rooms::of_crate(&root().join(name).join("src")).unwrap();
        println!("{name}: {} pairs of rooms", rooms.count());
        assert!(rooms.count() >= 8, "imports are found: crate={name}");
        let cycles = rooms.cycles();
        assert!(
            cycles.is_empty(),
            "rooms import each other in a cycle: crate={name}\n{cycles}"
        );
    }
}

#[test]
fn relative_links_of_documents_have_a_target() {
    let links = Links::of_repository(&root()).unwrap();
    println!("{} links", links.checked);
    assert!(links.checked > 300, "links are found");
    assert!(
        links.broken.is_empty(),
        "links without a target:\n{}",
        links.broken.join("\n")
    );
}
