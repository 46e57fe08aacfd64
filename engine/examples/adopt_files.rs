//! Serves a directory of existing files through a new store: everything is readable at once, and
//! every write goes to the store.

#![expect(clippy::print_stdout, reason = "an example prints its objects")]

use cenotaph::{Engine, Entry, Error, Operator, OperatorFallback, Update};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let files = directory.path().join("files");
    std::fs::create_dir_all(files.join("notes"))?;
    std::fs::write(files.join("notes/today"), "buy milk")?;
    std::fs::write(files.join("notes/count"), "41")?;
    std::fs::write(files.join("notes/old"), "forget this")?;

    let root = opendal::services::Fs::default().root(&files.to_string_lossy());
    let fallback = OperatorFallback::new(Operator::new(root)?);
    let engine = Engine::builder(directory.path().join("store"))
        .fallback(fallback)
        .open()
        .await?;

    // Read from the file.
    let note = engine.get("notes/today").await?.expect("the file exists");
    assert_eq!((note.version(), note.metadata().size), (None, 8));
    assert_eq!(note.bytes().await?, "buy milk");
    // The function receives the content of the file, and the result goes to the store.
    engine
        .update("notes/count", |object| async {
            let count = object.expect("the file exists").bytes().await?;
            let count: u64 = String::from_utf8_lossy(&count).parse().expect("a number");
            Ok::<_, Error>(Update::put((count + 1).to_string()))
        })
        .await?;
    // Deleted for good, although the file remains.
    assert!(engine.delete("notes/old").await?.existed);
    assert!(engine.get("notes/old").await?.is_none());
    assert_eq!(std::fs::read_to_string(files.join("notes/count"))?, "41");

    for entry in engine.list("notes/").await?.entries {
        if let Entry::Object(head) = entry {
            let place = match head.version {
                Some(_) => "in the store",
                None => "in the old files",
            };
            println!("{}: {place}", head.id.key());
        }
    }
    Ok(engine.close().await?)
}
