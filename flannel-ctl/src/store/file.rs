//! The store's file: one redb database, each commit durable before it is answered.
//!
//! Tables: `meta` (layout version, ids, newest and compacted revision), `changes` by revision and position, `leases`.
//! A file is made complete under another name and then linked into place, so that a crash while it is being made leaves
//! either none or a whole one.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};

use super::mvcc::{Change, Damage, Effects, Saved};
use super::proto::KeyValue;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const CHANGES: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("changes");
const LEASES: TableDefinition<i64, i64> = TableDefinition::new("leases");

/// Layout of the tables above; raised by whoever changes it.
const LAYOUT: u64 = 1;
/// Everything is read once, at start; after that redb touches only what it writes.
const CACHE_BYTES: usize = 8 << 20;

/// Why a file cannot be used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: another process holds this store file; stop it, or choose another file", path.display())]
    Held { path: PathBuf },
    #[error("{}: this file has layout version {found}, this program reads {LAYOUT}; use the version that wrote it", path.display())]
    Layout { path: PathBuf, found: u64 },
    #[error("{}: not a store file, or a damaged one: {reason}; move it away, or restore a copy", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: {tried}: {answer}", path.display())]
    Failed { path: PathBuf, tried: &'static str, answer: String },
}

/// The file, held by this process alone.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    database: Database,
    /// Chosen at random when the file was made.
    pub cluster_id: u64,
    pub member_id: u64,
}

impl File {
    /// Opens the file, or makes it if there is none, and reads all of it. `fresh_ids` are for a new one.
    pub fn open(path: &Path, fresh_ids: (u64, u64)) -> Result<(Self, Saved), FileError> {
        match path.metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, fresh_ids)?,
            Err(error) => return Err(failed(path, "looking at the file")(error)),
        }
        let database = open_database(path)?;
        let mut file = Self { path: path.to_owned(), database, cluster_id: 0, member_id: 0 };
        let saved = file.load()?;
        Ok((file, saved))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes writes durable. On an error nothing of them is in the file, and the file must be opened anew.
    pub fn commit(&self, effects: &Effects, revision: i64, compacted: i64) -> Result<(), FileError> {
        self.write(effects, revision, compacted).map_err(|error| failed(&self.path, "writing to the file")(error))
    }

    /// What is wrong with the content.
    pub fn damaged(&self, damage: &Damage) -> FileError {
        damaged(&self.path)(damage)
    }

    fn write(&self, effects: &Effects, revision: i64, compacted: i64) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut changes = transaction.open_table(CHANGES)?;
            let mut buffer = Vec::new();
            for change in &effects.changes {
                // Written and compacted away within one commit.
                if effects.forgotten.contains(&(change.revision(), change.sub)) {
                    continue;
                }
                buffer.clear();
                change.kv.encode_raw(&mut buffer);
                changes.insert((change.revision().cast_unsigned(), change.sub), buffer.as_slice())?;
            }
            for &(revision, sub) in &effects.forgotten {
                changes.remove((revision.cast_unsigned(), sub))?;
            }
            let mut leases = transaction.open_table(LEASES)?;
            for (&id, ttl) in &effects.leases {
                match ttl {
                    Some(ttl) => leases.insert(id, ttl)?,
                    None => leases.remove(id)?,
                };
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert("revision", revision.cast_unsigned())?;
            meta.insert("compacted", compacted.cast_unsigned())?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn load(&mut self) -> Result<Saved, FileError> {
        let path = self.path.clone();
        let damage = damaged(&path);
        let read = self.database.begin_read().map_err(|error| damage(&error))?;
        let meta = read.open_table(META).map_err(|error| damage(&error))?;
        let number = |name: &'static str| -> Result<u64, FileError> {
            let value = meta.get(name).map_err(|error| damage(&error))?;
            value.map(|value| value.value()).ok_or_else(|| damage(&format_args!("it does not say its {name}")))
        };
        let layout = number("layout")?;
        if layout != LAYOUT {
            return Err(FileError::Layout { path: self.path.clone(), found: layout });
        }
        self.cluster_id = number("cluster")?;
        self.member_id = number("member")?;
        let mut saved = Saved {
            revision: number("revision")?.cast_signed(),
            compacted: number("compacted")?.cast_signed(),
            ..Saved::default()
        };
        let changes = read.open_table(CHANGES).map_err(|error| damage(&error))?;
        for entry in changes.iter().map_err(|error| damage(&error))? {
            let (key, value) = entry.map_err(|error| damage(&error))?;
            let (revision, sub) = key.value();
            let kv = KeyValue::decode(value.value()).map_err(|error| damage(&error))?;
            if kv.mod_revision.cast_unsigned() != revision {
                return Err(damage(&format_args!("the change at {revision}.{sub} says {}", kv.mod_revision)));
            }
            saved.changes.push(Change { sub, kv });
        }
        let leases = read.open_table(LEASES).map_err(|error| damage(&error))?;
        for entry in leases.iter().map_err(|error| damage(&error))? {
            let (id, ttl) = entry.map_err(|error| damage(&error))?;
            saved.leases.push((id.value(), ttl.value()));
        }
        Ok(saved)
    }
}

/// Makes an empty store file. Losing a race for the name is fine: the winner's file is as good.
fn make(path: &Path, (cluster, member): (u64, u64)) -> Result<(), FileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    remove_if_there(&new).map_err(|error| failed(&new, "removing what a crash left")(error))?;
    let fill = || -> Result<(), redb::Error> {
        let database = Database::builder().create(&new)?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("layout", LAYOUT)?;
            meta.insert("cluster", cluster)?;
            meta.insert("member", member)?;
            meta.insert("revision", 1)?;
            meta.insert("compacted", (-1_i64).cast_unsigned())?;
            transaction.open_table(CHANGES)?;
            transaction.open_table(LEASES)?;
        }
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|error| failed(&new, "making a new store file")(error))?;
    match std::fs::hard_link(&new, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(path, "putting the new store file in place")(error));
        }
        _ => {}
    }
    remove_if_there(&new).map_err(|error| failed(&new, "removing the second name of the new file")(error))?;
    sync_directory(path).map_err(|error| failed(path, "making the new file's name durable")(error))
}

fn open_database(path: &Path) -> Result<Database, FileError> {
    Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path).map_err(|error| {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                FileError::Held { path: path.to_owned() }
            }
            DatabaseError::Storage(StorageError::Io(error))
                if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                failed(path, "opening the file")(error)
            }
            other => damaged(path)(&other),
        }
    })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

fn damaged(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> FileError {
    let path = path.to_owned();
    move |reason| FileError::Damaged { path: path.clone(), reason: reason.to_string() }
}

fn failed<E: std::fmt::Display>(path: &Path, tried: &'static str) -> impl Fn(E) -> FileError {
    let path = path.to_owned();
    move |answer| FileError::Failed { path: path.clone(), tried, answer: answer.to_string() }
}
