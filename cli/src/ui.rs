//! Output, errors and signals of the tool. Imports no other room.

pub(crate) mod clock;
pub(crate) mod failure;
pub(crate) mod human;
pub(crate) mod report;
pub(crate) mod signals;
pub(crate) mod standard;
