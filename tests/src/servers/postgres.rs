//! A PostgreSQL server of a test.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
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
        // The server refuses data that others can read.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o700))?;
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

impl PostgresData {
    /// Copies the data of a running server as those of a standby, which follows it when it is started.
    ///
    /// # Panics
    /// If the copy fails.
    pub fn standby_of(&self, primary: &Postgres) -> Self {
        let standby = Self::new().expect("the programs of the primary");
        let mut copy = standby.command("pg_basebackup");
        copy.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"]);
        copy.args(["--dbname", &url(primary.port()), "--pgdata"]);
        let copied = copy.arg(standby.path()).output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
        standby
    }

    /// Makes a running server wait for its standby in each commit, once the standby follows it.
    ///
    /// # Panics
    /// If the standby does not follow it within a minute.
    pub async fn replicate_synchronously(&self, primary: &Postgres) {
        let query = |sql: &str| {
            let mut query = self.command("psql");
            query.args(["--no-psqlrc", "--tuples-only", "--no-align"]);
            query.args(["--dbname", &url(primary.port()), "--command", sql]);
            let answer = query.output().unwrap();
            assert!(answer.status.success(), "{answer:?}");
            String::from_utf8_lossy(&answer.stdout).trim().to_owned()
        };
        query("ALTER SYSTEM SET synchronous_standby_names = '*'");
        query("SELECT pg_reload_conf()");
        let env = Env::real().unwrap();
        let waited = env.deadline(PATIENCE, async {
            while query("SELECT sync_state FROM pg_stat_replication") != "sync" {
                env.sleep(LOOK).await;
            }
        });
        assert!(waited.await.is_some(), "the standby does not follow");
    }

    /// Makes a running standby the primary.
    ///
    /// # Panics
    /// If the standby is not promoted within a minute.
    pub fn promote(&self) {
        let mut promote = self.command("pg_ctl");
        let promoted = promote.arg("promote").arg("--pgdata").arg(self.path());
        let promoted = promoted.output().unwrap();
        assert!(promoted.status.success(), "{promoted:?}");
    }

    /// Returns the command of a program, run by the user that runs the server.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !is_root().unwrap() {
            return Command::new(program);
        }
        let nobody = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
        command.arg(program);
        command
    }
}

impl Postgres {
    /// Kills the server as SIGKILL does, and waits for the end of its processes.
    pub fn kill(&mut self) {
        self.running.kill();
    }

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
