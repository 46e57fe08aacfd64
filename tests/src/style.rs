//! Measures of how the code reads: openings of doc paragraphs, comments, line lengths, functions.
//!
//! The measures are lexical and need no compiler. Test code is left out of all but the line
//! lengths and the tuple lets (`source.rs`).

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::source::{is_test_file, production_lines, rust_files};

/// Longest line, in columns.
const COLUMNS_MAX: usize = 100;
/// Longest function, in lines.
const LINES_MAX: usize = 70;
/// Openings that leave a sentence without a subject.
const OPENINGS: [&str; 6] = ["What", "Whether", "Who", "Whoever", "Whatever", "How"];
/// Source directories of the workspace.
const SOURCES: [&str; 6] = ["storage", "actors", "engine", "cli", "sim", "tests"];

/// Measures of a source tree.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Doc paragraphs.
    pub paragraphs: usize,
    /// Places of doc paragraphs that open with one of the refused words.
    pub openings: Vec<String>,
    /// Words in doc comments.
    pub words: usize,
    /// Times that "what" occurs in doc comments.
    pub what: usize,
    /// Times that "one" occurs in doc comments.
    pub one: usize,
    /// Lines of code.
    pub code: usize,
    /// Lines that are a `//` comment.
    pub comments: usize,
    /// All lines.
    pub lines: usize,
    /// Lines over 100 columns.
    pub long_lines: usize,
    /// Lets that bind several unrelated values.
    pub tuple_lets: usize,
    /// Lengths of functions, in lines.
    pub functions: Vec<usize>,
    /// Type names.
    pub types: usize,
    /// Type names of a single word.
    pub single_words: usize,
}

impl Style {
    /// Measures the sources of the workspace at `root`.
    ///
    /// # Errors
    /// The error of a file that can't be read.
    pub fn of_workspace(root: &Path) -> io::Result<Self> {
        let mut style = Self::default();
        for source in SOURCES {
            for file in rust_files(&root.join(source).join("src"))? {
                let name = file
                    .strip_prefix(root)
                    .unwrap_or(&file)
                    .display()
                    .to_string();
                style.add(&name, &fs::read_to_string(&file)?);
            }
        }
        Ok(style)
    }

    /// Adds the measures of one file.
    pub fn add(&mut self, name: &str, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let production = if is_test_file(name) {
            Vec::new()
        } else {
            production_lines(text)
        };
        self.lines += lines.len();
        for line in &lines {
            self.long_lines += usize::from(line.chars().count() > COLUMNS_MAX);
            self.tuple_lets += usize::from(is_tuple_let(line));
        }
        self.add_docs(name, &production);
        self.add_functions(&production);
        for line in &production {
            self.add_type(line);
        }
    }

    fn add_docs(&mut self, name: &str, lines: &[&str]) {
        let mut is_inside = false;
        let mut is_fenced = false;
        for (number, line) in lines.iter().enumerate() {
            let line = line.trim_start();
            let doc = line
                .strip_prefix("///")
                .or_else(|| line.strip_prefix("//!"));
            let Some(doc) = doc.map(str::trim) else {
                is_inside = false;
                is_fenced = false;
                self.comments += usize::from(line.starts_with("//"));
                self.code += usize::from(!line.is_empty() && !line.starts_with("//"));
                continue;
            };
            if doc.starts_with("```") {
                is_fenced = !is_fenced;
                is_inside = false;
                continue;
            }
            if is_fenced || doc.is_empty() || doc.starts_with('#') || doc.starts_with('|') {
                is_inside &= is_fenced;
                continue;
            }
            let item = doc.strip_prefix("- ");
            if item.is_some() || !is_inside {
                self.paragraphs += 1;
                let first = item.unwrap_or(doc).split_whitespace().next();
                if first.is_some_and(|word| OPENINGS.contains(&word)) {
                    self.openings.push(format!("{name}:{}: {doc}", number + 1));
                }
            }
            is_inside = true;
            self.add_words(doc);
        }
    }

    fn add_words(&mut self, doc: &str) {
        let words = doc.split(|c: char| !c.is_ascii_alphabetic() && c != '\'');
        for word in words.filter(|word| !word.is_empty()) {
            self.words += 1;
            self.what += usize::from(word.eq_ignore_ascii_case("what"));
            self.one += usize::from(word.eq_ignore_ascii_case("one"));
        }
    }

    /// Counts the lines from a `fn` to the brace that closes it in the same column.
    fn add_functions(&mut self, lines: &[&str]) {
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line
                .trim_start()
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ")
                .trim_start_matches("const ")
                .trim_start_matches("async ")
                .starts_with("fn ");
            if !is_function || line.trim_end().ends_with(';') {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let rest = lines[at..].iter();
            let length = if line.trim_end().ends_with('}') {
                Some(0)
            } else {
                rest.take_while(|line| !line.is_empty() || !line.starts_with('}'))
                    .position(|line| *line == close)
            };
            self.functions.extend(length.map(|length| length + 1));
        }
    }

    fn add_type(&mut self, line: &str) {
        let line = line.trim_start().trim_start_matches("pub ");
        let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
        let line = line.strip_prefix("pub(super) ").unwrap_or(line);
        let rest = ["struct ", "enum ", "trait "];
        let Some(rest) = rest.iter().find_map(|kind| line.strip_prefix(kind)) else {
            return;
        };
        let name = rest.split(|c: char| !c.is_alphanumeric()).next();
        let capitals = name
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_uppercase());
        self.types += 1;
        self.single_words += usize::from(capitals.count() == 1);
    }

    /// Share of doc paragraphs that open with a refused word, in percent.
    pub fn openings_percent(&self) -> f64 {
        percent(self.openings.len(), self.paragraphs)
    }

    /// Share of lines over 100 columns, in percent.
    pub fn long_lines_percent(&self) -> f64 {
        percent(self.long_lines, self.lines)
    }

    /// Lines that are a `//` comment, in percent of the lines of code.
    pub fn comments_percent(&self) -> f64 {
        percent(self.comments, self.code)
    }

    /// Share of functions over 70 lines, in percent.
    pub fn long_functions_percent(&self) -> f64 {
        let long = self.functions.iter().filter(|lines| **lines > LINES_MAX);
        percent(long.count(), self.functions.len())
    }

    fn function_lines(&self, percentile: usize) -> usize {
        let mut functions = self.functions.clone();
        functions.sort_unstable();
        let at = functions.len() * percentile / 100;
        functions.get(at).copied().unwrap_or_default()
    }
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_thousand = |count| 10.0 * percent(count, self.words);
        let rows = [
            (
                "doc paragraphs that open with What, Whether, Who, How (%)",
                self.openings_percent(),
            ),
            ("\"what\" per 1,000 doc words", per_thousand(self.what)),
            ("\"one\" per 1,000 doc words", per_thousand(self.one)),
            ("// comments per 100 lines of code", self.comments_percent()),
            ("lines over 100 columns (%)", self.long_lines_percent()),
            ("functions over 70 lines (%)", self.long_functions_percent()),
            (
                "type names of a single word (%)",
                percent(self.single_words, self.types),
            ),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<60} {value:>6.1}")?;
        }
        writeln!(
            f,
            "{:<60} {:>6}",
            "lets of unrelated values", self.tuple_lets
        )?;
        let median = self.function_lines(50);
        let long = self.function_lines(90);
        writeln!(f, "{:<60} {:>6}", "lines of a function, median", median)?;
        write!(
            f,
            "{:<60} {:>6}",
            "lines of a function, 90th percentile", long
        )
    }
}

/// Returns whether a line binds a tuple to a tuple expression.
fn is_tuple_let(line: &str) -> bool {
    let Some(rest) = line.trim_start().strip_prefix("let (") else {
        return false;
    };
    let Some((_, value)) = rest.split_once(") = (") else {
        return false;
    };
    let Some(inside) = value.strip_suffix(");") else {
        return false;
    };
    inside.contains(", ")
}

#[expect(clippy::cast_precision_loss, reason = "counts of lines are small")]
fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    100.0 * part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
//! What a head must not open with.
//!
//! A second paragraph, of one subject.

/// Returns a number.
///
/// - How a list item must not open.
/// - The next item.
pub fn number() -> u64 {
    // The reason.
    let (a, b) = (1, 2);
    a + b
}

struct Single;
struct TwoWords;

#[cfg(test)]
mod tests {
    /// Whether this is measured: no.
    fn helper() {}
}
";

    #[test]
    fn measures_of_a_sample_are_exact() {
        let mut style = Style::default();
        style.add("sample.rs", SAMPLE);
        assert_eq!(style.paragraphs, 5);
        assert_eq!(style.openings.len(), 2);
        assert!(style.openings[0].starts_with("sample.rs:1: What"));
        assert_eq!((style.what, style.one), (1, 1));
        assert_eq!((style.comments, style.tuple_lets), (1, 1));
        assert_eq!(style.functions, [5]);
        assert_eq!((style.types, style.single_words), (2, 1));
    }

    #[test]
    fn test_files_count_for_their_lines_only() {
        let mut style = Style::default();
        style.add("a/b/tests.rs", SAMPLE);
        assert_eq!((style.paragraphs, style.code), (0, 0));
        assert_eq!(style.lines, SAMPLE.lines().count());
    }
}
