//! Operations: one file for each, with the `Engine` method and its builder.

pub(crate) mod amend;
pub(crate) mod batch;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod migrate;
pub(crate) mod pages;
pub(crate) mod put;
pub(crate) mod relocate;
pub(crate) mod scrub;
pub(crate) mod setters;
pub(crate) mod update;
pub(crate) mod usage;
