//! Links between the Markdown files of the repository.
//!
//! Read are inline links and link definitions outside of code. A link to a Markdown file may name a
//! heading, in the spelling that hosts of repositories give to the headings of a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Directories that contain no files of the repository.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// Relative links of a repository.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Links that were checked.
    pub checked: usize,
    /// Links without a target: file, line and link.
    pub broken: Vec<String>,
}

impl Links {
    /// Checks all links in the Markdown files below `root`.
    ///
    /// # Errors
    /// The error of a file that can't be read.
    pub fn of_repository(root: &Path) -> io::Result<Self> {
        let mut texts = BTreeMap::new();
        for path in markdown_files(root)? {
            let text = fs::read_to_string(&path)?;
            texts.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), text);
        }
        let exists = |path: &Path| root.join(path).exists();
        Ok(Self::of_texts(&texts, exists))
    }

    /// Checks the links of these files, whose paths are relative to the root of the repository.
    pub fn of_texts(texts: &BTreeMap<PathBuf, String>, exists: impl Fn(&Path) -> bool) -> Self {
        let mut links = Self::default();
        for (file, text) in texts {
            for (line, link) in links_of(text) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                links.checked += 1;
                if let Err(why) = check(file, &link, texts, &exists) {
                    let broken = format!("{}:{line}: {link}: {why}", file.display());
                    links.broken.push(broken);
                }
            }
        }
        links
    }
}

fn check(
    file: &Path,
    link: &str,
    texts: &BTreeMap<PathBuf, String>,
    exists: &impl Fn(&Path) -> bool,
) -> Result<(), &'static str> {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        file.to_owned()
    } else {
        let parent = file.parent().unwrap_or(Path::new(""));
        normalized(&parent.join(path)).ok_or("the path leaves the repository")?
    };
    if !exists(&target) {
        return Err("no such file");
    }
    match texts.get(&target) {
        Some(text) if !heading.is_empty() && !headings(text).contains(heading) => {
            Err("no such heading")
        }
        Some(_) | None => Ok(()),
    }
}

/// Resolves `.` and `..`. Returns `None` if the path leaves the root.
fn normalized(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

fn markdown_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let is_left_out = LEFT_OUT.iter().any(|name| entry.file_name() == *name);
        if entry.file_type()?.is_dir() && !is_left_out {
            files.extend(markdown_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Returns the lines outside of fenced code, with inline code emptied if `without_code`.
fn prose(text: &str, without_code: bool) -> Vec<(usize, String)> {
    let mut is_fenced = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced {
            // Every second piece between backticks is code.
            let pieces = line.split('`').enumerate();
            let prose = pieces.filter(|(at, _)| !without_code || at % 2 == 0);
            let prose: Vec<&str> = prose.map(|(_, piece)| piece).collect();
            lines.push((number + 1, prose.join("")));
        }
    }
    lines
}

/// Returns all links with their line numbers.
fn links_of(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text, true) {
        let inline = line.split("](").skip(1);
        let inline = inline.filter_map(|rest| rest.split([')', ' ']).next());
        links.extend(inline.map(|link| (number, link.to_owned())));
        let definition = line.starts_with('[').then(|| line.split_once("]: "));
        if let Some((_, rest)) = definition.flatten() {
            let link = rest.split_whitespace().next();
            links.extend(link.map(|link| (number, link.to_owned())));
        }
    }
    links
}

/// Returns the names of all headings, as links spell them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut headings = BTreeSet::new();
    for (_, line) in prose(text, false) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let name = heading_name(title.trim());
        let repeated = (1..).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.clone()).chain(repeated);
        headings.extend(names.find(|name| !headings.contains(name)));
    }
    headings
}

/// Returns the name of a heading: lower case, without punctuation, spaces as hyphens.
fn heading_name(title: &str) -> String {
    let mut name = String::new();
    // The text of a link counts, its target does not.
    let mut rest = title;
    while let Some((before, after)) = rest.split_once("](") {
        name.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    name.push_str(rest);
    let kept = name.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ if c.is_alphanumeric() => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(texts: &[(&str, &str)]) -> (usize, Vec<String>) {
        let owned = |(path, text): &(&str, &str)| (PathBuf::from(path), (*text).to_owned());
        let texts: BTreeMap<PathBuf, String> = texts.iter().map(owned).collect();
        let exists = |path: &Path| texts.contains_key(path) || path == Path::new("src/lib.rs");
        let links = Links::of_texts(&texts, exists);
        (links.checked, links.broken)
    }

    #[test]
    fn links_to_files_and_headings_are_found() {
        let page = "# A page\n## The `Index`, and [more](b.md)\n## A page\n\
                    [a](#the-index-and-more) [b](docs/b.md#b_c), [c](#a-page-1)\n\
                    [d](src/lib.rs) [e](https://example.org/none) `[f](none)`\n\
                    ```\n[g](none)\n# No heading\n```\n[h]: ./docs/b.md 'title'\n";
        let other = "### B_c!\n[up](../README.md#a-page)\n";
        let (checked, broken) = broken(&[("README.md", page), ("docs/b.md", other), ("b.md", "")]);
        assert_eq!((checked, broken), (7, vec![]));
    }

    #[test]
    fn links_without_a_target_are_named() {
        let page = "# One\n[a](none.rs)\n[b](#two) [c](../../x)\n";
        let (checked, broken) = broken(&[("docs/a.md", page)]);
        let expected = [
            "docs/a.md:2: none.rs: no such file",
            "docs/a.md:3: #two: no such heading",
            "docs/a.md:3: ../../x: the path leaves the repository",
        ];
        assert_eq!((checked, broken), (3, expected.map(str::to_owned).to_vec()));
    }
}
