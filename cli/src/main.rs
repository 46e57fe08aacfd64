//! `cenotaph`: the store from a shell. Arguments in, a command run on an open engine, an exit code out.
//!
//! ```text
//! args -> store (open) -> one file per command -> store (close) -> exit code
//! ```
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 3 not found (`get`, `stat`). However a command ends, the engine is closed, within
//! bounded time. Deliberately not here: anything that touches the engine's inside; the tool uses the public API only.

mod args;
mod store;
mod blobs;

mod put;
mod get;
mod ls;
mod stat;
mod rm;
mod import;
mod export;
mod verify;
mod stats;
mod demo;

mod tree;
mod stamp;
mod compare;
mod output;
mod retry;
mod report;
mod human;
mod failure;
mod clock;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use cenotaph::Env;
use clap::Parser;

use args::{Cli, Command};
use failure::Failure;
use report::Report;
use store::{Access, Store};

/// How long the engine may take to close after a signal.
const CLOSE_AFTER_SIGNAL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = Report::new(cli.output.json, cli.output.quiet);
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report.end(Err(Failure::io("the runtime can't start", &error))),
    };
    let result = runtime.block_on(run(cli, &report));
    // A read of standard input can't be interrupted: it would hold up the exit.
    runtime.shutdown_background();
    report.end(result)
}

async fn run(cli: Cli, report: &Report) -> Result<(), Failure> {
    let env = Env::real()?;
    let (access, options) = match &cli.command {
        Command::Demo(options) => return interruptible(demo::run(report, &env, options)).await,
        Command::Put(_) | Command::Import(_) | Command::DemoChild(_) => (Access::Create, cli.store),
        Command::Get(_)
        | Command::Ls(_)
        | Command::Stat(_)
        | Command::Rm(_)
        | Command::Export(_)
        | Command::Verify(_)
        | Command::Stats(_)
        | Command::Recover => (Access::Existing, cli.store),
    };
    let store = interruptible(Store::open(&options, access, env)).await?;
    let result = interruptible(dispatch(cli.command, &store, report)).await;
    let closed = match &result {
        Err(Failure::Interrupted) => close_after_signal(&store).await,
        Ok(()) | Err(_) => interruptible(store.close()).await,
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
        Command::Import(options) => import::run(store, report, &options).await,
        Command::Export(options) => export::run(store, report, &options).await,
        Command::Verify(options) => verify::run(store, report, &options).await,
        Command::Stats(options) => stats::stats(store, report, &options).await,
        Command::Recover => stats::recover(store, report).await,
        Command::DemoChild(options) => demo::child::run(store, report, &options).await,
        Command::Demo(_) => Err(Failure::Failed("the demo opens its own store".to_owned())),
    }
}

/// What the work gives, unless a signal to stop comes first: the work is then dropped, which cancels what it has under way.
async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        result = work => result,
        () = stop_signal() => Err(Failure::Interrupted),
    }
}

async fn close_after_signal(store: &Store) -> Result<(), Failure> {
    let close = store.env.deadline(CLOSE_AFTER_SIGNAL, store.close());
    match interruptible(async { Ok(close.await) }).await? {
        Some(closed) => closed,
        None => Err(Failure::Failed("the store did not close in time; the next open settles it".to_owned())),
    }
}

/// Resolves at Ctrl-C or a request to terminate.
async fn stop_signal() {
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    drop(tokio::signal::ctrl_c().await);
}
