//! The journal: what became of every change, one line of JSON each, never longer than two files.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::libc;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::feed::FeedIdentity;
use crate::rfc3339::seconds;

const FILE: &str = "journal.jsonl";
const OLDER: &str = "journal.1.jsonl";
/// Where the file is turned over, in bytes: some thousand changes. With the older one there are
/// at most twice as many and one line.
const LONGEST: u64 = 2 << 20;

/// What made a change come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// The daemon started.
    Start,
    /// The configuration was read again.
    Reload,
    /// The feed has another version.
    Feed,
    /// An addition that was held has become effective.
    Effective,
    /// A plan was accepted by a person.
    Accept,
    /// A plan was rejected by a person.
    Reject,
    /// `apply`, with or without confirmation.
    Apply,
    /// `confirm`.
    Confirm,
    /// `rollback`.
    Rollback,
    /// Nobody confirmed in time.
    Unconfirmed,
    /// An interface came, or came back.
    Interface,
    /// The feed is too old, or no longer.
    Stale,
    /// A person switched direct egress off.
    Off,
    /// A person switched direct egress on.
    On,
    /// A person opened a support window.
    SupportStart,
    /// A person stopped a support window.
    SupportStop,
    /// The time of a support window is over.
    SupportEnd,
    /// A person ended direct flows.
    Revoke,
    /// A family of the uplink failed, or works again.
    Uplink,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A generation serves.
    Published,
    /// Guards hold the plan.
    Held,
    /// A person rejected the plan.
    Rejected,
    /// A person confirmed what was applied.
    Confirmed,
    /// Something failed, and what was before stays.
    Failed,
    /// The kill switch is as it was to be; what is loaded stays loaded.
    Switched,
    /// A support window is open.
    Opened,
    /// A support window is over.
    Closed,
    /// Direct flows were ended.
    Revoked,
    /// New flows of this family do not go direct.
    Down,
    /// They do again.
    Up,
}

/// As in JSON.
impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// As in JSON.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, RFC 3339, UTC.
    pub time: String,
    /// What made it come about.
    pub trigger: Trigger,
    /// What became of it.
    pub outcome: Outcome,
    /// The generation that serves afterwards.
    pub generation: Option<u64>,
    /// The feed before.
    pub feed_before: Option<FeedIdentity>,
    /// The feed that was to serve.
    pub feed: Option<FeedIdentity>,
    /// [`crate::policy::Table::digest`] of the table that was to serve.
    pub table: Option<String>,
    /// Its IPv4 prefixes.
    pub prefixes_v4: Option<u64>,
    /// Its IPv6 prefixes.
    pub prefixes_v6: Option<u64>,
    /// The plan in one line.
    pub summary: Option<String>,
    /// The guards that hold it, by name.
    pub guards: Vec<String>,
    /// Why it failed, or is held.
    pub problem: Option<String>,
    /// The support window that it is about, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
}

impl Entry {
    /// A change at `time`, after which `generation` serves, and nothing else said of it.
    #[must_use]
    pub fn new(
        time: Timestamp,
        trigger: Trigger,
        outcome: Outcome,
        generation: Option<u64>,
    ) -> Self {
        Self {
            time: seconds(time),
            trigger,
            outcome,
            generation,
            feed_before: None,
            feed: None,
            table: None,
            prefixes_v4: None,
            prefixes_v6: None,
            summary: None,
            guards: Vec::new(),
            problem: None,
            window: None,
        }
    }

    /// The kill switch was thrown at `time`, over `generation`.
    #[must_use]
    pub fn switched(time: Timestamp, on: bool, generation: Option<u64>) -> Self {
        let trigger = if on { Trigger::On } else { Trigger::Off };
        Self::new(time, trigger, Outcome::Switched, generation)
    }
}

/// The journal of one state directory.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journal in `directory`, whether there is one yet or not.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Adds a line. By root, the file is given to the owner of its directory: the daemon is to write on.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or is a link: it would be one of somebody else.
    pub fn append(&self, entry: &Entry) -> io::Result<()> {
        let path = self.directory.join(FILE);
        if fs::metadata(&path).is_ok_and(|file| file.len() >= LONGEST) {
            fs::rename(&path, self.directory.join(OLDER))?;
        }
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        let (opened, owner) = (file.metadata()?, fs::metadata(&self.directory)?);
        if !opened.is_file() || opened.nlink() != 1 {
            return Err(io::Error::other(format!("{}: not a file of its own", path.display())));
        }
        let is_owners = (opened.uid(), opened.gid()) == (owner.uid(), owner.gid());
        if !is_owners && geteuid().is_root() {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        // A line that a crash cut short must not swallow this one.
        if !ends_with_line(&path)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Every line that can be read, oldest first, and how many cannot.
    ///
    /// # Errors
    ///
    /// A file is there and cannot be read.
    pub fn read(&self) -> io::Result<(Vec<Entry>, usize)> {
        let (mut entries, mut damaged) = (Vec::new(), 0_usize);
        for name in [OLDER, FILE] {
            let file = match File::open(self.directory.join(name)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).split(b'\n') {
                let line = line?;
                match serde_json::from_slice(&line) {
                    Ok(entry) => entries.push(entry),
                    Err(_) if line.is_empty() => {}
                    Err(_) => damaged = damaged.saturating_add(1),
                }
            }
        }
        Ok((entries, damaged))
    }
}

fn ends_with_line(path: &Path) -> io::Result<bool> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry {
            guards: vec!["table_growth".to_owned()],
            ..Entry::new(Timestamp::UNIX_EPOCH, Trigger::Feed, Outcome::Published, Some(number))
        }
    }

    #[test]
    fn what_is_appended_is_read_back_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path());
        assert_eq!(journal.read().unwrap(), (vec![], 0));
        for number in 1..=3 {
            journal.append(&entry(number)).unwrap();
        }
        assert_eq!(journal.read().unwrap(), ((1..=3).map(entry).collect(), 0));
    }

    #[test]
    fn a_line_that_was_cut_short_is_counted_and_the_next_one_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path());
        journal.append(&entry(1)).unwrap();
        let path = directory.path().join(FILE);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        journal.append(&entry(2)).unwrap();
        assert_eq!(journal.read().unwrap(), (vec![entry(2)], 1));
    }

    /// Root writes, as `off` and `on` do; the directory belongs to the service.
    #[test]
    fn its_files_are_of_the_owner_of_the_directory_and_no_links() {
        if !geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(1234), Some(5678)).unwrap();
        let journal = Journal::new(directory.path());
        let long = Entry { summary: Some("x".repeat(1 << 20)), ..entry(1) };
        for _ in 0..3 {
            journal.append(&long).unwrap();
        }
        for name in [FILE, OLDER] {
            let file = fs::metadata(directory.path().join(name)).unwrap();
            assert_eq!(
                (file.uid(), file.gid(), file.mode() & 0o777),
                (1234, 5678, 0o600),
                "{name}"
            );
        }
        let (elsewhere, path) = (directory.path().join("elsewhere"), directory.path().join(FILE));
        fs::write(&elsewhere, "").unwrap();
        for link in [std::os::unix::fs::symlink::<&Path, &Path>, |from, to| fs::hard_link(from, to)]
        {
            fs::remove_file(&path).unwrap();
            link(&elsewhere, &path).unwrap();
            journal.append(&entry(2)).unwrap_err();
            assert_eq!(fs::metadata(&elsewhere).unwrap().len(), 0);
            assert_eq!(fs::metadata(&elsewhere).unwrap().uid(), 0);
        }
    }

    #[test]
    fn it_never_grows_beyond_two_files() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path());
        let long = Entry { summary: Some("x".repeat(300_000)), ..entry(1) };
        for _ in 0..40 {
            journal.append(&long).unwrap();
        }
        let sizes: Vec<u64> = fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().sum::<u64>() < 2 * (LONGEST + 400_000), "{sizes:?}");
        assert!(journal.read().unwrap().0.len() >= 7);
    }
}
