//! Arguments of commands on single objects.

use std::path::PathBuf;
use std::time::Duration;

use cenotaph::{ByteRange, Etag, Expiration, Precondition};
use clap::Args;

use super::uploads::PartsArgs;
use super::values;

/// Arguments of `put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// File to read; standard input if absent or `-`.
    pub(crate) file: Option<PathBuf>,
    /// Media type, such as `image/png`.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Custom entry; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub(crate) meta: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) parts: PartsArgs,
    #[command(flatten)]
    pub(crate) expiration: ExpirationArgs,
    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Expiration policy of an object.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ExpirationArgs {
    /// Time to live: the object expires this long after the write.
    #[arg(long, value_name = "TIME", value_parser = values::lifetime, conflicts_with = "tti")]
    pub(crate) ttl: Option<Duration>,
    /// Time to idle: the object expires this long after its last write or read.
    #[arg(long, value_name = "TIME", value_parser = values::lifetime)]
    pub(crate) tti: Option<Duration>,
}

impl ExpirationArgs {
    /// Returns the given policy, or `None` if the command line has none.
    pub(crate) fn policy(self) -> Option<Expiration> {
        self.ttl
            .map(Expiration::TimeToLive)
            .or(self.tti.map(Expiration::TimeToIdle))
    }
}

/// Precondition of a write.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ConditionArgs {
    /// Write only if the object does not exist.
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Write only if the object has this version.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Write only if the object has this etag.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<Etag>,
}

impl ConditionArgs {
    /// Returns the precondition for the engine.
    pub(crate) fn precondition(self) -> Precondition {
        match (self.if_absent, self.if_version, self.if_etag) {
            (true, _, _) => Precondition::Absent,
            (false, Some(version), _) => Precondition::Version(version.into()),
            (false, None, Some(etag)) => Precondition::Etag(etag),
            (false, None, None) => Precondition::None,
        }
    }
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// File to write; standard output if absent or `-`. The file appears only when it is complete.
    /// An existing file keeps its mode and owner; symbolic links are followed.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Range of bytes: `0-99` the first 100, `100-` all but the first 100, `-100` the last 100.
    #[arg(long, value_name = "A-B", value_parser = values::byte_range, allow_hyphen_values = true)]
    pub(crate) range: Option<ByteRange>,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Prefix of the keys.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Group keys that are equal up to the next delimiter into a single entry, like a folder.
    #[arg(long, value_name = "CHARACTER")]
    pub(crate) delimiter: Option<char>,
    /// Show size, time and version, too.
    #[arg(long, short)]
    pub(crate) long: bool,
    /// Largest number of entries.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// Arguments of `stat`.
#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// Key of the object.
    pub(crate) key: String,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Keys of the objects.
    #[arg(value_name = "KEY", required_unless_present_any = ["recursive", "all"])]
    pub(crate) keys: Vec<String>,
    /// Delete every object whose key begins with this prefix. Run it again to resume. An empty
    /// prefix is refused without --all.
    #[arg(
        long,
        short,
        value_name = "PREFIX",
        visible_alias = "prefix",
        conflicts_with = "condition"
    )]
    pub(crate) recursive: Option<String>,
    /// Delete every object of the namespace.
    #[arg(long, conflicts_with_all = ["keys", "condition"])]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}

/// Precondition of a call on an existing object.
#[derive(Clone, Copy, Debug, Args)]
#[group(id = "condition", multiple = false)]
pub(crate) struct DeletionArgs {
    /// Only if the object has this version. Needs a single key.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Only if the object has this etag. Needs a single key.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<Etag>,
}

impl DeletionArgs {
    /// Returns the precondition for the engine.
    pub(crate) fn precondition(self) -> Precondition {
        ConditionArgs {
            if_absent: false,
            if_version: self.if_version,
            if_etag: self.if_etag,
        }
        .precondition()
    }
}

/// Arguments of `cp` and `mv`. The precondition applies to the second object.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Key of the object.
    pub(crate) from: String,
    /// New key. An existing object is replaced.
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// Arguments of `extend`.
#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// New deadline, counted from now. A deadline earlier than the current deadline has no effect.
    #[arg(
        long = "for",
        value_name = "TIME",
        value_parser = values::lifetime,
        required_unless_present = "never",
        conflicts_with = "never"
    )]
    pub(crate) time: Option<Duration>,
    /// Remove the deadline.
    #[arg(long)]
    pub(crate) never: bool,
    /// Accept an earlier deadline, too.
    #[arg(long)]
    pub(crate) shorten: bool,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}

/// Arguments of `amend`.
#[derive(Debug, Args)]
pub(crate) struct AmendArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// New media type.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// New file name for downloads.
    #[arg(long, value_name = "NAME")]
    pub(crate) filename: Option<String>,
    /// Custom entry to set; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub(crate) set: Vec<(String, String)>,
    /// Custom entry to remove; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) unset: Vec<String>,
    #[command(flatten)]
    pub(crate) expiration: ExpirationArgs,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}
