//! The work of a child, for each flip: change a byte, open, read everything, judge.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cenotaph::{Engine, ErrorKind};
use cenotaph_tests::store::payload;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::flips::{self, Flip};
use super::made::{self, Expected};

/// Parameters of a child.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) golden: PathBuf,
    pub(super) scratch: PathBuf,
    pub(super) expected: Expected,
    pub(super) flips: Vec<Flip>,
    /// The first flip to judge.
    pub(super) from: usize,
}

/// Judgement of a flip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Judgement {
    Right,
    Error(String),
    Violation(String),
}

const MARKER: &str = "judged ";

impl Judgement {
    /// Parses a line of a child, or returns `None` if the test harness printed it.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let at = line.find(MARKER)?;
        Some(serde_json::from_str(&line[at + MARKER.len()..]).unwrap())
    }
}

/// Panics of fjall's own threads.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn panics() -> Vec<String> {
    std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs a child.
pub(super) fn run(runtime: &Runtime, orders: &Orders) {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        // Panics of fjall on our threads are caught there and become errors.
        if thread.name().is_some_and(|name| name.starts_with("fjall")) {
            PANICS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(info.to_string());
        }
    }));
    copy_afresh(&orders.golden, &orders.scratch);
    for flip in &orders.flips[orders.from..] {
        let path = orders.scratch.join(&flip.file);
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        changed[flip.at] ^= flip.with;
        fs::write(&path, changed).unwrap();
        let (judgement, opened) = runtime.block_on(judge(&orders.scratch, &orders.expected));
        let judgement = match (judgement, panics().pop()) {
            (_, Some(panic)) => Judgement::Violation(panic),
            (judgement, None) => judgement,
        };
        println!("{MARKER}{}", serde_json::to_string(&judgement).unwrap());
        if opened {
            copy_afresh(&orders.golden, &orders.scratch);
        } else {
            fs::write(&path, bytes).unwrap();
        }
    }
}

fn copy_afresh(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for file in flips::files(from, "") {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&file), target).unwrap();
    }
}

/// Errors and violations of a flip.
#[derive(Default)]
struct Found {
    errors: Vec<String>,
    wrong: Vec<String>,
}

impl Found {
    fn check(&mut self, claim: &str, right: bool) {
        if !right {
            self.wrong.push(claim.to_owned());
        }
    }

    /// Returns the value, or records the error.
    fn read<T>(&mut self, operation: &str, read: cenotaph::Result<T>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(error) => {
                if error.to_string().is_empty() || error.kind() == ErrorKind::Closed {
                    self.wrong.push(format!("{operation}: {error:?}"));
                }
                self.errors.push(format!("{operation}: {error}"));
                None
            }
        }
    }

    fn judgement(mut self) -> Judgement {
        if let Some(wrong) = self.wrong.pop() {
            return Judgement::Violation(wrong);
        }
        self.errors.pop().map_or(Judgement::Right, Judgement::Error)
    }
}

/// Opens the store and reads everything. Also returns `true` if the store could be opened.
async fn judge(dir: &Path, expected: &Expected) -> (Judgement, bool) {
    let mut found = Found::default();
    let Some(engine) = found.read("open", made::open(dir).await) else {
        return (found.judgement(), false);
    };
    objects(&engine, expected, &mut found).await;
    listings(&engine, expected, &mut found).await;
    let scrubbed = engine.scrub().await;
    if let Some(report) = found.read("scrub", scrubbed) {
        found.errors.extend(
            report
                .findings
                .iter()
                .map(|finding| format!("scrub: {finding:?}")),
        );
    }
    uploads(&engine, expected, &mut found).await;
    found.read("close", engine.close().await);
    (found.judgement(), true)
}

async fn objects(engine: &Engine, expected: &Expected, found: &mut Found) {
    for (key, (seed, bytes, head)) in &expected.objects {
        let read = engine.head(key.as_str()).await;
        if let Some(read) = found.read(&format!("head {key}"), read) {
            found.check(
                &format!("head {key}: {read:?}"),
                read.is_some_and(|read| format!("{read:?}") == *head),
            );
        }
        let read = async {
            match engine.get(key.as_str()).await? {
                Some(object) => object.bytes().await.map(Some),
                None => Ok(None),
            }
        };
        if let Some(read) = found.read(&format!("get {key}"), read.await) {
            found.check(
                &format!("get {key}: absent={}", read.is_none()),
                read == Some(payload(*seed, *bytes)),
            );
        }
    }
    let read = engine.head("gone").await;
    if let Some(read) = found.read("head gone", read) {
        found.check("a deleted object exists again", read.is_none());
    }
}

async fn listings(engine: &Engine, expected: &Expected, found: &mut Found) {
    let listed: cenotaph::Result<Vec<_>> = engine.list("").stream().try_collect().await;
    if let Some(listed) = found.read("list", listed) {
        let heads = |entry: &cenotaph::Entry| match entry {
            cenotaph::Entry::Object(head) => format!("{head:?}"),
            other @ cenotaph::Entry::Prefix(_) => format!("{other:?}"),
        };
        let listed: Vec<String> = listed.iter().map(heads).collect();
        let wanted: Vec<String> = expected
            .objects
            .values()
            .map(|(_, _, head)| head.clone())
            .collect();
        found.check(
            &format!("list: {} of {}", listed.len(), wanted.len()),
            listed == wanted,
        );
    }
    if let Some(usage) = found.read("usage", engine.usage().await) {
        // A smaller count is valid if the usage reports unreadable ranges.
        let less = format!("usage: unreadable ranges: {}", usage.unreadable_ranges);
        found
            .errors
            .extend((usage.unreadable_ranges > 0).then_some(less));
        let all = usage.objects == expected.objects.len() as u64;
        found.check(
            &format!("usage: {usage:?}"),
            all || usage.unreadable_ranges > 0,
        );
    }
}

async fn uploads(engine: &Engine, expected: &Expected, found: &mut Found) {
    let listed: cenotaph::Result<Vec<_>> = engine.list_uploads("").stream().try_collect().await;
    let Some(listed) = found.read("list uploads", listed) else {
        return;
    };
    let shown: Vec<String> = listed.iter().map(|upload| format!("{upload:?}")).collect();
    let wanted: Vec<String> = expected
        .uploads
        .values()
        .map(|(upload, _)| upload.clone())
        .collect();
    found.check(&format!("list uploads: {shown:?}"), shown == wanted);
    for upload in listed {
        let key = upload.id.key().to_owned();
        let Some((_, parts)) = expected.uploads.get(&key) else {
            continue;
        };
        let of = engine.upload(upload.id, upload.upload_id).unwrap();
        let listed: cenotaph::Result<Vec<_>> = of.parts().stream().try_collect().await;
        if let Some(listed) = found.read("parts", listed) {
            found.check(
                &format!("parts of {key}: {listed:?}"),
                format!("{listed:?}") == *parts,
            );
        }
        if found.read("complete", of.complete().await).is_none() {
            continue;
        }
        let read = async {
            engine
                .get(key.as_str())
                .await?
                .expect("the upload is completed")
                .bytes()
                .await
        };
        if let Some(read) = found.read("get upload", read.await) {
            found.check(&format!("bytes of {key}"), read == made::uploaded(&key));
        }
    }
}
