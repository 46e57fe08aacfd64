//! Object storage servers that a test or a benchmark starts on this machine and that end with it.
//!
//! Reading order: `launch` (start and guaranteed end of a server), `http` (requests that bypass
//! OpenDAL), `s3` (moto and Ceph's gateway), `postgres` and `proxy` (PostgreSQL, and cuts of its
//! connections).

pub mod http;
pub mod launch;
pub mod postgres;
pub mod proxy;
pub mod s3;

use std::io::{self, Write};
use std::time::Duration;

use cenotaph::Operator;
use opendal::layers::{RetryLayer, TimeoutLayer};

/// Variable that turns a missing server into a failure.
const REQUIRED: &str = "CENOTAPH_SERVERS";

/// Returns the programs of a server, or prints `SKIPPED` and returns `None`.
pub fn installed<T>(server: &str, found: io::Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) => {
            // Directly to stderr: `eprintln!` is captured by the test harness, and a skipped server
            // must be visible.
            let _ = writeln!(io::stderr(), "SKIPPED: {server} is not installed: {error}");
            None
        }
    }
}

/// Does the same, but panics if servers are required.
pub fn required<T>(server: &str, found: io::Result<T>) -> Option<T> {
    let is_required = std::env::var(REQUIRED).is_ok_and(|value| value == "required");
    match installed(server, found) {
        None if is_required => panic!("{server} is not installed: {REQUIRED}=required"),
        found => found,
    }
}

/// Time limit of the transfer of a part.
const IO_TIMEOUT: Duration = Duration::from_secs(120);

/// Adds the layers of a remote tier in production: the HTTP transport, a timeout for each attempt,
/// and retries.
pub fn layered(operator: Operator) -> Operator {
    opendal::install_default();
    operator
        .layer(TimeoutLayer::new().with_io_timeout(IO_TIMEOUT))
        .layer(RetryLayer::new().with_jitter())
}
