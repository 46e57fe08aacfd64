//! Entry point of `cenotaph`, the command-line tool of the store.
//!
//! ```text
//! args -> store (open) -> one file per command -> store (close) -> exit code
//! ```
//!
//! Exit codes: 0 success, 1 failure, 2 usage error, 3 not found, 4 failed precondition, 5
//! incomplete salvage. Every command that opens the engine closes it within bounded time, also
//! after a signal or an error. The tool uses the public API of the engine only.

mod args;
mod blob_location;
mod blob_uri;
mod commands;
mod index_url;
mod store;
mod transfer;
mod ui;

use std::process::ExitCode;
use std::time::Duration;

use cenotaph::Env;
use clap::Parser;
use tokio::runtime::Runtime;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use args::{Cli, Command, MigrateArgs, Resume, StoreArgs};
use commands::{demo, dispatch, doctor, salvage};
use store::{OpenStore, StoreAccess};
use ui::failure::Failure;
use ui::report::Report;
use ui::signals::Signals;
use ui::{human, report};

/// Longest time to close the engine after a signal.
const CLOSE_AFTER_SIGNAL: Duration = Duration::from_secs(10);

/// Writes log messages to standard error, as the variable `RUST_LOG` selects them.
fn start_log() {
    // Not `EnvFilter`, which brings an engine for regular expressions.
    let selected = std::env::var("RUST_LOG").ok();
    let selected = selected.and_then(|text| text.parse::<Targets>().ok());
    // Errors only by default: the tool prints the failure of a command itself.
    let selected = selected.unwrap_or_else(|| Targets::new().with_default(LevelFilter::ERROR));
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(output.with_filter(selected))
        .init();
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| escaped(error).exit());
    start_log();
    let (runtime, env, report) = match start(&cli) {
        Ok(started) => started,
        Err(failure) => return report::end_without_report(&failure),
    };
    let may_lose_reader = matches!(cli.command, Command::Get(_) | Command::Ls(_));
    let result = match runtime.block_on(run(cli, env, &report)) {
        // These commands only print. A reader that closes the pipe early, such as `head`, has read
        // all it needs, so the exit code is 0, as that of `cat` would be.
        Err(Failure::BrokenPipe) if may_lose_reader => Ok(()),
        result => result,
    };
    // Tokio can't cancel a blocking read of standard input. A normal shutdown of the runtime would
    // wait for it.
    runtime.shutdown_background();
    report.end(result)
}

/// Parses the command line again with escaped control characters and returns the error of that.
///
/// clap quotes arguments in its messages. Control characters in them must not reach the terminal.
fn escaped(error: clap::Error) -> clap::Error {
    let arguments = std::env::args_os().map(|argument| human::key(&argument.to_string_lossy()));
    Cli::try_parse_from(arguments).err().unwrap_or(error)
}

/// Creates the runtime, the environment and the report.
fn start(cli: &Cli) -> Result<(Runtime, Env, Report), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::io("the runtime can't start", &error))?;
    // `Env::real` needs the handle of a running runtime.
    let entered = runtime.enter();
    let env = Env::real()?;
    let report = Report::new(&env, cli.output.json, cli.output.quiet)?;
    drop(entered);
    Ok((runtime, env, report))
}

/// Runs the command, up to the close of the store.
async fn run(mut cli: Cli, env: Env, report: &Report) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    Signals::bound(&env, report.interrupt())?;
    check(&mut cli)?;
    // Removed at the end, after the store is closed.
    let mut scratch = None;
    let (access, options) = match &cli.command {
        // These three work without an open store, or open stores of their own.
        Command::Demo(options) => return signals.or(demo::run(report, &env, options)).await,
        Command::Doctor(options) => {
            return signals
                .or(doctor::run(report, &env, &cli.store.data, options))
                .await;
        }
        Command::Salvage(options) => {
            return signals.or(salvage::run(report, options, &cli.store)).await;
        }
        // A named upload can only exist in an existing store. Creating a store here would hide a
        // mistyped --data.
        Command::Put(options) if matches!(options.parts.resume(), Resume::Named(_)) => {
            (StoreAccess::Existing, cli.store)
        }
        Command::Put(_) | Command::Import(_) | Command::DemoChild(_) => {
            (StoreAccess::Create, cli.store)
        }
        Command::Adopt => (StoreAccess::Adopt, cli.store),
        Command::Migrate(options) if options.tier.is_some() => relocate_access(options, cli.store)?,
        Command::Migrate(options) => migrate_access(options, cli.store, &mut scratch)?,
        Command::Get(_)
        | Command::Ls(_)
        | Command::Stat(_)
        | Command::Rm(_)
        | Command::Uploads(_)
        | Command::Abort(_)
        | Command::Cp(_)
        | Command::Mv(_)
        | Command::Extend(_)
        | Command::Amend(_)
        | Command::Scrub(_)
        | Command::Export(_)
        | Command::Verify(_)
        | Command::Stats(_)
        | Command::Members
        | Command::Recover => (StoreAccess::Existing, cli.store),
    };
    let store = signals.or(OpenStore::open(&options, access, env)).await?;
    let result = signals.or(dispatch(cli.command, &store, report)).await;
    // The first signal dropped the command; the close gets a deadline then, because the process is
    // expected to end soon. A second signal drops the close, too.
    let closed = match &result {
        Err(Failure::Interrupted) => signals.or(close_after_signal(&store)).await,
        Ok(()) | Err(_) => signals.or(store.close()).await,
    };
    // The failure of the command, if any, is the more useful message.
    result.and(closed)
}

/// Checks the options of the store against the command, and completes them by the environment.
fn check(cli: &mut Cli) -> Result<(), Failure> {
    let store = &mut cli.store;
    if let Some(name) = cli.command.writes().filter(|_| store.read_only) {
        return Err(Failure::Usage(format!(
            "--read-only is for commands that only read a store: `{name}` writes"
        )));
    }
    match cli.command.is_without_index() {
        Some(name) if store.index.is_shared() => Err(Failure::Usage(format!(
            "--index: `{name}` is for stores whose index is in a directory"
        ))),
        // Not the environment: it may name the index of another store than the one at hand.
        Some(_) => Ok(()),
        None => {
            store.index = std::mem::take(&mut store.index).complete()?;
            Ok(())
        }
    }
}

/// Checks that a dry run is possible.
fn check_dry_run(options: &MigrateArgs, store: &StoreArgs) -> Result<(), Failure> {
    if options.dry_run && store.index.is_shared() {
        return Err(Failure::Usage(
            "--dry-run opens the store read-only, which is not possible for a shared store; `stats` \
             of the source counts its objects"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Returns the store of a move to another blob tier. A dry run changes no file of it.
fn relocate_access(
    options: &MigrateArgs,
    store: StoreArgs,
) -> Result<(StoreAccess, StoreArgs), Failure> {
    check_dry_run(options, &store)?;
    let store = StoreArgs {
        move_to: options.tier.clone(),
        read_only: options.dry_run,
        ..store
    };
    Ok((StoreAccess::Existing, store))
}

/// Returns the store of a migration. A dry run changes no file of an existing store, and counts for
/// a temporary store if there is none yet.
fn migrate_access(
    options: &MigrateArgs,
    store: StoreArgs,
    scratch: &mut Option<tempfile::TempDir>,
) -> Result<(StoreAccess, StoreArgs), Failure> {
    check_dry_run(options, &store)?;
    let store = StoreArgs {
        fallback: options.from.clone(),
        fallback_lost: options.source_lost,
        fallback_is_writable: options.delete_source,
        ..store
    };
    if !options.dry_run {
        let access = if options.source_lost {
            StoreAccess::Existing
        } else {
            StoreAccess::Create
        };
        return Ok((access, store));
    }
    if store.data.join("index").is_dir() {
        let store = StoreArgs {
            read_only: true,
            ..store
        };
        return Ok((StoreAccess::Existing, store));
    }
    let directory = tempfile::tempdir()
        .map_err(|error| Failure::io("no temporary directory can be created", &error))?;
    let store = StoreArgs {
        data: directory.path().to_owned(),
        blobs: None,
        ..store
    };
    *scratch = Some(directory);
    Ok((StoreAccess::Create, store))
}

/// Closes the store within [`CLOSE_AFTER_SIGNAL`].
async fn close_after_signal(store: &OpenStore) -> Result<(), Failure> {
    let closed = store.env.deadline(CLOSE_AFTER_SIGNAL, store.close()).await;
    closed.unwrap_or_else(|| {
        Err(Failure::Failed(
            "the store did not close in time; the next open recovers it".to_owned(),
        ))
    })
}
