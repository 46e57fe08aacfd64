//! The subcommands, one file each, and their dispatch. Imports between the rooms of the tool run
//! one way: `commands -> transfer -> store, args, ui`.

mod abort;
mod amend;
mod cp;
pub(crate) mod demo;
pub(crate) mod doctor;
mod export;
mod extend;
mod get;
mod import;
mod ls;
mod members;
mod migrate;
mod mv;
mod put;
mod recover;
mod relocate;
mod rm;
pub(crate) mod salvage;
mod scrub;
mod stat;
mod stats;
mod uploads;
mod verify;

use cenotaph::{ObjectId, PutResult};
use serde_json::json;

use crate::args::Command;
use crate::store::OpenStore;
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::Report;

/// Runs a command on an open store.
///
/// # Errors
/// The failure of the command, and [`Failure::Failed`] for a command that opens no store.
pub(crate) async fn dispatch(
    command: Command,
    store: &OpenStore,
    report: &Report,
) -> Result<(), Failure> {
    match command {
        Command::Put(options) => put::run(store, report, options).await,
        Command::Get(options) => get::run(store, report, options).await,
        Command::Ls(options) => ls::run(store, report, options).await,
        Command::Stat(options) => stat::run(store, report, &options).await,
        Command::Rm(options) => rm::run(store, report, options).await,
        Command::Uploads(options) => uploads::run(store, report, &options).await,
        Command::Abort(options) => abort::run(store, report, &options).await,
        Command::Cp(options) => cp::run(store, report, &options).await,
        Command::Mv(options) => mv::run(store, report, &options).await,
        Command::Extend(options) => extend::run(store, report, &options).await,
        Command::Amend(options) => amend::run(store, report, &options).await,
        Command::Scrub(options) => scrub::run(store, report, &options).await,
        Command::Import(options) => import::run(store, report, &options).await,
        Command::Export(options) => export::run(store, report, &options).await,
        Command::Verify(options) => verify::run(store, report, &options).await,
        Command::Migrate(options) if options.tier.is_some() => {
            relocate::run(store, report, &options).await
        }
        Command::Migrate(options) => migrate::run(store, report, &options).await,
        Command::Stats(options) => stats::run(store, report, &options).await,
        Command::Members => members::run(store, report).await,
        Command::Recover => recover::run(store, report).await,
        // The open has adopted and remembered the tier already.
        Command::Adopt => report.result(
            || json!({ "event": "adopted", "blobs": store.tiers.current() }),
            || format!("adopted {}", store.tiers.current()),
        ),
        Command::DemoChild(options) => demo::child::run(store, report, &options).await,
        // Handled in `main`, before a store is opened.
        Command::Demo(_) | Command::Doctor(_) | Command::Salvage(_) => {
            Err(Failure::Failed("this command opens no store".to_owned()))
        }
    }
}

/// Prints the result of a change, or returns [`Failure::NotFound`] if `from` does not exist.
fn print_changed(
    report: &Report,
    from: &ObjectId,
    to: &ObjectId,
    written: Option<PutResult>,
) -> Result<(), Failure> {
    let Some(written) = written else {
        return Err(Failure::NotFound(format!("no such object: key={from}")));
    };
    let version = written.version.map(cenotaph::Version::get);
    report.result(
        || {
            json!({
                "key": to.key(),
                "from": from.key(),
                "version": version,
                "etag": written.etag,
                "created": written.created,
            })
        },
        || match version {
            Some(version) => format!("{} version {version}", human::key(to.key())),
            None => format!("{} superseded", human::key(to.key())),
        },
    )
}
