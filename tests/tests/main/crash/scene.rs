//! A store that crashes again and again, and its model: [`Scene`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{Engine, Entry, Env, Index, Stats, Version};
use cenotaph_storage::blobs::{self, BlobOptions, BlobTier};
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_tests::store;
use futures::TryStreamExt;

use super::chance::Chance;
use super::load::{self, Load, Orders};
use super::log::Line;
use super::model::{Found, Model};
use super::remains;
use super::seen::Seen;
use super::victim::Moment;

/// Maximal time between an acknowledgement and a crash.
const LINGER: Duration = Duration::from_millis(20);

/// A data directory, the model of its contents, and the source of random decisions.
pub(crate) struct Scene {
    pub(crate) data: PathBuf,
    pub(crate) chance: Chance,
    model: Model,
    pub(crate) incarnations: u32,
    /// Time that the last engine took to open.
    opening: Duration,
}

impl Scene {
    pub(crate) fn new(data: PathBuf, seed: u64) -> Self {
        Self {
            data,
            chance: Chance::new(seed),
            model: Model::default(),
            incarnations: 0,
            opening: Duration::from_millis(50),
        }
    }

    /// Returns the parameters of the next victim.
    pub(crate) fn orders(&mut self, load: Load) -> Orders {
        let incarnation = self.incarnations;
        self.incarnations += 1;
        Orders {
            data: self.data.clone(),
            incarnation,
            seed: self.chance.number(),
            load,
        }
    }

    /// Chooses a moment during the opening of an engine.
    pub(crate) fn while_opening(&mut self) -> Moment {
        Moment::SinceOpening(self.up_to(self.opening))
    }

    /// Chooses a moment shortly after an acknowledgement.
    pub(crate) fn while_writing(&mut self, load: Load) -> Moment {
        let acks = match load {
            // Enough for collections.
            Load::Overwrites => self.chance.between(300, 700),
            // A random power of two as the limit, so that early moments are as frequent as late
            // ones.
            Load::Tiers | Load::Inline => {
                let scale = self.chance.below(10);
                usize::try_from(self.chance.below(1 << scale)).unwrap()
            }
        };
        Moment::SinceAcks(acks.max(1), self.up_to(LINGER))
    }

    pub(crate) fn up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.chance.below(u64::try_from(limit.as_micros()).unwrap()))
    }

    /// Applies the lines of a victim to the model. `again` if it followed another crash without a
    /// check.
    pub(crate) fn crashed(&mut self, lines: &[Line], again: bool, seen: &mut Seen) {
        for line in lines {
            if let Line::Open { took_us } = line {
                self.opening = Duration::from_micros(*took_us);
            }
            self.model.apply(line).unwrap_or_else(|why| panic!("{why}"));
        }
        seen.add(lines, self.model.crash(), again);
    }

    /// Opens the store and checks it. In the last round every object is read.
    pub(crate) async fn examine(&mut self, last: bool, seen: &mut Seen) {
        let env = Env::real().unwrap();
        let data = &self.data;
        let index =
            FjallIndex::open(&data.join("index"), env.clone(), load::config().index).unwrap();
        let index: Arc<dyn Index> = Arc::new(index);
        let tier = BlobTier::new(
            blobs::local(&data.join("blobs")).unwrap(),
            env.clone(),
            BlobOptions::default(),
        );
        let remains = remains::inspect(&*index, &tier).await;
        seen.rounds_with_changes += u64::from(remains.changes > 0);
        seen.rounds_with_orphans += u64::from(remains.orphans > 0);
        seen.rounds_with_unnamed_blobs += u64::from(remains.unnamed_blobs > 0);
        seen.rounds_with_open_uploads += u64::from(remains.open_uploads > 0);

        let engine = Engine::builder(data)
            .config(load::config())
            .index(Arc::clone(&index))
            .open()
            .await
            .unwrap();
        let actors = engine.stats().await.unwrap().actors;
        assert_eq!(
            (actors.changes, actors.fenced),
            (0, remains.changes),
            "open settles every change"
        );
        self.judge(&engine, last, seen).await;
        if last {
            give_up_uploads(&engine).await;
        }
        store::assert_settled(&engine, &env, &*index, &tier).await;

        let Stats { actors, reads, .. } = engine.stats().await.unwrap();
        assert_eq!(
            (
                reads.missing_blobs,
                reads.corrupt_blocks,
                actors.restarts,
                actors.sweep_failures
            ),
            (0, 0, 0, 0)
        );
        seen.fenced += actors.fenced;
        seen.swept += actors.swept;
        engine.close().await.unwrap();
    }

    async fn judge(&mut self, engine: &Engine, last: bool, seen: &mut Seen) {
        let listed: Vec<_> = engine.list("").stream().try_collect().await.unwrap();
        let listed: BTreeMap<String, Version> = listed
            .into_iter()
            .map(|entry| match entry {
                Entry::Object(head) => (head.id.key().to_owned(), head.version.unwrap()),
                Entry::Prefix(prefix) => panic!("unexpected prefix in a flat listing: {prefix}"),
            })
            .collect();
        let keys: BTreeSet<String> = self
            .model
            .keys()
            .into_iter()
            .chain(listed.keys().cloned())
            .collect();
        for key in keys {
            let version = listed.get(&key).copied();
            if let Some(last) = self.model.untouched(&key).filter(|_| !last) {
                assert_eq!(
                    version,
                    last.map(|last| last.version),
                    "{key} was not written since the last check"
                );
                continue;
            }
            let found = read(engine, &key).await;
            assert_eq!(
                found.map(|found| found.version),
                version,
                "{key}: listing and read differ"
            );
            let verdict = self
                .model
                .judge(&key, found)
                .unwrap_or_else(|why| panic!("found {found:?}\n{why}"));
            seen.kept += verdict.kept;
            seen.lost += verdict.lost;
            seen.objects_read += u64::from(found.is_some());
        }
    }
}

/// Aborts all open uploads, so that rows alone name revisions.
async fn give_up_uploads(engine: &Engine) {
    let uploads: Vec<_> = engine
        .list_uploads("")
        .stream()
        .try_collect()
        .await
        .unwrap();
    for upload in uploads {
        engine
            .resume(&upload.id, upload.upload_id.to_string())
            .await
            .unwrap()
            .abort()
            .await
            .unwrap();
    }
}

/// Reads an object and asserts that its content is whole and was written by one operation.
async fn read(engine: &Engine, key: &str) -> Option<Found> {
    let object = engine.get(key).await.unwrap()?;
    let version = object.version().unwrap();
    let metadata = object.metadata().clone();
    let bytes = object.bytes().await.unwrap();
    let number = load::author(&bytes).unwrap_or_else(|| {
        panic!("content is not whole: key={key} version={version} {metadata:?}")
    });
    assert_eq!(metadata.size, bytes.len() as u64, "{key} {version}");
    assert_eq!(
        metadata.attributes.custom.get("number"),
        Some(&number.to_string()),
        "{key} {version}"
    );
    Some(Found {
        number,
        bytes: bytes.len(),
        version,
    })
}
