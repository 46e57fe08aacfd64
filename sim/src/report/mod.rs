//! Timelines of runs, and the coverage expected of many runs.

pub(crate) mod expected_coverage;
pub(crate) mod timeline;
