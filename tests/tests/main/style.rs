//! The code keeps to the measures of how it reads.

use std::path::Path;

use cenotaph_tests::style::Style;

#[test]
fn doc_paragraphs_name_their_subject() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let style = Style::of_workspace(&root).unwrap();
    println!("{style}");
    assert!(style.paragraphs > 1000, "the sources are found");
    assert!(
        style.openings_percent() <= 3.0,
        "too many doc paragraphs open with What, Whether, Who or How:\n{}",
        style.openings.join("\n")
    );
}
