//! Rooms of a crate, and the imports between them.
//!
//! A room is a top-level module: a folder of `src`, or a file beside the folders. An import is any
//! path in production code that begins with `crate::` or `super::` and leads into another room. A
//! name that the crate's root exports counts for the room that it comes from. The search is lexical
//! and needs no compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::source::{is_test_file, production_lines, rust_files};

/// Rooms of a crate.
#[derive(Clone, Debug, Default)]
pub struct Rooms {
    /// Names of the rooms.
    rooms: BTreeSet<String>,
    /// Room of each name that the crate's root exports.
    exports: BTreeMap<String, String>,
    /// Places of the imports, by importing and imported room.
    imports: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

/// A file of a crate: its path below `src`, and its text.
pub type SourceFile = (String, String);

impl Rooms {
    /// Reads the crate whose sources are in this directory.
    ///
    /// # Errors
    /// The error of a file that can't be read.
    pub fn of_crate(source: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for path in rust_files(source)? {
            let name = path.strip_prefix(source).unwrap_or(&path);
            files.push((name.display().to_string(), fs::read_to_string(&path)?));
        }
        Ok(Self::of_files(&files))
    }

    /// Reads a crate from its files.
    pub fn of_files(files: &[SourceFile]) -> Self {
        let mut rooms = Self::default();
        for (name, _) in files {
            rooms.rooms.extend(modules(name).first().cloned());
        }
        let roots = files.iter().filter(|(name, _)| modules(name).is_empty());
        for (_, text) in roots {
            let code = code(text);
            for (at, _) in code.match_indices("pub use ") {
                for path in tree(&code[at + "pub use ".len()..]) {
                    rooms.export(&path);
                }
            }
        }
        for (name, text) in files.iter().filter(|(name, _)| !is_test_file(name)) {
            rooms.add(name, text);
        }
        rooms
    }

    fn export(&mut self, path: &[String]) {
        let (Some(room), Some(name)) = (path.first(), path.last()) else {
            return;
        };
        if self.rooms.contains(room) {
            self.exports.insert(name.clone(), room.clone());
        }
    }

    fn add(&mut self, name: &str, text: &str) {
        let module = modules(name);
        let Some(room) = module.first() else {
            return;
        };
        let code = code(text);
        for (at, prefix) in prefixes(&code) {
            let ups = prefix.matches("super::").count();
            // A path that stays inside of its room is no import.
            if prefix.starts_with("super") && ups < module.len() {
                continue;
            }
            for path in tree(&code[at + prefix.len()..]) {
                let Some(imported) = path.first().and_then(|first| self.room_of(first)) else {
                    continue;
                };
                if imported != *room {
                    let line = 1 + code[..at].matches('\n').count();
                    let to = self.imports.entry(room.clone()).or_default();
                    let places = to.entry(imported).or_default();
                    places.insert(format!("{name}:{line}"));
                }
            }
        }
    }

    fn room_of(&self, name: &str) -> Option<String> {
        let room = self.rooms.get(name);
        room.or_else(|| self.exports.get(name)).cloned()
    }

    /// Returns the number of pairs of rooms of which one imports the other.
    pub fn count(&self) -> usize {
        self.imports.values().map(BTreeMap::len).sum()
    }

    /// Returns the rooms that this room imports, directly or through others.
    fn reached(&self, room: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![room];
        while let Some(room) = next.pop() {
            for imported in self.imports.get(room).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(imported.as_str()) {
                    next.push(imported);
                }
            }
        }
        reached
    }

    /// Returns a description of all imports that are part of a cycle, or an empty text if there is
    /// no cycle.
    pub fn cycles(&self) -> String {
        let mut text = String::new();
        for (room, imports) in &self.imports {
            for (imported, places) in imports {
                if self.reached(imported).contains(room.as_str()) {
                    let _ = writeln!(text, "{room} -> {imported}");
                    for place in places {
                        let _ = writeln!(text, "    {place}");
                    }
                }
            }
        }
        text
    }
}

/// Returns the module path of a file below `src`; empty for the root of a crate.
fn modules(name: &str) -> Vec<String> {
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let mut modules: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if modules.last().is_some_and(|last| last == "mod") {
        modules.pop();
    }
    if modules.len() == 1 && (modules[0] == "lib" || modules[0] == "main") {
        modules.clear();
    }
    modules
}

/// Returns the production code of a file, with its comments emptied.
fn code(text: &str) -> String {
    let lines = production_lines(text);
    let without_comment = |line: &&str| match line.split_once("//") {
        Some((code, _)) => code.to_owned(),
        None => (*line).to_owned(),
    };
    let lines: Vec<String> = lines.iter().map(without_comment).collect();
    lines.join("\n")
}

/// Returns the places of all `crate::` and `super::`, with repeated `super::` as one prefix.
fn prefixes(code: &str) -> Vec<(usize, &str)> {
    let mut prefixes = Vec::new();
    let mut from = 0;
    while let Some(at) = ["crate::", "super::"]
        .iter()
        .filter_map(|prefix| code[from..].find(prefix))
        .min()
        .map(|at| at + from)
    {
        let mut end = at + "crate::".len();
        while code[at..].starts_with("super") && code[end..].starts_with("super::") {
            end += "super::".len();
        }
        let before = code[..at].chars().next_back();
        // `super::` behind `self::`, and names that end in `crate`, are not the beginning of a path.
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            prefixes.push((at, &code[at..end]));
        }
        from = end;
    }
    prefixes
}

/// Returns the paths of a use tree or of a single path at the beginning of `code`.
fn tree(code: &str) -> Vec<Vec<String>> {
    let code = code.trim_start();
    if let Some(group) = code.strip_prefix('{') {
        return items(group).into_iter().flat_map(tree).collect();
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let end = code.find(|c| !is_name(c)).unwrap_or(code.len());
    let name = code[..end].to_owned();
    if name.is_empty() {
        return Vec::new();
    }
    let rest = code[end..].strip_prefix("::").map(tree).unwrap_or_default();
    if rest.is_empty() {
        return vec![vec![name]];
    }
    let with_name = |mut path: Vec<String>| {
        path.insert(0, name.clone());
        path
    };
    rest.into_iter().map(with_name).collect()
}

/// Returns the items of a group up to the brace that closes it.
fn items(group: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let mut depth = 0;
    let mut begin = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[begin..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(files: &[(&str, &str)]) -> Rooms {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Rooms::of_files(&files.iter().map(owned).collect::<Vec<_>>())
    }

    #[test]
    fn cycle_is_found_and_its_files_are_named() {
        let rooms = rooms(&[
            (
                "lib.rs",
                "mod a; mod b; mod c;\npub use c::deep::{Third, Other};\n",
            ),
            ("a/mod.rs", "use crate::b::{\n    First,\n    Second,\n};\n"),
            ("b.rs", "// use crate::d;\nfn f() -> crate::Third {}\n"),
            (
                "c/deep.rs",
                "use super::super::{a::First, d};\nuse super::near;\n",
            ),
            ("d.rs", "use crate::a;\n"),
            ("e.rs", "#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n"),
        ]);
        let cycles = rooms.cycles();
        for expected in [
            "a -> b\n    a/mod.rs:1\nb",
            "b -> c\n    b.rs:2\n",
            "c -> a\n    c/deep.rs:1\n",
            "c -> d\n    c/deep.rs:1\n",
            "d -> a\n",
        ] {
            assert!(cycles.contains(expected), "{expected}\nnot in\n{cycles}");
        }
        assert_eq!(rooms.count(), 5);
    }

    #[test]
    fn imports_in_one_direction_are_no_cycle() {
        let rooms = rooms(&[
            ("main.rs", "mod a; mod b; use crate::a::First;\n"),
            (
                "a.rs",
                "use crate::b::Second;\nuse crate::c::x::{self, Y};\n",
            ),
            ("b.rs", "use crate::c::Third;\n"),
            ("c/mod.rs", "use std::fmt;\n"),
            ("c/tests.rs", "use crate::a::First;\n"),
            ("c/x.rs", "use super::Third;\nuse crate::c::Third;\n"),
        ]);
        assert_eq!((rooms.cycles().as_str(), rooms.count()), ("", 3));
    }
}
