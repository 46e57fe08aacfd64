//! Start of a victim, and its end by SIGKILL at a random moment.
//!
//! A victim that ends early, prints nothing for too long or writes to standard error fails the
//! test, which then prints its standard error.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::load::Orders;
use super::log::Line;

/// Time limit without a line from the victim. It is never reached when the engine works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Moment of a kill.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    /// This long after the victim has begun to open its engine.
    SinceOpening(Duration),
    /// This long after a number of acknowledgements.
    SinceAcks(usize, Duration),
}

/// Parameters with which a test starts itself as a victim.
#[derive(Clone, Copy)]
pub(super) struct Again {
    /// Name of the test.
    pub(super) test: &'static str,
    /// Environment variable for the parameters of a victim.
    pub(super) orders: &'static str,
}

/// A process that is killed when this value is dropped.
struct Victim {
    child: Child,
    complaints: PathBuf,
}

/// Runs a victim, kills it at this moment, and returns all lines that it printed.
pub(super) fn run_and_kill(again: Again, orders: &Orders, moment: Moment) -> Vec<Line> {
    let (mut victim, stdout) = Victim::start(again, orders);
    // The closure owns the victim: if the test fails, the victim is killed before the scope joins
    // the listener, which ends only with the victim's output.
    std::thread::scope(move |scope| {
        let (sender, lines) = mpsc::channel();
        scope.spawn(move || listen(stdout, &sender));
        let mut seen = Vec::new();
        while !moment.has_come(&seen) {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => seen.push(line),
                Err(error) => victim.fail(&format!("{error}, before {moment:?}; lines: {seen:?}")),
            }
        }
        moment.linger();
        victim.kill();
        // Lines written before the kill count.
        seen.extend(lines);
        seen
    })
}

fn listen(stdout: ChildStdout, sender: &mpsc::Sender<Line>) {
    for line in BufReader::new(stdout).lines() {
        if let Some(line) = Line::parse(&line.unwrap())
            && sender.send(line).is_err()
        {
            return;
        }
    }
}

impl Victim {
    fn start(again: Again, orders: &Orders) -> (Self, ChildStdout) {
        let complaints = orders.data.with_extension("complaints");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([again.test, "--exact", "--nocapture", "--test-threads=1"])
            .env(again.orders, serde_json::to_string(orders).unwrap())
            .stdout(Stdio::piped())
            .stderr(File::create(&complaints).unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        (Self { child, complaints }, stdout)
    }

    fn kill(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            self.fail(&format!("ended by itself with {status}"));
        }
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        if status.code().is_some() || fs::metadata(&self.complaints).unwrap().len() > 0 {
            self.fail(&format!("unexpected end or output: {status}"));
        }
    }

    fn fail(&self, why: &str) -> ! {
        let complaints = fs::read_to_string(&self.complaints).unwrap_or_default();
        panic!("victim: {why}, stderr: {complaints}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moment {
    fn has_come(&self, seen: &[Line]) -> bool {
        match self {
            Self::SinceOpening(_) => seen.contains(&Line::Opening),
            Self::SinceAcks(acks, _) => {
                seen.iter()
                    .filter(|line| matches!(line, Line::Ack { .. }))
                    .count()
                    >= *acks
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the moment of the kill is random; nothing is waited for"
    )]
    fn linger(&self) {
        let (Self::SinceOpening(delay) | Self::SinceAcks(_, delay)) = self;
        std::thread::sleep(*delay);
    }
}
