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
mod blobs;
mod store;

mod change;
mod demo;
mod doctor;
mod export;
mod get;
mod import;
mod ls;
mod put;
mod rm;
mod salvage;
mod scrub;
mod stat;
mod stats;
mod uploads;
mod verify;

mod clock;
mod compare;
mod failure;
mod human;
mod output;
mod parts;
mod report;
mod retry;
mod stamp;
mod standard;
mod stated;
mod stop;
mod tier;
mod tree;

use std::process::ExitCode;
use std::time::Duration;

use cenotaph::Env;
use clap::Parser;
use serde_json::json;
use tokio::runtime::Runtime;

use args::{Cli, Command, Resume};
use failure::Failure;
use report::Report;
use stop::Stop;
use store::{Access, Store};

/// Longest time to close the engine after a signal.
const CLOSE_AFTER_SIGNAL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| escaped(error).exit());
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
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

async fn run(cli: Cli, env: Env, report: &Report) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    Stop::bound(&env, report.interrupt())?;
    if let Some(name) = cli.command.writes().filter(|_| cli.store.read_only) {
        return Err(Failure::Usage(format!(
            "--read-only is for commands that only read a store: `{name}` writes"
        )));
    }
    let (access, options) = match &cli.command {
        Command::Demo(options) => return stop.or(demo::run(report, &env, options)).await,
        Command::Doctor(options) => {
            return stop
                .or(doctor::run(report, &env, &cli.store.data, options))
                .await;
        }
        Command::Salvage(options) => {
            return stop
                .or(salvage::run(report, options, cli.store.blobs.as_deref()))
                .await;
        }
        // A named upload can only exist in an existing store. Creating a store here would hide a
        // mistyped --data.
        Command::Put(options) if matches!(options.parts.resume(), Resume::Named(_)) => {
            (Access::Existing, cli.store)
        }
        Command::Put(_) | Command::Import(_) | Command::DemoChild(_) => (Access::Create, cli.store),
        Command::Adopt => (Access::Adopt, cli.store),
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
        | Command::Recover => (Access::Existing, cli.store),
    };
    let store = stop.or(Store::open(&options, access, env)).await?;
    let result = stop.or(dispatch(cli.command, &store, report)).await;
    // The first signal dropped the command; the close gets a deadline then, because the process is
    // expected to end soon. A second signal drops the close, too.
    let closed = match &result {
        Err(Failure::Interrupted) => stop.or(close_after_signal(&store)).await,
        Ok(()) | Err(_) => stop.or(store.close()).await,
    };
    result.and(closed)
}

async fn dispatch(command: Command, store: &Store, report: &Report) -> Result<(), Failure> {
    match command {
        Command::Put(options) => put::run(store, report, options).await,
        Command::Get(options) => get::run(store, report, options).await,
        Command::Ls(options) => ls::run(store, report, options).await,
        Command::Stat(options) => stat::run(store, report, &options).await,
        Command::Rm(options) => rm::run(store, report, options).await,
        Command::Uploads(options) => uploads::run(store, report, &options).await,
        Command::Abort(options) => uploads::abort(store, report, &options).await,
        Command::Cp(options) => change::copy(store, report, &options).await,
        Command::Mv(options) => change::rename(store, report, &options).await,
        Command::Extend(options) => change::extend(store, report, &options).await,
        Command::Amend(options) => change::amend(store, report, &options).await,
        Command::Scrub(options) => scrub::run(store, report, &options).await,
        Command::Import(options) => import::run(store, report, &options).await,
        Command::Export(options) => export::export(store, report, &options).await,
        Command::Verify(options) => verify::run(store, report, &options).await,
        Command::Stats(options) => stats::run(store, report, &options).await,
        Command::Recover => stats::recover(store, report).await,
        Command::Adopt => report.result(
            || json!({ "event": "adopted", "blobs": store.tier }),
            || format!("adopted {}", store.tier),
        ),
        Command::DemoChild(options) => demo::child::run(store, report, &options).await,
        Command::Demo(_) | Command::Doctor(_) | Command::Salvage(_) => {
            Err(Failure::Failed("this command opens no store".to_owned()))
        }
    }
}

async fn close_after_signal(store: &Store) -> Result<(), Failure> {
    let closed = store.env.deadline(CLOSE_AFTER_SIGNAL, store.close()).await;
    closed.unwrap_or_else(|| {
        Err(Failure::Failed(
            "the store did not close in time; the next open recovers it".to_owned(),
        ))
    })
}
