//! The state directory: the last good snapshot and what else has to outlive the daemon.
//!
//! A file is there whole or not at all: it is written beside its place, synchronised, and renamed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{MAX_BYTES, Snapshot, parse, write};

/// Where the state is when nobody says.
pub const DEFAULT_STATE: &str = "/var/lib/breakout365";
/// The newest accepted snapshot, canonical, with a seal.
const LAST_GOOD: &str = "last-good.json";
/// The one before.
const PREVIOUS: &str = "previous.json";
const CLIENT_ID: &str = "client-request-id";
/// The seal stands first in the object, so that the rest can be hashed as it is.
const SEAL: (&str, &str) = ("{\n  \"seal\": \"", "\",\n");

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// Why the state directory does not do.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct StoreError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot {0}: {1}")]
    Io(&'static str, io::Error),
    #[error(
        "can be written to by others than its owner; `chmod go-w` it, or use another directory"
    )]
    Open,
    #[error("is not what was written there ({0}); remove it")]
    Json(serde_json::Error),
}

/// This machine's id towards the web service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientId {
    /// A random UUID, version 4.
    pub id: Uuid,
    /// What was wrong with the file that had to be replaced, for the log.
    pub replaced: Option<String>,
}

/// The newest snapshot on disk that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastGood {
    /// The snapshot, if there is a whole one.
    pub snapshot: Option<Snapshot>,
    /// What was passed over, each as a line for the log that names the file.
    pub skipped: Vec<String>,
}

impl Store {
    /// Opens `directory`, and makes it, with mode 0700, where it is missing.
    ///
    /// # Errors
    ///
    /// It cannot be made or looked at, or others than its owner may write to it: whoever can
    /// plant a snapshot decides what is not inspected.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |what| move |error| StoreError::io(directory, what, error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("be created"))?;
        let mode = fs::metadata(directory).map_err(failed("be looked at"))?.mode();
        if mode & 0o022 != 0 {
            return Err(StoreError { path: directory.to_owned(), problem: Problem::Open });
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Looks into `directory` as it is: nothing is made, and what is not there or may not be read
    /// is skipped. For those who only ask.
    #[must_use]
    pub fn peek(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// This machine's id, made at the first call ever and kept. A damaged one is replaced.
    ///
    /// # Errors
    ///
    /// It cannot be read or written.
    pub fn client_id(&self) -> Result<ClientId, StoreError> {
        let path = self.directory.join(CLIENT_ID);
        let replaced = match self.read(CLIENT_ID)? {
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                match text.trim_end().parse::<Uuid>() {
                    Ok(id) if id.get_version_num() == 4 => {
                        return Ok(ClientId { id, replaced: None });
                    }
                    _ => Some(format!("{}: held no random UUID; made a new one", path.display())),
                }
            }
            None => None,
        };
        let id = Uuid::new_v4();
        self.write(CLIENT_ID, format!("{id}\n").as_bytes())?;
        Ok(ClientId { id, replaced })
    }

    /// Keeps `snapshot` as the last good one; the one so far becomes the previous one. Nothing
    /// changes if it is the same. Stopped at any point, it leaves a last good snapshot.
    ///
    /// # Errors
    ///
    /// Something cannot be read or written.
    pub fn accept(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        match self.sealed(LAST_GOOD)? {
            Some(Ok(old)) if old == *snapshot => return Ok(()),
            Some(Ok(old)) => self.write(PREVIOUS, &self.seal(&old)?)?,
            // What is damaged takes no whole snapshot's place.
            Some(Err(_)) | None => {}
        }
        self.write(LAST_GOOD, &self.seal(snapshot)?)
    }

    /// The newest whole snapshot: the last good one, or else the one before. Damaged and
    /// unreadable files are skipped and named.
    #[must_use]
    pub fn last_good(&self) -> LastGood {
        self.newest(&[LAST_GOOD, PREVIOUS])
    }

    /// The snapshot accepted before the last good one.
    #[must_use]
    pub fn previous(&self) -> LastGood {
        self.newest(&[PREVIOUS])
    }

    /// Writes `value` as JSON to the file `name`.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| self.json(name, error))?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    /// Reads what [`Store::write_json`] wrote to the file `name`; `None` without a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not such JSON.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| self.json(name, error))
    }

    /// Renames the file `name`, which is damaged, so that nothing is written over it; gives its path. One
    /// that was set aside before goes.
    ///
    /// # Errors
    ///
    /// It cannot be renamed.
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, StoreError> {
        let (path, aside) =
            (self.directory.join(name), self.directory.join(format!("{name}.damaged")));
        fs::rename(&path, &aside).map_err(|error| StoreError::io(&path, "be renamed", error))?;
        Ok(aside)
    }

    fn newest(&self, names: &[&str]) -> LastGood {
        let mut found = LastGood::default();
        for name in names {
            match self.sealed(name) {
                Ok(Some(Ok(snapshot))) => {
                    found.snapshot = Some(snapshot);
                    break;
                }
                Ok(Some(Err(damage))) => found.skipped.push(damage),
                Ok(None) => {}
                Err(error) => found.skipped.push(format!("{error}; skipped")),
            }
        }
        found
    }

    /// The snapshot in the file `name`, or what is wrong with it.
    fn sealed(&self, name: &str) -> Result<Option<Result<Snapshot, String>>, StoreError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let origin = self.directory.join(name).display().to_string();
        Ok(Some(match unsealed(&bytes) {
            Some(text) => parse(&text, &origin).map_err(|error| format!("{error}; skipped")),
            None => {
                Err(format!("{origin}: is damaged: its seal is not that of its content; skipped"))
            }
        }))
    }

    fn seal(&self, snapshot: &Snapshot) -> Result<Vec<u8>, StoreError> {
        let text = write(snapshot).map_err(|error| self.json(LAST_GOOD, error))?;
        let content = text.strip_prefix("{\n").unwrap_or(&text);
        Ok(format!("{}{}{}{content}", SEAL.0, hash(content.as_bytes()), SEAL.1).into_bytes())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.directory.join(name);
        // A snapshot is refused if it is longer; no other file comes near.
        let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io(&path, "be read", error)),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        replace(&path, bytes).map_err(|error| StoreError::io(&path, "be written", error))
    }

    fn json(&self, name: &str, error: serde_json::Error) -> StoreError {
        StoreError { path: self.directory.join(name), problem: Problem::Json(error) }
    }
}

impl StoreError {
    fn io(path: &Path, what: &'static str, error: io::Error) -> Self {
        Self { path: path.to_owned(), problem: Problem::Io(what, error) }
    }
}

/// Puts `bytes` in the place of the file `path`: readers, and a machine that loses power, see the
/// old content or the new. Mode 0600.
///
/// # Errors
///
/// The directory cannot be written to. The old content stays.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let beside = path.with_file_name(beside);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// The canonical text below a right seal. The envelope's own digest covers the sets alone, and a
/// wrong version would keep the next one from being fetched.
fn unsealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let rest = bytes.strip_prefix(SEAL.0.as_bytes())?;
    let (seal, rest) = rest.split_at_checked(64)?;
    let content = rest.strip_prefix(SEAL.1.as_bytes())?;
    (seal == hash(content).as_bytes()).then(|| [b"{\n", content].concat())
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
