//! Movement of bytes between the store and files: puts, imports, exports, comparisons.

pub(crate) mod compare;
pub(crate) mod export;
pub(crate) mod file_metadata;
pub(crate) mod import;
pub(crate) mod open_upload;
pub(crate) mod output;
pub(crate) mod parts;
pub(crate) mod put_file;
pub(crate) mod put_options;
pub(crate) mod retry;
pub(crate) mod tree;
pub(crate) mod verify;
