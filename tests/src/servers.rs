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

use std::time::Duration;

use cenotaph::Operator;
use opendal::layers::{RetryLayer, TimeoutLayer};

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
