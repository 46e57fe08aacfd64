//! The timeline: a rendered trace, for a terminal ([`text`]) or a browser ([`html`]).
//!
//! Both renderings are functions of the trace alone, byte for byte, so that two replays of a seed
//! can be compared with `diff`.

mod html;
mod text;

#[cfg(test)]
mod sample;

pub(crate) use html::html;
pub(crate) use text::text;
