//! Keys that a path in an operator can have.
//!
//! Guards "an object of the fallback has one name": OpenDAL trims white space and removes empty
//! parts of a path, and the file system follows `.` and `..`, so that other keys would name the
//! objects of these, or files outside of the root.

/// Returns whether the key is its own path.
pub(super) fn is_addressable(key: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_foreign = |c: char| c == '\0' || cfg!(windows) && c == '\\';
    key == key.trim() && !key.contains(is_foreign) && key.split('/').all(is_plain)
}

/// Returns the directory part of a prefix, up to and including the last slash, or `None` if no
/// addressable key has the prefix.
pub(super) fn directory(prefix: &str) -> Option<&str> {
    let directory = prefix.rfind('/').map_or("", |at| &prefix[..=at]);
    let is_possible = directory.is_empty() || is_addressable(&directory[..directory.len() - 1]);
    is_possible.then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outside_of_the_root_or_with_two_names_is_not_addressable() {
        for key in ["a", "a/b.c", "a b", "..a", "a/...", "ä/ö"] {
            assert!(is_addressable(key), "{key:?}");
        }
        for key in [
            "", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "./a", " a", "a\n", "a\0b",
        ] {
            assert!(!is_addressable(key), "{key:?}");
        }
        let directories = ["", "a", "a/", "a/b", "a/b/c", "/", "a//", "../a"].map(directory);
        let expected = [
            Some(""),
            Some(""),
            Some("a/"),
            Some("a/"),
            Some("a/b/"),
            None,
            None,
            None,
        ];
        assert_eq!(directories, expected);
    }
}
