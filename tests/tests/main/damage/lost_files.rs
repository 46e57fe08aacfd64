//! Salvage of a store with table files, blob files, journals or manifests that fjall cannot open:
//! everything else is copied.

use cenotaph_storage::index::{Batch, Table};

use super::*;

mod case;

use case::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_end_of_a_table_file_loses_nothing() {
    let case = Case::new().await;
    for (section, percent) in [
        ("trailer", 20),
        ("toc", 50),
        ("meta", 5),
        ("meta", 60),
        ("tli", 5),
        ("tli", 60),
        ("filter", 50),
    ] {
        let name = format!("{section} {percent}");
        let flip = |old: &Path| {
            for number in [1, 2, SESSIONS] {
                flip_in(&newest(old, number, "tables"), section, percent);
            }
        };
        case.loses_nothing(&name, flip).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_block_and_index_restore_no_older_version() {
    let case = Case::new().await;
    for (percent, section, bounded) in [
        (0, "tli", true),
        (40, "tli", true),
        (99, "tli", true),
        (40, "toc", true),
        (40, "meta", true),
        (40, "filter", true),
        (0, "meta", false),
        (99, "trailer", true),
    ] {
        let salvaged = case
            .salvage(|old| {
                flip_in(&newest(old, 1, "tables"), "data", percent);
                flip_in(&newest(old, 1, "tables"), section, 60);
            })
            .await;
        let Salvaged {
            report,
            lost,
            older,
            uploads,
        } = &salvaged;
        let name = format!("{percent} {section}: {salvaged:?}");
        assert!(!report.is_complete() && *uploads == UPLOADS, "{name}");
        assert_eq!(report.lost_tables.is_empty(), bounded, "{name}");
        if bounded {
            assert_eq!((report.unreadable, older.len()), (1, 0), "{name}");
            assert!(
                lost.iter().all(|&number| is_within(report, number)),
                "{name}"
            );
        } else {
            assert!(report.lost_tables[0].why.contains("keys before"), "{name}");
        }
        assert!((1..40).contains(&(lost.len() + older.len())), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_block_of_uploads_is_reported() {
    let case = Case::new().await;
    let damage = |old: &Path| {
        flip_in(&newest(old, SESSIONS, "tables"), "data", 20);
        flip_in(&newest(old, SESSIONS, "tables"), "tli", 50);
    };
    let Salvaged {
        report,
        lost,
        older,
        uploads,
    } = case.salvage(damage).await;
    assert_eq!(
        (
            lost.len(),
            older.len(),
            report.unreadable,
            report.lost_tables.len()
        ),
        (0, 0, 1, 0),
        "{report:?}"
    );
    assert_eq!(report.unreadable_ranges[0].table, "sessions");
    assert!((1..UPLOADS).contains(&uploads), "{uploads}");
}

/// Adds an orphan to the index.
fn add_orphan(data: &Path) {
    let index = FjallIndex::open(
        &data.join("index"),
        Env::real().unwrap(),
        FjallOptions::default(),
    )
    .unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Orphans, vec![7; 16], vec![7]);
    let (sender, receiver) = std::sync::mpsc::channel();
    index.submit(
        batch,
        Box::new(move |outcome| sender.send(outcome.is_ok()).unwrap()),
    );
    assert!(receiver.recv().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_table_file_is_reported_and_holds_orphans_back() {
    let case = Case::new().await;
    for overwritten in [false, true] {
        let lose = |old: &Path| {
            add_orphan(old);
            let file = newest(old, 1, "tables");
            if overwritten {
                std::fs::write(file, [7; 30_000])
            } else {
                std::fs::remove_file(file)
            }
            .unwrap();
        };
        let Salvaged {
            report,
            lost,
            older,
            uploads,
        } = case.salvage(lose).await;
        let [table] = &report.lost_tables[..] else {
            panic!("{report:?}")
        };
        assert!(
            table.table == "rows" && table.file.contains("keyspaces/1/tables/"),
            "{table:?}"
        );
        assert_eq!(
            (lost.len() as u64, uploads),
            (report.without_payload, UPLOADS),
            "{report:?}"
        );
        assert!(
            !report.is_complete()
                && !older.is_empty()
                && older.iter().all(|number| number.is_multiple_of(2)),
            "{older:?}"
        );
        assert_eq!(
            (report.orphans, report.changes, report.held_back),
            (0, 0, 1),
            "{report:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_blob_file_loses_only_its_payloads() {
    let case = Case::unlogged().await;
    let file = |old: &Path| newest(old, 2, "blobs");
    for (section, percent) in [("trailer", 20), ("toc", 50), ("meta", 2), ("meta", 60)] {
        case.loses_nothing(section, |old| flip_in(&file(old), section, percent))
            .await;
    }
    let Salvaged {
        report,
        lost,
        older,
        uploads,
    } = case
        .salvage(|old| std::fs::remove_file(file(old)).unwrap())
        .await;
    assert_eq!(
        (older.len(), uploads, report.rows),
        (0, UPLOADS, KEYS),
        "{report:?}"
    );
    assert!(
        !lost.is_empty() && lost.iter().all(|number| number % 3 == 2),
        "{lost:?}"
    );
    let named: Vec<_> = report
        .objects_without_payload
        .iter()
        .map(|object| object.key.clone())
        .collect();
    assert_eq!(named, lost.into_iter().map(key).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_pointer_is_repaired_and_no_manifest_is_guessed() {
    let case = Case::new().await;
    for at in [0, 9, 24] {
        case.loses_nothing("pointer", |old| {
            flip_at(&keyspace(old, 1).join("current"), at)
        })
        .await;
    }
    case.loses_nothing("no pointer", |old| {
        std::fs::remove_file(keyspace(old, 2).join("current")).unwrap()
    })
    .await;
    let manifest = |old: &Path| {
        let version = std::fs::read(keyspace(old, 1).join("current")).unwrap()[0];
        keyspace(old, 1).join(format!("v{version}"))
    };
    let (at, length) = sections(&manifest(&case.intact))["tables"];
    let mut refused = 0;
    for at in (at..at + length).step_by(13) {
        match case.try_salvage(|old| flip_at(&manifest(old), at)).await {
            Ok(salvaged) => assert!(
                salvaged.report.is_complete() && salvaged.older.is_empty(),
                "{at}: {salvaged:?}"
            ),
            Err(error) => {
                let wrong = format!(
                    "file={}",
                    manifest(&case.directory.path().join("old")).display()
                );
                assert!(
                    error.kind() == ErrorKind::Corrupt && error.to_string().contains(&wrong),
                    "{error:?}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspace_with_names_is_rebuilt() {
    let case = Case::new().await;
    case.loses_nothing("pointer", |old| {
        flip_at(&keyspace(old, 0).join("current"), 3)
    })
    .await;
    case.loses_nothing("table", |old| {
        flip_in(&newest(old, 0, "tables"), "data", 50)
    })
    .await;
    case.loses_nothing("no table", |old| {
        std::fs::remove_dir_all(keyspace(old, 0).join("tables")).unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_without_journals_is_salvaged_from_tables() {
    let case = Case::new().await;
    let salvaged = case
        .salvage(|old| {
            journals(old)
                .iter()
                .for_each(|journal| std::fs::remove_file(journal).unwrap())
        })
        .await;
    assert!(
        salvaged.report.journal_damaged && !salvaged.report.is_complete(),
        "{salvaged:?}"
    );
    assert_eq!(
        (salvaged.lost.len(), salvaged.older.len(), salvaged.uploads),
        (0, 0, UPLOADS),
        "{salvaged:?}"
    );
}
