//! A server process that a test or a benchmark starts, and that ends with the test.
//!
//! ```text
//! test --starts--> sh, leader of its own process group --exec--> server and its children
//!     |                 `--> watcher in that group, blocked on a pipe; only the test holds
//!     |                      the write end
//!     `-- drops `Running` or dies --> the pipe closes --> the watcher kills the whole group
//! ```
//!
//! Every process of the group holds a second pipe, which closes when the last process is gone. The
//! directory of the server is removed only after that.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use cenotaph::Env;
use tempfile::TempDir;

/// Time limit until a server listens.
const PATIENCE: Duration = Duration::from_secs(120);
/// Interval between two connection attempts.
const LOOK: Duration = Duration::from_millis(20);
/// Number of starts before giving up: another process may take the free port first.
const ATTEMPTS: usize = 3;
/// Bytes of the server log that a failed test prints.
const SHOWN_BYTES: usize = 4000;

/// Shell script that starts the watcher and then executes its arguments. The output of both goes
/// to standard error, which is the log file.
const WATCHED: &str = r#"
# 3: pipe to the test; 4: pipe that ends with the group. Output goes to the log.
exec 3<&0 4>&1 0</dev/null 1>&2
# The watcher: `read` returns when the test closes its end.
(read -r _ <&3; kill -KILL 0) &
exec 3<&-
exec "$@"
"#;

/// A running server. Dropping this value ends the server.
pub struct Running {
    name: &'static str,
    port: u16,
    child: Child,
    /// Pipe that closes when the last process of the group is gone.
    last: ChildStdout,
    directory: TempDir,
}

impl Running {
    /// Starts a server and waits until it listens. `order` receives a command, the port to listen
    /// on and a directory for the server's files, and adds the arguments of the server.
    pub async fn start(name: &'static str, order: impl Fn(&mut Command, u16, &Path)) -> Self {
        let env = Env::real().unwrap();
        for _ in 0..ATTEMPTS {
            let mut running = Self::spawn(name, &order);
            match env.deadline(PATIENCE, running.listens(&env)).await {
                Some(true) => return running,
                Some(false) => eprintln!("{name} ended before it listened: {}", running.log_tail()),
                None => panic!(
                    "{name} does not listen after {PATIENCE:?}: {}",
                    running.log_tail()
                ),
            }
        }
        panic!("{name} ended {ATTEMPTS} times before it listened");
    }

    /// Returns the port on localhost on which the server listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the directory of the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn spawn(name: &'static str, order: &impl Fn(&mut Command, u16, &Path)) -> Self {
        let directory = TempDir::new().unwrap();
        let port = free_port();
        let mut command = Command::new("sh");
        command.args(["-c", WATCHED, name]);
        order(&mut command, port, directory.path());
        let log = File::create(log(directory.path())).unwrap();
        // Its own group: the watcher's `kill 0` must not reach the test.
        command.current_dir(directory.path()).process_group(0);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let last = child.stdout.take().unwrap();
        Self {
            name,
            port,
            child,
            last,
            directory,
        }
    }

    /// Waits until the server listens. Returns `false` if the server ends before that.
    async fn listens(&mut self, env: &Env) -> bool {
        loop {
            // Connect before asking if the process has ended: if another process has taken the
            // port, the connection succeeds, but the server has ended.
            let connected = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if connected {
                return true;
            }
            env.sleep(LOOK).await;
        }
    }

    /// Returns the end of the server log.
    fn log_tail(&self) -> String {
        let bytes = fs::read(log(self.directory.path())).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN_BYTES)..]).into_owned()
    }
}

impl Running {
    /// Kills the server, and waits for the end of its last process.
    pub fn kill(&mut self) {
        // Closes the pipe of the watcher, which then kills the group.
        drop(self.child.stdin.take());
        // Returns when the last process of the group has closed its end.
        let _ = self.last.read_to_end(&mut Vec::new());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        // Removes the zombie.
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("end of the log of {}: {}", self.name, self.log_tail());
        }
    }
}

/// Returns a free port.
pub fn free_port() -> u16 {
    // The kernel assigns a free port. It may be taken again before the server binds it; see
    // `ATTEMPTS`.
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Finds a program by its name on the path or where `.ci/servers` installs it.
///
/// # Errors
/// `NotFound` if the program is in none of these places.
pub fn find(program: &str) -> io::Result<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .collect();
    if let Some(home) = std::env::var_os("HOME") {
        let installed = PathBuf::from(home).join(".cache/cenotaph/servers");
        places.extend([
            installed.join("moto/bin"),
            installed.join("azurite/node_modules/.bin"),
        ]);
    }
    let found = places
        .into_iter()
        .map(|place| place.join(program))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("no program on the path: program={program}"),
        )
    })
}

fn log(directory: &Path) -> PathBuf {
    directory.join("server.log")
}
