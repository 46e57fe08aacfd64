//! Types that all rooms share: names, ids, times, checksums, ranges and errors.

mod checksum;
mod digest;
mod error;
mod ids;
mod multipart;
mod object_id;
mod range;
mod time;

pub use checksum::*;
pub use digest::*;
pub use error::*;
pub use ids::*;
pub use multipart::*;
pub use object_id::*;
pub use range::*;
pub use time::*;
