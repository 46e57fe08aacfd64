//! Standard input and output: whether they are open, and writes that a signal ends.
//!
//! ```text
//! caller ──bytes──> writer thread ──write──> whoever reads
//!    <───── done, or interrupted by a signal
//! ```
//!
//! Guards that no command waits for a stalled reader after a signal: the caller goes on at once,
//! and the write that is under way ends with the process.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use cenotaph::Env;

use crate::failure::Failure;

/// Standard output, which a thread of its own writes.
pub(crate) struct Stdout {
    channel: Mutex<Channel>,
    interrupt: Interrupt,
}

/// Ends the write that is under way, and all later ones.
#[derive(Clone)]
pub(crate) struct Interrupt(Sender<Event>);

struct Channel {
    jobs: Sender<Bytes>,
    events: Receiver<Event>,
    is_interrupted: bool,
}

enum Event {
    Done(io::Result<()>),
    Interrupted,
}

impl Stdout {
    /// Starts the thread, which ends when this is dropped.
    pub(crate) fn start(env: &Env) -> Result<Self, Failure> {
        let failed = |error| Failure::io("standard output can't be used", &error);
        let (jobs, queue) = mpsc::channel::<Bytes>();
        let (events, answers) = mpsc::channel();
        let mut output = duplicate().map_err(failed)?;
        let done = events.clone();
        let write = move || {
            for bytes in queue {
                if done.send(Event::Done(output.write_all(&bytes))).is_err() {
                    return;
                }
            }
        };
        env.thread("stdout", write).map_err(failed)?;
        let channel = Mutex::new(Channel {
            jobs,
            events: answers,
            is_interrupted: false,
        });
        Ok(Self {
            channel,
            interrupt: Interrupt(events),
        })
    }

    /// Returns the handle that ends writes.
    pub(crate) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Writes all of it, unless a signal comes first.
    pub(crate) fn write(&self, bytes: Bytes) -> Result<(), Failure> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if channel.is_interrupted {
            return Err(Failure::Interrupted);
        }
        let event = channel
            .jobs
            .send(bytes)
            .ok()
            .and_then(|()| channel.events.recv().ok());
        match event {
            Some(Event::Done(Ok(()))) => Ok(()),
            Some(Event::Done(Err(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Failure::BrokenPipe)
            }
            Some(Event::Done(Err(error))) => {
                Err(Failure::io("standard output can't be written", &error))
            }
            Some(Event::Interrupted) => {
                channel.is_interrupted = true;
                Err(Failure::Interrupted)
            }
            None => Err(Failure::Failed(
                "standard output can't be written: its thread has ended".to_owned(),
            )),
        }
    }
}

impl Interrupt {
    /// Ends writes from now on.
    pub(crate) fn send(&self) {
        // Nobody writes any more if nobody receives.
        let _ = self.0.send(Event::Interrupted);
    }
}

/// Standard output as a file. `std::io::Stdout` takes a write to a descriptor that is not open for
/// writing as done.
#[cfg(unix)]
pub(crate) fn duplicate() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Standard output as a file.
#[cfg(windows)]
pub(crate) fn duplicate() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// Returns an error if nothing can be read from standard input because it is closed, which would
/// look like no bytes.
pub(crate) fn require_input() -> Result<(), Failure> {
    #[cfg(unix)]
    if unix::is_closed(&io::stdin(), rustix::fs::OFlags::WRONLY) {
        let message =
            "standard input is closed: an empty object is stored with `put KEY /dev/null`";
        return Err(Failure::Failed(message.to_owned()));
    }
    Ok(())
}

/// Returns an error if standard output is closed, where bytes would vanish.
pub(crate) fn require_output() -> Result<(), Failure> {
    #[cfg(unix)]
    if unix::is_closed(&io::stdout(), rustix::fs::OFlags::RDONLY) {
        let message = "standard output is closed: to read and drop the bytes give `-o /dev/null`";
        return Err(Failure::Failed(message.to_owned()));
    }
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::os::fd::AsFd;

    use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, stat};

    /// Returns whether the stream is closed, or is open in the wrong direction only.
    ///
    /// Before `main` the standard library opens /dev/null for reading and writing in place of a
    /// closed stream. A caller that passes /dev/null opened in both directions looks the same;
    /// shells open it in the one that is needed.
    pub(super) fn is_closed(stream: &impl AsFd, wrong: OFlags) -> bool {
        let Ok(flags) = fcntl_getfl(stream) else {
            return true;
        };
        let direction = flags & OFlags::RWMODE;
        direction == wrong || (direction == OFlags::RDWR && is_null(stream))
    }

    fn is_null(stream: &impl AsFd) -> bool {
        let (Ok(stream), Ok(null)) = (fstat(stream), stat("/dev/null")) else {
            return false;
        };
        FileType::from_raw_mode(stream.st_mode) == FileType::CharacterDevice
            && stream.st_rdev == null.st_rdev
    }
}
