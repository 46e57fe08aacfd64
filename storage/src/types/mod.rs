//! Types that all rooms share: names, ids, times, checksums, ranges and errors.

mod checksum;
mod digest;
mod error;
mod ids;
mod multipart;
mod object_id;
mod precondition;
mod range;
mod results;
mod time;

pub use checksum::*;
pub use digest::*;
pub use error::*;
pub use ids::*;
pub use multipart::*;
pub use object_id::*;
pub use precondition::*;
pub use range::*;
pub use results::*;
pub use time::*;
