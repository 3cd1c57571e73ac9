//! Locks that SQLite has released and the host still holds, so that one call releases them all.
//!
//! A statement in autocommit mode takes and releases several locks, and each host call waits for Python's GIL. So
//! an unlock is only recorded here. Recorded unlocks are sent to the host before the statement is answered, before
//! the guest waits for anything or calls Python, and before a lock of another kind or on another database is
//! requested. Only if the next request is already in the ring do the locks stay, for at most `LONGEST`, for a
//! statement that needs the same lock. Nothing can have changed under it, because the host has held it without a
//! break.
//!
//! A host that polls for the reply takes the statement's locks itself before it sends the request (`prelock`), and
//! releases them when it takes the reply (`Unlock`): no host call at all.
//!
//! On a file only SHARED is kept. On the WAL index (<https://sqlite.org/walformat.html#locks>) single locks on
//! readers' marks are kept, and the writer's after its transaction; checkpoints and recovery unlock immediately.

#[cfg(test)]
mod tests;

use core::ffi::c_int;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use crate::abi;
use crate::host::{self, Code, Fd};
use crate::ring::Prelock;

/// How long a lock may pass from one queued statement to the next.
pub const LONGEST: Duration = Duration::from_millis(5);

// SQLITE_SHM_*: <https://sqlite.org/c3ref/c_shm_exclusive.html>
const UNLOCK: c_int = 1;
const SHARED: c_int = 4;

const WRITER: u8 = 1;
const CHECKPOINT_OR_RECOVERY: u8 = 0b110;
/// Readers' locks: the first stands for "only the database", the others for the other marks.
const MARKS: u8 = 0b1111_1000;
/// A reader that holds the first of them keeps checkpoints from changing the database.
const FIRST_MARK: u8 = 0b0000_1000;

const COMPANIONS: [(&[u8], i32); 2] = [(b"-journal", abi::FACT_JOURNAL), (b"-wal", abi::FACT_WAL)];

/// The request that SQLite makes with `xShmLock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    pub first: c_int,
    pub count: c_int,
    pub flags: c_int,
}

impl LockRequest {
    /// One bit per lock.
    fn locks(self) -> u8 {
        let bits = ((1_u32 << self.count) - 1) << self.first;
        bits as u8
    }
}

/// What the host saw when it granted SHARED on a database, or the first mark; valid until the lock is released or we
/// change the file.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub size_bytes: i64,
    /// Which of `abi::FACT_*` may exist.
    pub companions: i32,
}

impl Facts {
    /// The facts about a database in WAL mode.
    const fn with_wal(size_bytes: i64) -> Self {
        Self {
            size_bytes,
            companions: abi::FACT_JOURNAL | abi::FACT_WAL,
        }
    }
}

/// Locks on one database that the host releases when it takes the reply: `abi::LOCKS_FILE`, and locks of either kind
/// on the WAL index as bits 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlock {
    pub fd: Fd,
    pub locks: u32,
}

/// Holds the locks, and tells the time.
pub trait LockHost {
    fn share_file(&mut self, fd: Fd) -> Result<Facts, Code>;
    fn unlock_file(&mut self, fd: Fd) -> Result<(), Code>;
    /// With a shared lock on the first mark, returns the size of the database.
    fn lock_index(&mut self, fd: Fd, request: LockRequest) -> Result<Option<i64>, Code>;
    /// Releases locks of the index, one bit each.
    fn unlock_index(&mut self, fd: Fd, locks: u8) -> Result<(), Code>;
    fn now(&self) -> Instant;
}

/// The locks that a statement needs first, as far as they are known before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Needs {
    #[default]
    Nothing,
    Reads,
    Writes,
}

struct Database {
    fd: Fd,
    name: Arc<[u8]>,
    /// The host can release its locks in any thread, because that does not block.
    is_local: bool,
    facts: Option<Facts>,
    /// The lock on the file.
    file: bool,
    /// Locks on the index.
    shared: u8,
    exclusive: u8,
    /// Marks that SQLite itself holds.
    reading: u8,
    /// SQLite checkpoints or recovers the WAL.
    checkpoints: bool,
}

/// The recorded unlocks of all databases of this guest.
#[derive(Default)]
pub struct KeptLocks {
    databases: Vec<Database>,
    /// Since when locks have passed from request to request.
    since: Option<Instant>,
}

impl KeptLocks {
    pub const fn new() -> Self {
        Self {
            databases: Vec::new(),
            since: None,
        }
    }

    /// A database was opened.
    pub fn open(&mut self, fd: Fd, name: Arc<[u8]>, is_local: bool) {
        self.databases.push(Database {
            fd,
            name,
            is_local,
            facts: None,
            file: false,
            shared: 0,
            exclusive: 0,
            reading: 0,
            checkpoints: false,
        });
    }

    /// The file is about to be closed, which releases its locks.
    pub fn close(&mut self, fd: Fd) {
        self.databases.retain(|database| database.fd != fd);
    }

    /// The WAL index was released, and with it the locks that could not be released before.
    pub fn close_index(&mut self, fd: Fd) {
        if let Some(database) = self.find(fd) {
            database.shared = 0;
            database.exclusive = 0;
            database.facts = None;
        }
    }

    fn find(&mut self, fd: Fd) -> Option<&mut Database> {
        self.databases.iter_mut().find(|database| database.fd == fd)
    }

    /// SQLite requests SHARED on the file.
    pub fn share_file(&mut self, fd: Fd, host: &mut impl LockHost) -> Result<(), Code> {
        self.give_back_others(fd, host);
        let Some(database) = self.find(fd) else {
            return host.share_file(fd).map(|_| ());
        };
        if !database.file || database.facts.is_none() {
            // Without facts SQLite would have to ask for each of them.
            database.facts = Some(host.share_file(fd)?);
        }
        database.file = false;
        Ok(())
    }

    /// SQLite releases SHARED on the file; false: the host must be asked.
    pub fn unshare_file(&mut self, fd: Fd) -> bool {
        self.find(fd).map(|database| database.file = true).is_some()
    }

    /// `xShmLock`.
    pub fn index(
        &mut self,
        fd: Fd,
        request: LockRequest,
        host: &mut impl LockHost,
    ) -> Result<(), Code> {
        if request.flags & UNLOCK == 0 {
            return self.lock_index(fd, request, host);
        }
        self.unlock_index(fd, request, host);
        Ok(())
    }

    fn lock_index(
        &mut self,
        fd: Fd,
        request: LockRequest,
        host: &mut impl LockHost,
    ) -> Result<(), Code> {
        let locks = request.locks();
        if request.count == 1 && locks & CHECKPOINT_OR_RECOVERY == 0 {
            self.give_back_others(fd, host);
        } else {
            self.give_back(host);
        }
        let Some(database) = self.find(fd) else {
            return host.lock_index(fd, request).map(|_| ());
        };
        let is_shared = request.flags & SHARED != 0;
        let kept = if is_shared {
            database.shared
        } else {
            database.exclusive
        };
        if kept & locks != locks {
            // If the other kind is kept, this converts it; if refused, the kept one stays.
            let size_bytes = host.lock_index(fd, request)?;
            database.facts = size_bytes.map(Facts::with_wal).or(database.facts);
        }
        database.shared &= !locks;
        database.exclusive &= !locks;
        if is_shared {
            database.reading |= locks;
        }
        database.checkpoints |= locks & CHECKPOINT_OR_RECOVERY != 0;
        Ok(())
    }

    /// Cannot fail: if the host does not release a lock, it is sent again later.
    fn unlock_index(&mut self, fd: Fd, request: LockRequest, host: &mut impl LockHost) {
        let locks = request.locks();
        let Some(database) = self.find(fd) else {
            return;
        };
        if request.flags & SHARED != 0 {
            database.shared |= locks;
        } else {
            database.exclusive |= locks;
        }
        let waits = request.count == 1
            && !database.checkpoints
            && (locks & MARKS != 0 || locks == WRITER && database.reading != 0);
        database.reading &= !locks;
        database.checkpoints &= locks & CHECKPOINT_OR_RECOVERY == 0;
        if !waits {
            self.give_back(host);
        }
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        !self.databases.iter().any(Database::keeps)
    }

    /// Releases everything that is recorded.
    pub fn give_back(&mut self, host: &mut impl LockHost) {
        self.since = None;
        for database in &mut self.databases {
            database.give_back(host);
        }
    }

    fn give_back_others(&mut self, fd: Fd, host: &mut impl LockHost) {
        for database in &mut self.databases {
            if database.fd != fd {
                database.give_back(host);
            }
        }
    }

    /// A statement begins: releases what it does not need.
    pub fn before_statement(&mut self, needs: Needs, host: &mut impl LockHost) {
        match needs {
            Needs::Nothing => self.give_back(host),
            Needs::Reads => {
                for database in &mut self.databases {
                    database.give_back_exclusive(host);
                }
            }
            Needs::Writes => {}
        }
    }

    /// A statement ends, and the next one is already in the ring.
    pub fn between_statements(&mut self, host: &mut impl LockHost) {
        if self.is_empty() {
            self.since = None;
            return;
        }
        let now = host.now();
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= LONGEST {
            self.give_back(host);
        }
    }

    /// A statement ends, and none follows. If the host `polls` for the reply, it releases what this returns.
    pub fn after_statement(&mut self, polls: bool, host: &mut impl LockHost) -> Option<Unlock> {
        let mut keeping = self.databases.iter_mut().filter(|each| each.keeps());
        match (keeping.next(), keeping.next()) {
            (Some(only), None) if polls && only.is_local => {
                self.since = None;
                Some(only.leave())
            }
            _ => {
                self.give_back(host);
                None
            }
        }
    }

    /// The host has taken locks for the next statement; SQLite holds none on this database.
    pub fn prelock(&mut self, prelock: Prelock) {
        if let Some(database) = self.find(prelock.fd) {
            database.shared |= prelock.locks as u8;
            database.exclusive |= (prelock.locks / abi::LOCKS_EXCLUSIVE) as u8;
            if prelock.locks & abi::LOCKS_FILE != 0 {
                database.file = true;
                database.facts = Some(Facts {
                    size_bytes: prelock.size_bytes,
                    companions: prelock.companions,
                });
            } else if prelock.locks & u32::from(FIRST_MARK) != 0 {
                database.facts = Some(Facts::with_wal(prelock.size_bytes));
            }
        }
    }

    /// The facts about a database on which SQLite holds SHARED, in WAL mode with the first mark.
    pub fn facts(&mut self, fd: Fd) -> Option<Facts> {
        let database = self.find(fd)?;
        database.facts.filter(|_| !database.file)
    }

    /// The database is about to be changed by us, or from now on by others under its SHARED lock.
    pub fn forget_facts(&mut self, fd: Fd) {
        if let Some(database) = self.find(fd) {
            database.facts = None;
        }
    }

    /// Whether the file of this name is a journal or WAL that is known not to exist.
    pub fn is_missing(&self, name: &[u8]) -> bool {
        self.databases
            .iter()
            .any(|database| !database.file && database.is_missing(name))
    }
}

impl Database {
    fn keeps(&self) -> bool {
        self.file || self.shared | self.exclusive != 0
    }

    fn give_back(&mut self, host: &mut impl LockHost) {
        if self.file {
            self.facts = None;
            self.file = !done(host.unlock_file(self.fd));
        }
        let locks = self.shared | self.exclusive;
        if locks & FIRST_MARK != 0 {
            self.facts = None;
        }
        if locks != 0 && done(host.unlock_index(self.fd, locks)) {
            self.shared = 0;
            self.exclusive = 0;
        }
    }

    /// Leaves the kept locks to the host.
    fn leave(&mut self) -> Unlock {
        let file = if self.file { abi::LOCKS_FILE } else { 0 };
        let locks = file | u32::from(self.shared | self.exclusive);
        self.facts = None;
        self.file = false;
        self.shared = 0;
        self.exclusive = 0;
        Unlock { fd: self.fd, locks }
    }

    fn give_back_exclusive(&mut self, host: &mut impl LockHost) {
        if self.exclusive != 0 && done(host.unlock_index(self.fd, self.exclusive)) {
            self.exclusive = 0;
        }
    }

    fn is_missing(&self, name: &[u8]) -> bool {
        self.facts.is_some_and(|facts| {
            COMPANIONS.iter().any(|(suffix, fact)| {
                facts.companions & fact == 0 && name.strip_prefix(&*self.name) == Some(suffix)
            })
        })
    }
}

fn done(result: Result<(), Code>) -> bool {
    if let Err(code) = result {
        host::log(format!("a lock could not be released: result code {code}").as_bytes());
    }
    result.is_ok()
}
