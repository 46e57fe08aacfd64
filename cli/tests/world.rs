//! A temporary directory for the binary, with helpers to run it and to check its output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// Temporary directory of a test, removed when it is dropped.
pub(crate) struct World {
    temporary: TempDir,
    /// Environment variables of the tool.
    environment: BTreeMap<&'static str, String>,
}

/// Output and exit code of the tool.
#[derive(Debug)]
pub(crate) struct Said {
    /// Exit code, or `None` if a signal killed the tool.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) bytes: Vec<u8>,
    /// Standard error.
    pub(crate) errors: String,
}

impl World {
    /// Creates an empty directory.
    pub(crate) fn new() -> Self {
        Self {
            temporary: tempfile::tempdir().unwrap(),
            environment: BTreeMap::new(),
        }
    }

    /// Sets an environment variable of the tool.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.environment.insert(name, value.to_owned());
    }

    /// Removes an environment variable of the tool.
    pub(crate) fn unset(&mut self, name: &str) {
        self.environment.remove(name);
    }

    /// Returns the path of a name in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// Returns the command of the tool with the store of this world.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cenotaph"));
        command
            .arg("--data")
            .arg(self.path("data"))
            .args(arguments)
            .current_dir(self.temporary.path());
        for name in ["RUST_LOG", "CENOTAPH_INDEX", "CENOTAPH_FROM_INDEX"] {
            command.env_remove(name);
        }
        command
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the tool, whatever its exit code.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs the tool, which must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}: {said}");
        said
    }

    /// Runs the tool, which must exit with this code and print this message on standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, message: &str, arguments: &[&str]) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {said}");
        assert!(
            said.errors.contains(message),
            "{arguments:?} does not print {message:?}: {said}"
        );
        said
    }

    /// Runs a shell script that has the command line of the tool as `"$@"`.
    pub(crate) fn shell(&self, script: &str, arguments: &[&str]) -> Said {
        let tool = self.command(arguments);
        let mut shell = Command::new("bash");
        shell
            .args(["-c", script, "bash"])
            .arg(tool.get_program())
            .args(tool.get_args());
        shell
            .current_dir(self.path(""))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into()
    }

    /// Puts an object from standard input.
    #[track_caller]
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        let mut child = self
            .command(&["put", key])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
        let said = Said::from(child.wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "put {key}: {said}");
    }

    /// Writes a file, and creates its directories.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Returns the number of files of the blob tier, without the mark.
    pub(crate) fn blobs(&self) -> usize {
        let files = walkdir::WalkDir::new(self.path("data/blobs"))
            .into_iter()
            .map(Result::unwrap);
        files
            .filter(|file| file.file_type().is_file() && file.file_name() != cenotaph::MARKER_PATH)
            .count()
    }

    /// Writes a tree of empty, small and large files, nested, with names in several scripts.
    pub(crate) fn tree(&self) {
        self.write("tree/empty", b"");
        self.write("tree/small", b"small");
        self.write("tree/a/b/c/deep", b"deep");
        self.write("tree/a/b/empty too", b"");
        self.write("tree/ünïcödé/日本語/🗿 and spaces", b"names");
        self.write("tree/odd/%2f!@#=..", b"odd");
        self.write("tree/exactly the limit", &noise(1024 * 1024));
        self.write("tree/a/over the limit", &noise(1024 * 1024 + 1));
        self.write("tree/large", &noise(5 * 1024 * 1024 + 12_345));
    }
}

impl Said {
    /// Returns standard output as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// Parses every line of standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
        };
        self.text().lines().map(parse).collect()
    }

    /// Parses the last line, which must be a summary.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last = self.json().pop().unwrap();
        assert_eq!(last["event"], "summary", "{self}");
        last
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Self {
            code: output.status.code(),
            bytes: output.stdout,
            errors,
        }
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(4000)]);
        write!(f, "code={:?}\n{text}\n{}", self.code, self.errors)
    }
}

/// Waits for the end of a child, for at most 30 s. A stalled child must not block the test for
/// ever.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "a child process has no clock but the system's"
)]
pub(crate) fn ends(child: &mut Child) -> ExitStatus {
    for _ in 0..3000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("the child did not end within 30 s");
}

/// Sends a signal to a child.
pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([name, &id])
            .status()
            .unwrap()
            .success()
    );
}

/// Returns deterministic pseudorandom bytes.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ bytes as u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(step).collect()
}

/// Returns all files below a directory: relative path, bytes, mode, modification time.
pub(crate) fn files(dir: &Path) -> Vec<(String, Vec<u8>, u32, std::time::SystemTime)> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry = entry.unwrap();
        if entry.file_type().is_dir() {
            continue;
        }
        let name = entry
            .path()
            .strip_prefix(dir)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let metadata = entry.metadata().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        files.push((
            name,
            std::fs::read(entry.path()).unwrap(),
            mode,
            metadata.modified().unwrap(),
        ));
    }
    files
}
