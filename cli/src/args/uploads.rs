//! Arguments of uploads in parts: the options of `put`, and the commands that list and abort
//! uploads.

use cenotaph::UploadId;
use clap::Args;

use super::values;

/// Options of an upload in parts. If none is given, the size of the file decides whether `put`
/// uploads in parts.
#[derive(Clone, Copy, Debug, Args)]
#[group(id = "in_parts", multiple = true, requires = "file")]
pub(crate) struct PartsArgs {
    /// Upload the file in parts, this many at once [default: 4].
    #[arg(long, value_name = "N", value_parser = values::jobs)]
    pub(crate) parallel: Option<usize>,
    /// Upload the file in parts of this size [default: 64MiB]. A file that would need more than
    /// 10,000 parts gets larger parts. A resumed upload keeps its part size.
    #[arg(long, value_name = "SIZE", value_parser = values::part_size)]
    pub(crate) part_size: Option<u64>,
    /// Resume an upload to KEY: send the parts that are missing or differ from the file.
    ///
    /// Without an id, resumes the newest open upload all of whose parts match the file, and begins
    /// a new upload if no upload matches. The metadata given when the upload began applies;
    /// metadata that is given again must be equal. Write the option after KEY and FILE, or as
    /// --resume=UPLOAD_ID.
    #[arg(long, value_name = "UPLOAD_ID", num_args = 0..=1, value_parser = values::upload_id)]
    resume: Option<Option<UploadId>>,
}

/// Upload that `put` resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// None: begin a new upload.
    No,
    /// The newest upload whose parts match the file, if any.
    Newest,
    /// The upload of this id.
    Named(UploadId),
}

impl PartsArgs {
    /// Returns the upload to resume.
    pub(crate) fn resume(&self) -> Resume {
        match self.resume {
            None => Resume::No,
            Some(None) => Resume::Newest,
            Some(Some(upload)) => Resume::Named(upload),
        }
    }

    /// Returns whether any option of uploads in parts is given.
    pub(crate) fn is_given(&self) -> bool {
        self.parallel.is_some() || self.part_size.is_some() || self.resume.is_some()
    }
}

/// Arguments of `uploads`.
#[derive(Debug, Args)]
pub(crate) struct UploadsArgs {
    /// Prefix of the keys.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
}

/// Arguments of `abort`.
#[derive(Debug, Args)]
pub(crate) struct AbortArgs {
    /// Key of the upload.
    pub(crate) key: String,
    /// Id of the upload, as printed by `put` and `uploads`.
    #[arg(value_name = "UPLOAD_ID", value_parser = values::upload_id)]
    pub(crate) upload_id: UploadId,
}
