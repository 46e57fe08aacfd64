//! Servers that a test or a bench starts for itself on this machine, and that end with it; and what
//! is asked of them past OpenDAL.
//!
//! Reading order: `launch` (how a server is started, and ended whatever happens), `http` (one
//! request, one answer), `s3` (moto and Ceph's gateway). Deliberately not here: what an engine is
//! asked on them, and Azurite, which only one test needs (`tests/main/servers.rs`).

pub mod http;
pub mod launch;
pub mod s3;

use std::time::Duration;

use cenotaph::Operator;
use opendal::layers::{RetryLayer, TimeoutLayer};

/// Longest time that one transfer of a part may take.
const IO_TIMEOUT: Duration = Duration::from_secs(120);

/// What a remote tier is given in production: a way to speak HTTP, a limit on every attempt, and
/// retries around it.
pub fn layered(operator: Operator) -> Operator {
    opendal::install_default();
    operator
        .layer(TimeoutLayer::new().with_io_timeout(IO_TIMEOUT))
        .layer(RetryLayer::new().with_jitter())
}
