//! `cenotaph`: the store from a shell. Arguments in, a command run on an open engine, an exit code
//! out.
//!
//! ```text
//! args -> store (open) -> one file per command -> store (close) -> exit code
//! ```
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 a condition does not hold, 5 an incomplete
//! salvage. However a command ends, the engine is closed, within bounded time. Deliberately not
//! here: anything that touches the engine's inside; the tool uses the public API only.

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

/// How long the engine may take to close after a signal.
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
        // As with `cat` and `ls`: the reader has what it wanted, and nothing else was to be done.
        Err(Failure::BrokenPipe) if may_lose_reader => Ok(()),
        result => result,
    };
    // A read of standard input can't be interrupted: it would hold up the exit.
    runtime.shutdown_background();
    report.end(result)
}

/// The same error about arguments whose control characters are escaped: it quotes them.
fn escaped(error: clap::Error) -> clap::Error {
    let arguments = std::env::args_os().map(|argument| human::key(&argument.to_string_lossy()));
    Cli::try_parse_from(arguments).err().unwrap_or(error)
}

fn start(cli: &Cli) -> Result<(Runtime, Env, Report), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::io("the runtime can't start", &error))?;
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
        // The upload that is named is in a store that is there.
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
        Command::Uploads(options) => uploads::list(store, report, &options).await,
        Command::Abort(options) => uploads::abort(store, report, &options).await,
        Command::Cp(options) => change::copy(store, report, &options).await,
        Command::Mv(options) => change::rename(store, report, &options).await,
        Command::Extend(options) => change::extend(store, report, &options).await,
        Command::Amend(options) => change::amend(store, report, &options).await,
        Command::Scrub(options) => scrub::run(store, report, &options).await,
        Command::Import(options) => import::run(store, report, &options).await,
        Command::Export(options) => export::run(store, report, &options).await,
        Command::Verify(options) => verify::run(store, report, &options).await,
        Command::Stats(options) => stats::stats(store, report, &options).await,
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
            "the store did not close in time; the next open settles it".to_owned(),
        ))
    })
}
