//! The state of an index directory in plain words, found without changing it.
//!
//! Reads the record, every manifest, every table and blob file in whole, the high-water mark and
//! all journals. It holds the lock of the directory for readers meanwhile, so that no engine opens
//! what is being looked at.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::check::{self, HIGH_WATER, TAILS};
use super::creation::{self, FJALL_META_KEYSPACE, unavailable};
use super::journals::{self, Scanned, Verdict};
use super::manifest::{self, Depth};
use super::mark::{self, Mark, Reading};
use crate::error::{Error, ErrorKind, Result};

mod diagnosis;

pub use diagnosis::{Condition, Diagnosis, JournalSeen, Problem, WayOut};

/// Examines the index in `dir`, and changes nothing in it. Blocks for the disk, as long as reading
/// every file takes: call it through [`Env::blocking`](crate::Env::blocking).
///
/// # Errors
/// - [`ErrorKind::Invalid`] if there is no index in the directory;
/// - [`ErrorKind::Unavailable`] if the file system fails.
///
/// Damage is no error, and neither is a store that is open: both are told by the [`Diagnosis`].
pub fn examine(dir: &Path) -> Result<Diagnosis> {
    let store = creation::store(dir);
    if !store.is_dir() {
        let message = format!("there is no index: dir={}", dir.display());
        return Err(Error::new(ErrorKind::Invalid, "doctor", message));
    }
    let mut diagnosis = Diagnosis::new(dir);
    let Some(_lock) = lock_shared(dir)? else {
        diagnosis.condition = Condition::Open;
        return Ok(diagnosis);
    };
    let database = match creation::inspect(dir) {
        Ok((database, keyspaces)) => {
            files(&database, &keyspaces, &mut diagnosis)?;
            database
        }
        Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
        Err(error) => {
            diagnosis.problems.push(of_record(&store, &error));
            creation::database(dir)
        }
    };
    journals(&store, &database, &mut diagnosis)?;
    if !diagnosis.problems.is_empty() {
        diagnosis.condition = Condition::Damaged;
    }
    Ok(diagnosis)
}

/// The lock, shared with other readers; none if an engine holds it. It is not created.
fn lock_shared(dir: &Path) -> Result<Option<Option<File>>> {
    let path = dir.join(creation::LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Some(None)),
        Err(error) => return Err(unavailable("open", &path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Some(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(unavailable("lock", &path, error)),
    }
}

fn of_record(store: &Path, error: &Error) -> Problem {
    Problem {
        file: store.to_owned(),
        at: None,
        what: error.to_string(),
        ways_out: vec![
            WayOut::restore(),
            WayOut::salvage("what belongs to a keyspace that can't be found"),
        ],
    }
}

fn files(database: &Path, keyspaces: &[(String, u64)], diagnosis: &mut Diagnosis) -> Result<()> {
    for (name, id) in keyspaces {
        let keyspace = database.join("keyspaces").join(id.to_string());
        let checked = manifest::flaws(&keyspace, Depth::Whole);
        let checked = checked.map_err(|error| unavailable("read", &keyspace, error))?;
        diagnosis.files += checked.files;
        diagnosis.bytes += checked.bytes;
        for flaw in checked.flaws {
            let lost = if *id == FJALL_META_KEYSPACE {
                "nothing: it is made anew".to_owned()
            } else if flaw.whole_keyspace {
                "nothing, if the manifest can be told without the damaged bytes; else it refuses to guess".to_owned()
            } else {
                format!(
                    "those entries of the keyspace {name} that lie in damaged blocks of this file"
                )
            };
            let ways_out = vec![WayOut::restore(), WayOut::salvage(&lost)];
            diagnosis.problems.push(Problem {
                file: flaw.path,
                at: None,
                what: flaw.what,
                ways_out,
            });
        }
    }
    Ok(())
}

fn journals(store: &Path, database: &Path, diagnosis: &mut Diagnosis) -> Result<()> {
    let mark = mark(&store.join(HIGH_WATER), diagnosis)?;
    let scanned = match journals::scan(database, mark.as_ref()) {
        Ok(scanned) => scanned,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::NotFound
            ) =>
        {
            let what = format!("the journals can't be listed: {error}");
            let ways_out = vec![WayOut::restore()];
            diagnosis.problems.push(Problem {
                file: database.to_owned(),
                at: None,
                what,
                ways_out,
            });
            return Ok(());
        }
        Err(error) => return Err(unavailable("read the journals of", database, error)),
    };
    diagnosis.journals = scanned
        .iter()
        .map(|scanned| seen(database, scanned))
        .collect();
    diagnosis.bytes += scanned
        .iter()
        .map(|scanned| scanned.journal.bytes)
        .sum::<u64>();
    diagnosis.files += scanned.len() as u64;
    let verdict = journals::judge(&scanned, mark.as_ref());
    match &verdict {
        Verdict::Sound => {}
        Verdict::Tail { .. } => {
            let way = "the next open copies these bytes to `store/tails` and cuts them off: nothing acknowledged is lost";
            diagnosis
                .notes
                .push(format!("{}; {way}", check::told(&verdict, database)));
        }
        Verdict::Damaged { .. }
        | Verdict::Missing { .. }
        | Verdict::Short { .. }
        | Verdict::Renumbered { .. } => {
            diagnosis
                .problems
                .push(of_journals(&verdict, &scanned, database));
        }
    }
    if let Ok(tails) = std::fs::read_dir(store.join(TAILS)) {
        let tails = tails.filter_map(|entry| Some(entry.ok()?.path().display().to_string()));
        diagnosis
            .notes
            .extend(tails.map(|tail| {
                format!("cut off a journal by an earlier open, and kept: file={tail}")
            }));
    }
    Ok(())
}

fn mark(path: &Path, diagnosis: &mut Diagnosis) -> Result<Option<Mark>> {
    let problem = |what: &str| Problem {
        file: path.to_owned(),
        at: None,
        what: what.to_owned(),
        ways_out: vec![WayOut {
            how: "remove the file and open the store".to_owned(),
            loses: "the check of the end of the journal; no data, if the journal is whole"
                .to_owned(),
        }],
    };
    match mark::read(path).map_err(|error| unavailable("read", path, error))? {
        Reading::Absent => {
            diagnosis.notes.push(
                "there is no high-water mark: the end of the journal can't be checked".to_owned(),
            );
            Ok(None)
        }
        Reading::Sound {
            mark,
            other_damaged,
        } => {
            if other_damaged {
                diagnosis.notes.push(
                    "a slot of the high-water mark is damaged; the other one counts".to_owned(),
                );
            }
            Ok(Some(mark))
        }
        Reading::Damaged => {
            diagnosis
                .problems
                .push(problem("the high-water mark is damaged"));
            Ok(None)
        }
        Reading::Unknown(format) => {
            diagnosis.problems.push(problem(&format!(
                "a later build wrote the high-water mark: format={format}"
            )));
            Ok(None)
        }
    }
}

fn seen(database: &Path, scanned: &Scanned) -> JournalSeen {
    let runs = &scanned.journal.runs;
    JournalSeen {
        file: journals::path(database, scanned.id),
        batches: runs.iter().map(|run| run.batches).sum(),
        bytes: runs.iter().map(|run| run.end - run.start).sum(),
        damaged: scanned
            .journal
            .gaps
            .iter()
            .map(|gap| (gap.start, gap.end))
            .collect(),
    }
}

fn of_journals(verdict: &Verdict, scanned: &[Scanned], database: &Path) -> Problem {
    let (id, at) = match *verdict {
        Verdict::Damaged { id, gap } | Verdict::Tail { id, gap } => (id, Some(gap.start)),
        Verdict::Missing { id } | Verdict::Short { id, .. } | Verdict::Renumbered { id, .. } => {
            (id, None)
        }
        Verdict::Sound => (0, None),
    };
    let behind = batches_behind(scanned, id, at.unwrap_or_default());
    let mut ways_out = vec![WayOut::restore()];
    let lost = match *verdict {
        Verdict::Damaged { gap, .. } => {
            format!("the batches in {} damaged bytes", gap.end - gap.start)
        }
        Verdict::Missing { .. } => "what was only in the missing journal".to_owned(),
        Verdict::Short { found, claimed, .. } => {
            format!(
                "the batches above number {} up to at least {claimed}",
                found.unwrap_or_default()
            )
        }
        Verdict::Renumbered { .. } | Verdict::Tail { .. } | Verdict::Sound => {
            "nothing that can be read".to_owned()
        }
    };
    ways_out.push(WayOut::salvage(&lost));
    if let Some(at) = at {
        let file = journals::path(database, id);
        ways_out.push(WayOut {
            how: format!(
                "copy the directory, then cut the journal there and give up the mark: `truncate -s {at} {}`, remove every \
                 later journal and the file `{HIGH_WATER}`",
                file.display()
            ),
            loses: format!("the damaged batches and the {behind} intact ones behind them, deletes included"),
        });
    }
    Problem {
        file: journals::path(database, id),
        at,
        what: check::told(verdict, database),
        ways_out,
    }
}

/// Number of intact batches behind a place.
fn batches_behind(scanned: &[Scanned], id: u64, at: u64) -> u64 {
    let runs = scanned
        .iter()
        .flat_map(|scanned| scanned.journal.runs.iter().map(|run| (scanned.id, run)));
    runs.filter(|(journal, run)| (*journal, run.start) > (id, at))
        .map(|(_, run)| run.batches)
        .sum()
}
