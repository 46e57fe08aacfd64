//! The arguments of uploads: those that `put` has for them, and the commands that list and end
//! them.

use cenotaph::UploadId;
use clap::Args;

use super::values;

/// How a file is uploaded in parts. Given none of them, `put` decides by the file's size.
#[derive(Clone, Copy, Debug, Args)]
#[group(id = "in_parts", multiple = true, requires = "file")]
pub(crate) struct PartsArgs {
    /// Upload the file in parts, so many at once; 4 unless told.
    #[arg(long, value_name = "N", value_parser = values::jobs)]
    pub(crate) parallel: Option<usize>,
    /// Upload the file in parts of this size, such as 64MiB, which it is unless told. A file that
    /// would need more than 10,000 has larger ones. An upload that is resumed keeps the size it
    /// has.
    #[arg(long, value_name = "SIZE", value_parser = values::part_size)]
    pub(crate) part_size: Option<u64>,
    /// Go on with an upload to KEY: send the parts that are missing, or are not what the file has
    /// in their place.
    ///
    /// Without an id it takes the newest open upload whose parts are the file's, and begins one if
    /// there is none. What was stated about the object when the upload began holds; if it is stated
    /// again, it must be the same. Write it behind KEY and FILE, or as --resume=UPLOAD_ID.
    #[arg(long, value_name = "UPLOAD_ID", num_args = 0..=1, value_parser = values::upload_id)]
    resume: Option<Option<UploadId>>,
}

/// Whether to go on with an upload that was begun earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Begin one.
    No,
    /// With the newest whose parts are the file's, if there is one.
    Newest,
    /// With this one.
    Named(UploadId),
}

impl PartsArgs {
    /// What was said about resuming.
    pub(crate) fn resume(&self) -> Resume {
        match self.resume {
            None => Resume::No,
            Some(None) => Resume::Newest,
            Some(Some(upload)) => Resume::Named(upload),
        }
    }

    /// Whether anything was said that is about uploads in parts only.
    pub(crate) fn is_given(&self) -> bool {
        self.parallel.is_some() || self.part_size.is_some() || self.resume.is_some()
    }
}

#[derive(Debug, Args)]
pub(crate) struct UploadsArgs {
    /// Only those to keys that begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct AbortArgs {
    /// Key of the object that it was to be.
    pub(crate) key: String,
    /// The upload, as `put` and `uploads` show it.
    #[arg(value_name = "UPLOAD_ID", value_parser = values::upload_id)]
    pub(crate) upload_id: UploadId,
}
