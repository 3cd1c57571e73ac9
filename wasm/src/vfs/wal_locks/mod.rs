//! Locks on the WAL index that outlive their statement for a moment, so that the next one needs no host call.
//!
//! Readers' marks are the business of `marks.rs`, the writer's lock that of `writer.rs`. Both end before the guest
//! sleeps, and are not renewed after `LONGEST`. To others each looks like one longer statement. SQLite itself
//! looks at the index each time. <https://sqlite.org/walformat.html#locks>

mod marks;
#[cfg(test)]
mod tests;
mod writer;

use core::ffi::c_int;
use std::time::Instant;

use super::lease::LONGEST;
use crate::host::{self, Code, Fd};
use marks::Marks;
use writer::Writer;

// SQLITE_SHM_*: <https://sqlite.org/c3ref/c_shm_exclusive.html>
const UNLOCK: c_int = 1;
const LOCK: c_int = 2;
const SHARED: c_int = 4;
const EXCLUSIVE: c_int = 8;
const BUSY: Code = 5;

const WRITER: c_int = 0;
const CHECKPOINT: c_int = 1;
/// The lock on mark 0, which stands for "nothing but the database"; those on the others follow.
const FIRST_MARK: c_int = 3;

/// What SQLite asks of `xShmLock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub first: c_int,
    pub count: c_int,
    pub flags: c_int,
}

impl Wish {
    fn one(first: c_int, flags: c_int) -> Self {
        Self {
            first,
            count: 1,
            flags,
        }
    }

    fn touches(self, lock: c_int) -> bool {
        (self.first..self.first + self.count).contains(&lock)
    }

    fn touches_marks(self) -> bool {
        self.first + self.count > FIRST_MARK
    }
}

/// Whoever really holds the locks, and the time.
pub trait Keeper {
    fn ask(&mut self, fd: Fd, wish: Wish) -> Result<(), Code>;
    /// Whether no other connection uses this WAL index.
    fn is_alone(&mut self, fd: Fd) -> bool;
    /// How many frames the WAL has.
    fn frames(&self) -> u32;
    fn now(&self) -> Instant;
}

/// What this guest keeps: of several attached databases the locks on one.
#[derive(Default)]
pub struct WalLocks {
    marks: Marks,
    writer: Writer,
    /// The database whose checkpoint is running.
    checkpointed: Option<Fd>,
}

impl WalLocks {
    pub const fn new() -> Self {
        Self {
            marks: Marks::new(),
            writer: Writer::new(),
            checkpointed: None,
        }
    }

    /// Does what SQLite wishes for the index of database `fd`.
    pub fn lock(&mut self, fd: Fd, wish: Wish, keeper: &mut impl Keeper) -> Result<(), Code> {
        const TAKE_SHARED: c_int = SHARED | LOCK;
        const DROP_SHARED: c_int = SHARED | UNLOCK;
        const TAKE: c_int = EXCLUSIVE | LOCK;
        let is_mark = wish.first >= FIRST_MARK && wish.count == 1;
        let is_writer = wish.first == WRITER && wish.count == 1;
        if wish.flags & LOCK != 0 && (is_mark || is_writer) && self.writer.renew(fd, keeper) {
            self.marks.renew(fd, keeper);
        }
        match wish.flags {
            TAKE_SHARED if is_mark => self.marks.share(fd, wish, keeper),
            DROP_SHARED if is_mark && self.marks.keep(fd, wish.first) => Ok(()),
            TAKE if is_writer => self.writer.take(fd, keeper),
            TAKE if is_mark && self.marks_seem_busy(fd, wish.first, keeper) => Err(BUSY),
            TAKE => self.take_others(fd, wish, keeper),
            DROP_SHARED | TAKE_SHARED => keeper.ask(fd, wish),
            _ if is_writer && self.writer.keep(fd) => Ok(()),
            _ => {
                if wish.touches(CHECKPOINT) {
                    self.checkpointed = None;
                }
                keeper.ask(fd, wish)
            }
        }
    }

    /// SQLite wants to move a mark: not necessary for a reader. A checkpoint does it to see what is in use.
    fn marks_seem_busy(&self, fd: Fd, lock: c_int, keeper: &impl Keeper) -> bool {
        lock > FIRST_MARK && self.checkpointed != Some(fd) && self.marks.lends(fd, keeper)
    }

    fn take_others(&mut self, fd: Fd, wish: Wish, keeper: &mut impl Keeper) -> Result<(), Code> {
        if wish.touches(WRITER) {
            self.writer.end(keeper);
        }
        if wish.touches_marks() {
            self.marks.clear(fd, keeper)?;
        }
        keeper.ask(fd, wish)?;
        if wish.touches(CHECKPOINT) {
            self.checkpointed = Some(fd);
        }
        Ok(())
    }

    /// While SQLite holds the writer's lock on the index of `fd`: a number that changes whenever it has been
    /// anybody else's meanwhile.
    pub fn writer_epoch(&self, fd: Fd) -> Option<u64> {
        self.writer.epoch(fd)
    }

    /// Gives back what no statement uses.
    pub fn give_back(&mut self, keeper: &mut impl Keeper) {
        self.marks.end(keeper);
        self.writer.end(keeper);
    }

    /// Gives back what no statement uses and whose time is over.
    pub fn give_back_old(&mut self, keeper: &mut impl Keeper) {
        let now = keeper.now();
        if self.marks.are_over(now) {
            self.marks.end(keeper);
        }
        if self.writer.is_over(now) {
            self.writer.end(keeper);
        }
    }

    /// The size of the database, as `ask` told it once while SQLite reads nothing but the database.
    pub fn size<E>(&mut self, fd: Fd, ask: impl FnOnce() -> Result<i64, E>) -> Result<i64, E> {
        self.marks.size(fd, ask)
    }

    /// The database is about to be changed by ourselves.
    pub fn forget_size(&mut self, fd: Fd) {
        self.marks.forget_size(fd);
    }
}

fn is_over(taken: Instant, now: Instant) -> bool {
    now.saturating_duration_since(taken) >= LONGEST
}

fn give_back(keeper: &mut impl Keeper, fd: Fd, wish: Wish) {
    if let Err(code) = keeper.ask(fd, wish) {
        host::log(format!("a lock on a WAL index was not given back: code {code}").as_bytes());
    }
}
