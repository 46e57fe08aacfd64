//! One suite against every blob tier that can be had on this machine: memory, a directory, and real
//! servers that speak S3 and Azure's protocol.
//!
//! The servers are programs that a developer may have or not (CONTRIBUTING.md tells how to get
//! them). Where one is missing, its test says so and passes; with `CENOTAPH_SERVERS=required` it
//! fails, but for Ceph, which few will have.
//!
//! Reading order: `suite` (what is run on each, and what must be true afterwards), `cases` (what an
//! engine is asked), `remains` (what is in a bucket, and what should be), then where it is run:
//! `s3`, `azurite`, `local`. How servers are started is in the library of this crate
//! (`src/servers.rs`).
//!
//! Shows I5 where it is hardest to keep: on services that assemble blobs from parts, answer late,
//! and list what they like. Deliberately not here: faults of the blob tier (`faults.rs`), which a
//! good server does not have.

mod azurite;
mod cases;
mod local;
mod remains;
mod s3;
mod suite;

mod harness;

use std::io::{self, Write};

use azurite::Azurite;
use cenotaph_tests::servers::s3::{PART_BYTES_MIN, S3};
use local::{Directory, Memory};
use suite::assert_passes;

/// The variable that makes a missing server a failure.
const REQUIRED: &str = "CENOTAPH_SERVERS";

/// What is needed to start a server; none, said loudly, if it is not here.
fn here<T>(server: &str, found: io::Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) => {
            // Past the test's own capture: whoever runs the suite should know what was not run.
            let _ = writeln!(io::stderr(), "SKIPPED: {server} is not here: {error}");
            None
        }
    }
}

/// The same of a server that may be required.
fn demanded<T>(server: &str, found: io::Result<T>) -> Option<T> {
    let required = std::env::var(REQUIRED).is_ok_and(|value| value == "required");
    match here(server, found) {
        None if required => panic!("{REQUIRED}=required, and {server} is not here"),
        found => found,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_in_memory() {
    assert_passes(&Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_in_a_directory() {
    assert_passes(&Directory::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_on_moto() {
    let Some(program) = demanded("moto", S3::moto_is_here()) else {
        return;
    };
    assert_passes(&S3::moto(program, PART_BYTES_MIN).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_on_azurite() {
    let Some(program) = demanded("azurite", Azurite::is_here()) else {
        return;
    };
    assert_passes(&Azurite::start(program).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_on_ceph() {
    let Some(()) = here("ceph", S3::ceph_is_here()) else {
        return;
    };
    assert_passes(&S3::ceph(PART_BYTES_MIN).await).await;
}
