//! The arguments of commands on single objects.

use std::path::PathBuf;
use std::time::Duration;

use cenotaph::{ByteRange, Etag, Expiration, Precondition};
use clap::Args;

use super::uploads::PartsArgs;
use super::values;

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// File to read; standard input if it is `-` or missing.
    pub(crate) file: Option<PathBuf>,
    /// Media type, such as `image/png`.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// A custom entry; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub(crate) meta: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) parts: PartsArgs,
    #[command(flatten)]
    pub(crate) expiration: ExpirationArgs,
    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// When an object stops existing by itself.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ExpirationArgs {
    /// The object exists for so long from now on.
    #[arg(long, value_name = "TIME", value_parser = values::lifetime, conflicts_with = "tti")]
    pub(crate) ttl: Option<Duration>,
    /// The object exists for so long after it was written or read last.
    #[arg(long, value_name = "TIME", value_parser = values::lifetime)]
    pub(crate) tti: Option<Duration>,
}

impl ExpirationArgs {
    /// What was said about it, if anything.
    pub(crate) fn stated(self) -> Option<Expiration> {
        self.ttl
            .map(Expiration::TimeToLive)
            .or(self.tti.map(Expiration::TimeToIdle))
    }
}

/// How an object must stand for a write to it.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ConditionArgs {
    /// Only if there is no such object.
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Only if the object has this version.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Only if the object has this etag.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<Etag>,
}

impl ConditionArgs {
    /// The same as the engine says it.
    pub(crate) fn precondition(self) -> Precondition {
        match (self.if_absent, self.if_version, self.if_etag) {
            (true, _, _) => Precondition::Absent,
            (false, Some(version), _) => Precondition::Version(version.into()),
            (false, None, Some(etag)) => Precondition::Etag(etag),
            (false, None, None) => Precondition::None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// File to write; standard output if it is `-` or missing. The file appears when it is whole.
    /// Where there is one, its mode and owner are kept; a link is followed.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Only these bytes: `0-99` the first hundred, `100-` all but those, `-100` the last hundred.
    #[arg(long, value_name = "A-B", value_parser = values::byte_range, allow_hyphen_values = true)]
    pub(crate) range: Option<ByteRange>,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only keys that begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Show keys that share all up to the next such character as one, as folders are shown.
    #[arg(long, value_name = "CHARACTER")]
    pub(crate) delimiter: Option<char>,
    /// Size, time and version too.
    #[arg(long, short)]
    pub(crate) long: bool,
    /// At most so many entries.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// Key of the object.
    pub(crate) key: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Keys of the objects.
    #[arg(value_name = "KEY", required_unless_present_any = ["recursive", "all"])]
    pub(crate) keys: Vec<String>,
    /// Every object whose key begins with this. Run it again to resume. An empty prefix is refused
    /// without --all.
    #[arg(
        long,
        short,
        value_name = "PREFIX",
        visible_alias = "prefix",
        conflicts_with = "condition"
    )]
    pub(crate) recursive: Option<String>,
    /// Every object of the namespace.
    #[arg(long, conflicts_with_all = ["keys", "condition"])]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}

/// How the objects must stand that are deleted.
#[derive(Clone, Copy, Debug, Args)]
#[group(id = "condition", multiple = false)]
pub(crate) struct DeletionArgs {
    /// Only if the object has this version. For one key.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Only if the object has this etag. For one key.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<Etag>,
}

impl DeletionArgs {
    /// The same as the engine says it.
    pub(crate) fn precondition(self) -> Precondition {
        ConditionArgs {
            if_absent: false,
            if_version: self.if_version,
            if_etag: self.if_etag,
        }
        .precondition()
    }
}

/// Two objects. Conditions are demands on the second.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Key of the object.
    pub(crate) from: String,
    /// Key that it gets. An object that is there is replaced.
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// To so long from now. An earlier deadline than the object's changes nothing.
    #[arg(long = "for", value_name = "TIME", value_parser = values::lifetime, required_unless_present = "never", conflicts_with = "never")]
    pub(crate) time: Option<Duration>,
    /// To no deadline at all.
    #[arg(long)]
    pub(crate) never: bool,
    /// Take an earlier deadline too.
    #[arg(long)]
    pub(crate) shorten: bool,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AmendArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// Another media type.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Another name to save it under.
    #[arg(long, value_name = "NAME")]
    pub(crate) filename: Option<String>,
    /// A custom entry to set; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub(crate) set: Vec<(String, String)>,
    /// A custom entry to remove; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) unset: Vec<String>,
    #[command(flatten)]
    pub(crate) expiration: ExpirationArgs,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}
