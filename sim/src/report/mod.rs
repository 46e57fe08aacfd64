//! Traces, timelines and coverage of runs.

pub(crate) mod coverage;
pub(crate) mod expected_coverage;
pub(crate) mod timeline;
pub(crate) mod trace;
