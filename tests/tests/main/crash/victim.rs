//! Start of a victim, and its end by SIGKILL or a power cut at a random moment.
//!
//! A victim that ends early, prints nothing for too long or writes to standard error fails the
//! test, which then prints its standard error.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::load::Orders;
use super::log::Line;

/// Time limit without a line from the victim. It is never reached when the engine works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Moment of a kill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// This long after the victim has begun to open its engine.
    SinceOpening(Duration),
    /// This long after a number of acknowledgements.
    SinceAcks(usize, Duration),
}

/// Parameters with which a test starts itself as a victim.
#[derive(Clone, Copy)]
pub(crate) struct Again {
    /// Name of the test.
    pub(crate) test: &'static str,
    /// Environment variable for the parameters of a victim.
    pub(crate) orders: &'static str,
}

/// A process that is killed when this value is dropped.
struct Victim {
    child: Child,
    /// Its standard error. It is no file on the disk of the store, whose power may be cut.
    complaints: File,
}

/// Runs a victim, kills it at this moment, and returns all lines that it printed.
pub(crate) fn run_and_kill(again: Again, orders: &Orders, moment: Moment) -> Vec<Line> {
    run(again, orders, moment, |mut victim, lines, seen| {
        victim.kill();
        // Lines written before the kill count.
        seen.extend(lines);
    })
}

/// Runs a victim and cuts the power of its disk at this moment. Returns the lines that it printed,
/// without the acknowledgements that had not arrived before the cut.
pub(crate) fn run_and_cut(
    again: Again,
    orders: &Orders,
    moment: Moment,
    cut: impl FnOnce() + Send,
) -> Vec<Line> {
    run(again, orders, moment, |mut victim, lines, seen| {
        seen.extend(lines.try_iter());
        victim.assert_runs();
        cut();
        // It may have failed meanwhile, because its disk is gone.
        drop(victim);
        // These operations may have been durable or not, whatever their answers.
        seen.extend(
            lines
                .iter()
                .filter(|line| matches!(line, Line::Begin { .. })),
        );
    })
}

fn run(
    again: Again,
    orders: &Orders,
    moment: Moment,
    end: impl FnOnce(Victim, mpsc::Receiver<Line>, &mut Vec<Line>) + Send,
) -> Vec<Line> {
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
        end(victim, lines, &mut seen);
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
        let complaints = tempfile::tempfile().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([again.test, "--exact", "--nocapture", "--test-threads=1"])
            .env(again.orders, serde_json::to_string(orders).unwrap())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone().unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        (Self { child, complaints }, stdout)
    }

    fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            self.fail(&format!("ended by itself with {status}"));
        }
    }

    fn kill(&mut self) {
        self.assert_runs();
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        if status.code().is_some() || self.complaints.metadata().unwrap().len() > 0 {
            self.fail(&format!("unexpected end or output: {status}"));
        }
    }

    fn fail(&mut self, why: &str) -> ! {
        let mut complaints = String::new();
        self.complaints.rewind().unwrap();
        self.complaints.read_to_string(&mut complaints).unwrap();
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
