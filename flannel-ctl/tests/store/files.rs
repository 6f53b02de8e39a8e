//! Files that cannot be used.

use std::path::Path;

use flannel_ctl::store::file::FileError;
use flannel_ctl::store::server::{Error, Options, spawn};
use redb::{Database, TableDefinition};

use crate::Running;
use crate::directory;
use crate::process::{Process, store_command};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

async fn refused(data: &Path) -> FileError {
    match spawn(Options::new(([127, 0, 0, 1], 0).into(), data)).await {
        Err(Error::File(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the store took {}", data.display()),
    }
}

/// A store file with some content.
async fn filled() -> (tempfile::TempDir, std::path::PathBuf) {
    let store = Running::start().await;
    let mut client = store.client().await;
    for number in 0..50 {
        client.put(number.to_string(), "value", None).await.expect("puts");
    }
    store.handle.shutdown().await.expect("stops");
    let path = store.directory.path().join("store.redb");
    (store.directory, path)
}

#[tokio::test]
async fn a_file_that_another_process_holds_is_refused_and_left_alone() {
    let directory = directory();
    let data = directory.path().join("store.redb");
    let first = Process::store(&data, &[]);
    assert!(matches!(refused(&data).await, FileError::Held { .. }));
    let second = store_command(&data).output().expect("runs");
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("another process holds this store file"), "{text}");
    assert_eq!(first.terminate(), Some(0));
    Process::store(&data, &[]).kill();
}

#[tokio::test]
async fn a_file_of_another_layout_is_refused_by_its_number() {
    let (_directory, data) = filled().await;
    let database = Database::open(&data).expect("opens");
    let transaction = database.begin_write().expect("begins");
    transaction.open_table(META).expect("opens").insert("layout", 99).expect("inserts");
    transaction.commit().expect("commits");
    drop(database);
    assert!(matches!(refused(&data).await, FileError::Layout { found: 99, .. }));
}

#[tokio::test]
async fn what_is_not_a_store_file_is_refused_and_not_written_to() {
    let directory = directory();
    for (name, content) in [("text", b"hello".to_vec()), ("zeros", vec![0; 65_536]), ("noise", vec![0xa5; 65_536])] {
        let data = directory.path().join(name);
        std::fs::write(&data, &content).expect("writes");
        let error = refused(&data).await;
        assert!(matches!(error, FileError::Damaged { .. }), "{name}: {error}");
        assert_eq!(std::fs::read(&data).expect("reads"), content, "{name}");
    }
    // Another program's database.
    let data = directory.path().join("other");
    drop(Database::create(&data).expect("creates"));
    assert!(matches!(refused(&data).await, FileError::Damaged { .. }));
}

#[tokio::test]
async fn a_file_cut_short_is_refused() {
    let (_directory, data) = filled().await;
    let whole = std::fs::read(&data).expect("reads");
    for length in [1, 100, 4096, whole.len() / 2] {
        std::fs::write(&data, &whole[..length]).expect("writes");
        let error = refused(&data).await;
        assert!(matches!(error, FileError::Damaged { .. }), "cut to {length}: {error}");
    }
}

#[tokio::test]
async fn a_file_with_altered_content_is_refused() {
    let (_directory, data) = filled().await;
    let whole = std::fs::read(&data).expect("reads");
    let places: Vec<usize> = whole.windows(5).enumerate().filter(|(_, w)| w == b"value").map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    let mut altered = whole.clone();
    for at in places {
        altered[at] ^= 1;
    }
    std::fs::write(&data, &altered).expect("writes");
    let error = refused(&data).await;
    assert!(matches!(error, FileError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_path_that_cannot_be_made_is_named() {
    let error = refused(Path::new("/nonexistent/store.redb")).await.to_string();
    assert!(error.contains("/nonexistent/store.redb.new: making a new store file"), "{error}");
}
