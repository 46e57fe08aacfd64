//! One suite of cases on every blob tier of this machine: memory, a directory, and real servers
//! that speak S3 and Azure's protocol.
//!
//! The servers are optional programs (CONTRIBUTING.md describes their installation). The test of a
//! missing server prints `SKIPPED` and passes. With `CENOTAPH_SERVERS=required` it fails, except
//! for Ceph, which is rarely installed.
//!
//! Reading order: `suite` (execution and checks of a case), `cases` (the cases), `remains`
//! (expected and found blobs of a bucket), then the blob tiers: `s3`, `azurite`, `local`. The start
//! of servers is in the library of this crate (`src/servers.rs`).
//!
//! The suite checks I5 on services that assemble blobs from parts, answer late, and list blobs in
//! their own ways. Faults of the blob tier are tested elsewhere (`faults.rs`).

mod azurite;
mod cases;
mod local;
mod migration;
mod remains;
mod s3;
mod suite;

mod harness;

use azurite::Azurite;
use cenotaph_tests::servers::installed;
use cenotaph_tests::servers::s3::{PART_BYTES_MIN, S3};
use local::{Directory, Memory};
use suite::assert_passes;

pub(crate) use cenotaph_tests::servers::required;

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
    let Some(program) = required("moto", S3::find_moto()) else {
        return;
    };
    assert_passes(&S3::moto(program, PART_BYTES_MIN).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_on_azurite() {
    let Some(program) = required("azurite", Azurite::find()) else {
        return;
    };
    assert_passes(&Azurite::start(program).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_on_ceph() {
    let Some(()) = installed("ceph", S3::find_ceph()) else {
        return;
    };
    assert_passes(&S3::ceph(PART_BYTES_MIN).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_moves_to_moto_under_load() {
    let Some(program) = required("moto", S3::find_moto()) else {
        return;
    };
    migration::assert_moves(&S3::moto(program, PART_BYTES_MIN).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_relocate_to_moto_under_load() {
    let Some(program) = required("moto", S3::find_moto()) else {
        return;
    };
    migration::assert_relocates(&S3::moto(program, PART_BYTES_MIN).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_bucket_move_into_a_store() {
    let Some(program) = required("moto", S3::find_moto()) else {
        return;
    };
    migration::assert_bucket_moves(&S3::moto(program, PART_BYTES_MIN).await).await;
}
