//! Prints the measures of how the code reads, of this checkout or of another directory:
//! `cargo run -p cenotaph-tests --example measure_style [DIRECTORY]`.

use std::path::{Path, PathBuf};

use cenotaph_tests::style::Style;

#[expect(clippy::print_stdout, reason = "the program prints its result")]
fn main() -> std::io::Result<()> {
    let root = match std::env::args_os().nth(1) {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
    };
    let root = root.canonicalize()?;
    let style = Style::of_workspace(&root)?;
    for opening in &style.openings {
        println!("{opening}");
    }
    println!("{style}");
    Ok(())
}
