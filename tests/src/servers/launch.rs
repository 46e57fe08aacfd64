//! A server that a test or a bench starts for itself, and that ends with it.
//!
//! ```text
//! the test --starts--> sh, leader of a process group of its own --becomes--> the server, and whatever that starts
//!     |                 `--> a watcher in that group, reading a pipe that only the test holds the other end of
//!     `-- drops it, or dies of whatever cause --> the pipe ends --> the watcher kills the whole group, itself as well
//! ```
//!
//! A second pipe is held by every process of the group: it ends when the last of them is gone. Only
//! then is the directory removed in which the server has kept what it had to keep. Deliberately not
//! here: which servers there are.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use cenotaph::Env;
use tempfile::TempDir;

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at whether it does.
const LOOK: Duration = Duration::from_millis(20);
/// Servers that may end before they listen: somebody else may have taken the port that was free.
const ATTEMPTS: usize = 3;
/// How much of what a server has said is shown when its test fails.
const SHOWN_BYTES: usize = 4000;

/// Becomes its arguments, with the watcher beside it. What they say goes to the log, which is its
/// standard error.
const WATCHED: &str = r#"
exec 3<&0 4>&1 0</dev/null 1>&2
(read -r _ <&3; kill -KILL 0) &
exec 3<&-
exec "$@"
"#;

/// A server that runs. Dropping it ends it.
pub struct Running {
    name: &'static str,
    port: u16,
    child: Child,
    /// Ends when the last process of the group is gone.
    last: ChildStdout,
    directory: TempDir,
}

impl Running {
    /// Starts a server and waits until it listens. `order` is given a command, the port to listen
    /// on and a directory that is the server's own, and says how the server is run.
    pub async fn start(name: &'static str, order: impl Fn(&mut Command, u16, &Path)) -> Self {
        let env = Env::real().unwrap();
        for _ in 0..ATTEMPTS {
            let mut running = Self::spawn(name, &order);
            match env.deadline(PATIENCE, running.listens(&env)).await {
                Some(true) => return running,
                Some(false) => eprintln!(
                    "{name} has ended before it listened: {}",
                    running.complaints()
                ),
                None => panic!(
                    "{name} does not listen after {PATIENCE:?}: {}",
                    running.complaints()
                ),
            }
        }
        panic!("{name} has ended {ATTEMPTS} times before it listened");
    }

    /// The port on localhost that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory that is its own.
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

    /// Whether it listens, once that is known: it has ended if not.
    async fn listens(&mut self, env: &Env) -> bool {
        loop {
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

    /// The end of what it has said.
    fn complaints(&self) -> String {
        let said = fs::read(log(self.directory.path())).unwrap_or_default();
        String::from_utf8_lossy(&said[said.len().saturating_sub(SHOWN_BYTES)..]).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.last.read_to_end(&mut Vec::new());
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "the last that {} has said: {}",
                self.name,
                self.complaints()
            );
        }
    }
}

/// A port on which nobody listens.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The program of this name: on the path, or where `.ci/servers` installs it.
///
/// # Errors
/// That it is in none of those places.
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
