//! Standard input and output: checks that they are open, and writes that a signal interrupts.
//!
//! ```text
//! caller ──bytes──> writer thread ──write──> reader of standard output
//!    <───── done, or interrupted by a signal
//! ```
//!
//! Invariant: no command waits for a stalled reader after a signal. The caller returns at once, and
//! the pending write ends with the process.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use cenotaph::Env;

use crate::ui::failure::Failure;

/// Standard output, written by a separate thread.
pub(crate) struct Stdout {
    channel: Mutex<Channel>,
    interrupt: Interrupt,
}

/// Handle that interrupts the pending write and all later writes.
#[derive(Clone)]
pub(crate) struct Interrupt(Sender<WaitEnd>);

/// Ends of the channels between caller and writer thread.
struct Channel {
    jobs: Sender<Bytes>,
    events: Receiver<WaitEnd>,
    is_interrupted: bool,
}

/// Event that ends the wait of a caller.
enum WaitEnd {
    /// The writer thread has finished a write.
    Done(io::Result<()>),
    /// A signal has arrived.
    Interrupted,
}

impl Stdout {
    /// Starts the writer thread. The thread ends when this value is dropped.
    ///
    /// # Errors
    /// [`Failure::Failed`] if standard output can't be duplicated or the thread can't be started.
    pub(crate) fn start(env: &Env) -> Result<Self, Failure> {
        let failed = |error| Failure::io("standard output can't be used", &error);
        let (jobs, queue) = mpsc::channel::<Bytes>();
        let (events, answers) = mpsc::channel();
        let mut output = duplicate().map_err(failed)?;
        let done = events.clone();
        let write = move || {
            for bytes in queue {
                if done.send(WaitEnd::Done(output.write_all(&bytes))).is_err() {
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

    /// Returns the handle that interrupts writes.
    pub(crate) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Writes all bytes, unless a signal arrives first.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] after a signal, [`Failure::BrokenPipe`] if the reader has closed
    /// the pipe, [`Failure::Failed`] if the write fails.
    pub(crate) fn write(&self, bytes: Bytes) -> Result<(), Failure> {
        // Held until the event arrives: with a single write at a time every `Done` belongs to the
        // caller that waits.
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        // After an interruption a late `Done` of the abandoned write may be in the channel. It must
        // not be taken for the result of another write.
        if channel.is_interrupted {
            return Err(Failure::Interrupted);
        }
        let event = channel
            .jobs
            .send(bytes)
            .ok()
            .and_then(|()| channel.events.recv().ok());
        match event {
            Some(WaitEnd::Done(Ok(()))) => Ok(()),
            Some(WaitEnd::Done(Err(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Failure::BrokenPipe)
            }
            Some(WaitEnd::Done(Err(error))) => {
                Err(Failure::io("standard output can't be written", &error))
            }
            Some(WaitEnd::Interrupted) => {
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
    /// Interrupts the pending write and all later writes.
    pub(crate) fn send(&self) {
        // Without a receiver there is no writer to interrupt.
        let _ = self.0.send(WaitEnd::Interrupted);
    }
}

/// Duplicates standard output as a file. `std::io::Stdout` is not used because it reports success
/// for a descriptor that is not open for writing.
#[cfg(unix)]
pub(crate) fn duplicate() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Duplicates standard output as a file.
#[cfg(windows)]
pub(crate) fn duplicate() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// Returns an error if standard input is closed. A closed input would look like an empty object.
pub(crate) fn require_input() -> Result<(), Failure> {
    #[cfg(unix)]
    if unix::is_closed(&io::stdin(), rustix::fs::OFlags::WRONLY) {
        let message = "standard input is closed; to store an empty object run `put KEY /dev/null`";
        return Err(Failure::Failed(message.to_owned()));
    }
    Ok(())
}

/// Returns an error if standard output is closed. Bytes written to a closed output would be lost.
pub(crate) fn require_output() -> Result<(), Failure> {
    #[cfg(unix)]
    if unix::is_closed(&io::stdout(), rustix::fs::OFlags::RDONLY) {
        let message = "standard output is closed; to discard the bytes give `-o /dev/null`";
        return Err(Failure::Failed(message.to_owned()));
    }
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::os::fd::AsFd;

    use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, stat};

    /// Returns whether the stream is closed, or open in the wrong direction only.
    ///
    /// A caller that passes /dev/null opened for reading and writing can't be told from a closed
    /// stream. Shells open /dev/null in the needed direction only.
    pub(super) fn is_closed(stream: &impl AsFd, wrong: OFlags) -> bool {
        let Ok(flags) = fcntl_getfl(stream) else {
            return true;
        };
        // Before `main` the standard library replaces a closed stream by /dev/null, opened for
        // reading and writing.
        let direction = flags & OFlags::RWMODE;
        direction == wrong || (direction == OFlags::RDWR && is_null(stream))
    }

    /// Returns whether the stream is /dev/null.
    fn is_null(stream: &impl AsFd) -> bool {
        let (Ok(stream), Ok(null)) = (fstat(stream), stat("/dev/null")) else {
            return false;
        };
        FileType::from_raw_mode(stream.st_mode) == FileType::CharacterDevice
            && stream.st_rdev == null.st_rdev
    }
}
