//! A server, and a directory for the tool.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use cenotaph::Env;
use cenotaph_tests::servers::postgres::{Postgres, PostgresData};
use cenotaph_tests::servers::required;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::world::World;

/// Settings of a server whose machine does not fail.
const SETTINGS: &[&str] = &["fsync=off", "max_connections=100"];
/// Longest wait for an effect of a command that goes on.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Password in the URLs, which no output may contain.
pub(super) const PASSWORD: &str = "s3cret";

/// A directory for the tool, whose store has its index on a server.
pub(super) struct SharedWorld {
    pub(super) world: World,
    /// URL of the database.
    pub(super) url: String,
    _server: Postgres,
    _data: PostgresData,
    runtime: Runtime,
}

impl SharedWorld {
    /// Starts a server, or returns `None` if none is installed.
    pub(super) fn start() -> Option<Self> {
        let data = required("PostgreSQL", PostgresData::new())?;
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(data.start(SETTINGS));
        let url = format!(
            "postgres://cenotaph:{PASSWORD}@127.0.0.1:{}/postgres",
            server.port()
        );
        let mut world = World::new();
        world.set("CENOTAPH_INDEX", &url);
        Some(Self {
            world,
            url,
            _server: server,
            _data: data,
            runtime,
        })
    }

    /// Waits until this is true.
    #[track_caller]
    pub(super) fn until(&self, is_true: impl Fn() -> bool) {
        let came = self.runtime.block_on(async {
            let env = Env::real().unwrap();
            let looks = async {
                while !is_true() {
                    env.sleep(LOOK).await;
                }
            };
            env.deadline(PATIENCE, looks).await
        });
        assert!(came.is_some(), "waited in vain");
    }

    /// Starts a command that has the shared store open until it is killed.
    pub(super) fn lingering_member(&self) -> Child {
        let before = self.members().len();
        let mut child = self
            .world
            .command(&["put", "never written"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // The pipe stays open, so that the put waits for its end.
        child.stdin.as_mut().unwrap().write_all(b"begun").unwrap();
        self.until(|| self.members().len() > before);
        child
    }

    /// Returns the members that the tool lists.
    pub(super) fn members(&self) -> Vec<Value> {
        self.world.ok(&["members", "--json"]).json()
    }
}
