//! Running a victim, and killing it with SIGKILL at a moment that chance has chosen.
//!
//! A victim that ends by itself, falls silent or complains fails the test, with what it has
//! complained of. Deliberately not here: what a victim does (`load.rs`).

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::load::Orders;
use super::log::Line;

/// How long a victim may be silent. It never is when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// When to kill.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    /// This long after it has begun to open its engine, wherever that takes it.
    SinceOpening(Duration),
    /// This long after so many acknowledgements.
    SinceAcks(usize, Duration),
}

/// How a test runs itself again.
#[derive(Clone, Copy)]
pub(super) struct Again {
    /// The name of the test.
    pub(super) test: &'static str,
    /// The variable that holds a victim's orders.
    pub(super) orders: &'static str,
}

/// A process that does not outlive this.
struct Victim {
    child: Child,
    complaints: PathBuf,
}

/// Runs a victim until that moment and kills it; all that it has said.
pub(super) fn run_and_kill(again: Again, orders: &Orders, moment: Moment) -> Vec<Line> {
    let (mut victim, stdout) = Victim::start(again, orders);
    // The scope owns the victim: if the test fails, it dies before its listener is waited for.
    std::thread::scope(move |scope| {
        let (sender, lines) = mpsc::channel();
        scope.spawn(move || listen(stdout, &sender));
        let mut heard = Vec::new();
        while !moment.has_come(&heard) {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => heard.push(line),
                Err(error) => victim.fail(&format!("{error}, before {moment:?}; heard {heard:?}")),
            }
        }
        moment.linger();
        victim.kill();
        // What was written before it died counts.
        heard.extend(lines);
        heard
    })
}

fn listen(stdout: ChildStdout, sender: &mpsc::Sender<Line>) {
    for line in BufReader::new(stdout).lines() {
        if let Some(line) = Line::heard(&line.unwrap())
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
            self.fail(&format!("did not go quietly: {status}"));
        }
    }

    fn fail(&self, why: &str) -> ! {
        let complaints = fs::read_to_string(&self.complaints).unwrap_or_default();
        panic!("the victim {why}. It complains of: {complaints}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moment {
    fn has_come(&self, heard: &[Line]) -> bool {
        match self {
            Self::SinceOpening(_) => heard.contains(&Line::Opening),
            Self::SinceAcks(acks, _) => {
                heard
                    .iter()
                    .filter(|line| matches!(line, Line::Ack { .. }))
                    .count()
                    >= *acks
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the moment of a kill is chance: nothing is waited for"
    )]
    fn linger(&self) {
        let (Self::SinceOpening(delay) | Self::SinceAcks(_, delay)) = self;
        std::thread::sleep(*delay);
    }
}
