//! Tests of the binary: its output, its exit codes, and its effects on files. Every test has
//! directories of its own.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod blob_tiers;
mod changes;
mod demo;
mod doctors;
mod migrations;
mod objects;
mod read_only;
mod scrubs;
mod shared;
mod streams;
mod tiers;
mod trees;
mod uploads;
mod world;
