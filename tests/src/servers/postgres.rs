//! A PostgreSQL server of a test.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cenotaph::Env;
use tempfile::TempDir;

use super::launch::{Running, find};

/// Time limit until a server accepts connections.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between two attempts.
const LOOK: Duration = Duration::from_millis(20);

/// User and group that runs the server if the test is root, which the server refuses.
const NOBODY: u32 = 65_534;

/// Shell script that creates the database unless it exists, and executes the server. Arguments:
/// directory of the programs, directory of the data, port, and options of the server.
const START: &str = r#"
programs=$1 data=$2 port=$3
shift 3
if ! [ -e "$data/PG_VERSION" ]; then
  "$programs/initdb" --pgdata="$data" --username=cenotaph --auth=trust --encoding=UTF8 --no-sync || exit 1
fi
rm -f "$data/postmaster.pid"
exec "$programs/postgres" -D "$data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= "$@"
"#;

/// A running PostgreSQL server. Dropping this value kills it as SIGKILL does.
pub struct Postgres {
    running: Running,
}

/// Data of a server, which outlives it.
pub struct PostgresData {
    programs: PathBuf,
    directory: TempDir,
}

impl PostgresData {
    /// Creates an empty directory, for the programs of this machine.
    ///
    /// # Errors
    /// `NotFound` if PostgreSQL is not installed.
    pub fn new() -> io::Result<Self> {
        let programs = find_programs()?;
        let directory = TempDir::new()?;
        if is_root()? {
            chown(directory.path(), Some(NOBODY), Some(NOBODY))?;
        }
        Ok(Self {
            programs,
            directory,
        })
    }

    /// Returns the directory of the data.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Creates an authority and its certificate of this host name with the program `openssl`, where
    /// the server expects it. Returns the certificate of the authority. The server must have been
    /// started before.
    pub fn certify(&self, openssl: &Path, host: &str) -> PathBuf {
        let create = |name: &str, arguments: &[&str]| {
            let mut request = Command::new(openssl);
            request.args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ]);
            request.arg("-keyout").arg(format!("{name}.key"));
            request
                .arg("-out")
                .arg(format!("{name}.crt"))
                .args(arguments);
            let made = request.current_dir(self.path()).output().unwrap();
            assert!(made.status.success(), "{made:?}");
        };
        create("authority", &["-subj", "/CN=authority"]);
        let [subject, name] = [format!("/CN={host}"), format!("subjectAltName=DNS:{host}")];
        let no_authority = "basicConstraints=critical,CA:FALSE";
        let signed = [
            "-CA",
            "authority.crt",
            "-CAkey",
            "authority.key",
            "-subj",
            &subject,
        ];
        let extended = ["-addext", &name, "-addext", no_authority];
        create("server", &[&signed[..], &extended].concat());
        if is_root().unwrap() {
            for file in ["server.key", "server.crt"] {
                chown(self.path().join(file), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        self.path().join("authority.crt")
    }

    /// Starts a server on the data with these options, and waits until it accepts connections.
    pub async fn start(&self, options: &[&str]) -> Postgres {
        let running = Running::start("postgres", |command, port, _| {
            if is_root().unwrap() {
                let nobody = NOBODY.to_string();
                command.args(["setpriv", "--reuid", &nobody, "--regid", &nobody]);
                command.arg("--clear-groups");
            }
            command.args(["sh", "-c", START, "postgres"]);
            command.arg(&self.programs).arg(self.directory.path());
            command.arg(port.to_string());
            for option in options {
                command.args(["-c", option]);
            }
        })
        .await;
        // It listens before it accepts connections.
        let is_ready = || {
            let mut ready = Command::new(self.programs.join("pg_isready"));
            let port = running.port().to_string();
            ready.args(["--quiet", "--host", "127.0.0.1", "--port", &port]);
            ready.status().unwrap().success()
        };
        let env = Env::real().unwrap();
        let waited = env.deadline(PATIENCE, async {
            while !is_ready() {
                env.sleep(LOOK).await;
            }
        });
        assert!(
            waited.await.is_some(),
            "the server does not accept connections"
        );
        Postgres { running }
    }
}

impl Postgres {
    /// Returns the port on localhost on which the server listens.
    pub fn port(&self) -> u16 {
        self.running.port()
    }
}

/// Returns the URL of the database of a server at this port.
pub fn url(port: u16) -> String {
    format!("postgres://cenotaph@127.0.0.1:{port}/postgres")
}

/// Returns the directory of the programs `initdb` and `postgres`.
///
/// # Errors
/// `NotFound` if they are neither where Debian installs them nor on the path.
pub fn find_programs() -> io::Result<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut versions: Vec<PathBuf> = debian
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|programs| programs.join("initdb").is_file() && programs.join("postgres").is_file())
        .collect();
    versions.sort();
    if let Some(newest) = versions.pop() {
        return Ok(newest);
    }
    let postgres = find("postgres")?;
    find("initdb").map(|_| postgres.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// Returns `true` if this process creates files as root.
fn is_root() -> io::Result<bool> {
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}
