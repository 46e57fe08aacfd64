//! Rust sources of the workspace, with their production code separated from test code.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Returns all Rust files below a directory, in the order of their paths.
///
/// # Errors
/// The error of a directory that can't be read.
pub fn rust_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Returns whether a file contains test code only: files named `tests.rs` or `fixture.rs`, and
/// directories named `tests`.
pub fn is_test_file(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file == "tests.rs" || file == "fixture.rs" || name.contains("/tests/")
}

/// Returns the lines of a file, with those of test items (`#[cfg(test)]`) emptied, so that the line
/// numbers stay.
pub fn production_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim() == "#[cfg(test)]" {
            let end = end_of_item(&lines, at);
            lines[at..end].fill("");
            at = end;
        } else {
            at += 1;
        }
    }
    lines
}

/// Returns the number of the line after the item whose first attribute is at `at`. The item ends
/// with a semicolon, or with a brace in the column of the attribute.
fn end_of_item(lines: &[&str], at: usize) -> usize {
    let indent = lines[at].len() - lines[at].trim_start().len();
    let close = format!("{}}}", " ".repeat(indent));
    let is_attribute = |line: &&&str| line.trim_start().starts_with("#[");
    let attributes = lines[at..].iter().take_while(is_attribute).count();
    let item = at + attributes;
    let is_end = |line: &&str| {
        let is_outer = line.len() - line.trim_start().len() == indent;
        **line == close || is_outer && (line.ends_with(';') || line.ends_with('}'))
    };
    let length = lines[item.min(lines.len())..].iter().position(is_end);
    length.map_or(lines.len(), |length| item + length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_items_are_left_out_and_lines_keep_their_numbers() {
        let text = "use a;\n#[cfg(test)]\nmod fixture;\nfn f() {}\n\n#[cfg(test)]\n\
                    #[allow(x)]\nmod tests {\n    fn g() {}\n}\nfn h() {\n}\n";
        let expected = [
            "use a;",
            "",
            "",
            "fn f() {}",
            "",
            "",
            "",
            "",
            "",
            "",
            "fn h() {",
            "}",
        ];
        assert_eq!(production_lines(text), expected);
        assert!(is_test_file("storage/src/read/fixture.rs") && is_test_file("a/tests/b.rs"));
        assert!(is_test_file("a/tests.rs") && !is_test_file("a/contests.rs"));
    }
}
