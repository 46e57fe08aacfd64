//! The timeline: a trace as a person reads it, on a terminal ([`text`]) or in a browser ([`html`]).
//!
//! Both are functions of the trace and of nothing else, byte for byte: two replays of a seed can be
//! compared with `diff`. Deliberately not here: what goes into a trace (`trace.rs`).

mod html;
mod text;

#[cfg(test)]
mod sample;

pub(crate) use html::html;
pub(crate) use text::text;
