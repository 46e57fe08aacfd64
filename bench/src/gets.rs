//! Warm gets of whole objects, beside reads of files.
//!
//! Cenotaph verifies its checksums at each get. A read of a file verifies nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio::runtime::Runtime;

use crate::contenders::{CenotaphStore, Contender, FjallStore, Store, write_file};
use crate::disk::Scratch;
use crate::drive::{self, Limit};
use crate::options::{Options, Workload};
use crate::payloads::{Numbers, Payloads};
use crate::results::Report;
use crate::rotated;

/// Bytes of all objects.
const TOTAL_BYTES: usize = 64 << 20;
const OBJECTS_MAX: usize = 4096;

/// A way to read an object. The functions return the number of bytes that were read.
#[derive(Clone, Copy)]
enum Reader {
    /// `std::fs::read` on the task's own thread.
    File,
    /// `std::fs::read` through `spawn_blocking`.
    FileBlocking,
    /// fjall on the task's own thread.
    Fjall,
    Cenotaph,
}

impl Reader {
    const ALL: [Self; 4] = [Self::File, Self::FileBlocking, Self::Fjall, Self::Cenotaph];

    fn name(self) -> &'static str {
        match self {
            Self::File => FILE,
            Self::FileBlocking => FILE_BLOCKING,
            Self::Fjall => "fjall",
            Self::Cenotaph => "Cenotaph",
        }
    }

    fn contender(self) -> Contender {
        match self {
            Self::File | Self::FileBlocking => Contender::Files,
            Self::Fjall => Contender::Fjall,
            Self::Cenotaph => Contender::Cenotaph,
        }
    }
}

pub(crate) const FILE: &str = "file";
pub(crate) const FILE_BLOCKING: &str = "file, spawn_blocking";

/// The same objects in each store.
struct Stores {
    objects: usize,
    files: std::path::PathBuf,
    fjall: Arc<FjallStore>,
    cenotaph: Arc<CenotaphStore>,
}

/// Measures one size by each number of tasks.
pub(crate) fn measure(
    options: &Options,
    runtime: &Runtime,
    scratch: &Scratch,
    bytes: usize,
    round: usize,
    report: &mut Report,
) {
    let stores = Arc::new(runtime.block_on(fill(scratch, bytes)));
    let limit = Limit {
        length: Duration::from_secs_f64(options.seconds / 2.0),
        ops_max: u64::MAX,
    };
    let contenders = options.contenders();
    let readers = Reader::ALL.into_iter();
    let readers: Vec<_> = readers
        .filter(|reader| contenders.contains(&reader.contender()))
        .collect();
    for &reader in &readers {
        // Warms every cache.
        runtime.block_on(async {
            for number in 0..stores.objects {
                assert_eq!(get(&stores, reader, number).await, bytes);
            }
        });
    }
    for (turn, &tasks) in options.get_tasks.iter().enumerate() {
        for reader in rotated(&readers, round + turn) {
            let stores = stores.clone();
            let read = move |number| {
                let object = Numbers::new(number).below(stores.objects);
                let read = get(&stores, reader, object);
                async move { assert_eq!(read.await, bytes) }
            };
            let sample = runtime.block_on(drive::by_tasks(tasks, limit, read));
            report.add(Workload::Gets, bytes, tasks, reader.name(), sample);
        }
    }
    let stores = Arc::into_inner(stores).expect("no get is in progress");
    runtime.block_on(stores.fjall.close());
    runtime.block_on(stores.cenotaph.close());
    scratch.clear();
}

async fn fill(scratch: &Scratch, bytes: usize) -> Stores {
    let objects = (TOTAL_BYTES / bytes).min(OBJECTS_MAX);
    let files = scratch.dir("files");
    let stores = Stores {
        objects,
        fjall: Arc::new(FjallStore::create(&scratch.dir("fjall"))),
        cenotaph: Arc::new(CenotaphStore::create(&scratch.dir("cenotaph")).await),
        files,
    };
    let payloads = Payloads::new();
    let puts = (0..objects).map(|number| {
        let payload = payloads.of(number as u64, bytes);
        let file = write_file(&path(&stores.files, number), &payload);
        drop(file);
        let in_fjall = stores.fjall.put(number.to_string(), payload.clone());
        let in_cenotaph = stores.cenotaph.put(number.to_string(), payload);
        futures::future::join(in_fjall, in_cenotaph).map(drop)
    });
    stream::iter(puts)
        .buffer_unordered(32)
        .collect::<()>()
        .await;
    stores
}

fn get(stores: &Arc<Stores>, reader: Reader, number: usize) -> BoxFuture<'static, usize> {
    let stores = stores.clone();
    let read_file = move |stores: &Stores| {
        let contents = fs::read(path(&stores.files, number)).expect("the file exists");
        std::hint::black_box(contents).len()
    };
    match reader {
        Reader::File => async move { read_file(&stores) }.boxed(),
        Reader::FileBlocking => async move {
            let read = tokio::task::spawn_blocking(move || read_file(&stores));
            read.await.expect("no read fails")
        }
        .boxed(),
        Reader::Fjall => async move { stores.fjall.get(&number.to_string()).len() }.boxed(),
        Reader::Cenotaph => async move {
            let object = stores.cenotaph.0.get(number.to_string()).await;
            let object = object.expect("no get fails").expect("the object exists");
            object.bytes().await.expect("no get fails").len()
        }
        .boxed(),
    }
}

fn path(files: &Path, number: usize) -> std::path::PathBuf {
    files.join(number.to_string())
}
