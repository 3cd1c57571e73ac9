//! The lock on the mark that a reader reads up to, from the first page to the last.
//!
//! It is kept while statements follow each other closely, and it stands in for the lock on any other mark: as long
//! as mark `k` (not 0) is locked, nobody copies frames beyond it into the database and nobody starts the WAL anew,
//! so it protects every later state too, only more than needed. SQLite moves a mark that has fallen behind; it is
//! told that all marks are busy, which makes it ask for a shared lock on the best one there is, and that is lent
//! without asking the host. Once the WAL is as long as it gets before it is checkpointed, nothing is lent any
//! more: checkpoints must find the marks where the readers are.

use core::ffi::c_int;
use std::time::Instant;

use super::{FIRST_MARK, Keeper, LOCK, SHARED, UNLOCK, Wish, give_back, is_over};
use crate::host::{Code, Fd};

/// Frames in a WAL when SQLite checkpoints it by default.
pub const LONG_WAL_FRAMES: u32 = 1000;

struct Mark {
    fd: Fd,
    /// What the host has locked.
    held: c_int,
    /// What SQLite believes to be locked, while it is not idle.
    lent: c_int,
    taken: Instant,
    idle: bool,
    /// The size of the database, which cannot change while only the database is read.
    size_bytes: Option<i64>,
}

impl Mark {
    fn is_usable(&self, fd: Fd, keeper: &impl Keeper) -> bool {
        self.fd == fd && self.idle && !is_over(self.taken, keeper.now())
    }
}

/// The one mark that is kept.
#[derive(Default)]
pub struct Marks(Option<Mark>);

impl Marks {
    pub const fn new() -> Self {
        Self(None)
    }

    /// SQLite wants to read up to a mark.
    pub fn share(&mut self, fd: Fd, wish: Wish, keeper: &mut impl Keeper) -> Result<(), Code> {
        let lends = self.lends(fd, keeper);
        if let Some(mark) = &mut self.0 {
            if mark.is_usable(fd, keeper) && (lends || mark.held == wish.first) {
                mark.idle = false;
                mark.lent = wish.first;
                return Ok(());
            }
            if !mark.idle {
                return keeper.ask(fd, wish); // another database's, in use
            }
        }
        self.end(keeper);
        keeper.ask(fd, wish)?;
        self.0 = Some(Mark {
            fd,
            held: wish.first,
            lent: wish.first,
            taken: keeper.now(),
            idle: false,
            size_bytes: None,
        });
        Ok(())
    }

    /// Whether the lock that is kept may stand in for another one.
    pub fn lends(&self, fd: Fd, keeper: &impl Keeper) -> bool {
        let kept = self.0.as_ref();
        kept.is_some_and(|mark| mark.held > FIRST_MARK && mark.is_usable(fd, keeper))
            && keeper.frames() < LONG_WAL_FRAMES
    }

    /// SQLite has read: whether the lock is kept, so that the host must not be told.
    pub fn keep(&mut self, fd: Fd, lock: c_int) -> bool {
        match &mut self.0 {
            Some(mark) if mark.fd == fd && !mark.idle && mark.lent == lock => {
                mark.idle = true;
                true
            }
            _ => false,
        }
    }

    /// Nobody else uses the index, so the lock is in nobody's way for some time to come.
    pub fn renew(&mut self, fd: Fd, keeper: &impl Keeper) {
        if let Some(mark) = self.0.as_mut().filter(|mark| mark.fd == fd) {
            mark.taken = keeper.now();
        }
    }

    pub fn are_over(&self, now: Instant) -> bool {
        self.0.as_ref().is_some_and(|mark| is_over(mark.taken, now))
    }

    /// Gives the lock back if no statement uses it.
    pub fn end(&mut self, keeper: &mut impl Keeper) {
        if let Some(mark) = self.0.take_if(|mark| mark.idle) {
            give_back(keeper, mark.fd, Wish::one(mark.held, SHARED | UNLOCK));
        }
    }

    /// SQLite is about to lock marks exclusively: the host must not find one taken by ourselves, nor drop with it
    /// what SQLite believes to hold.
    pub fn clear(&mut self, fd: Fd, keeper: &mut impl Keeper) -> Result<(), Code> {
        self.end(keeper);
        let Some(mark) = self.0.as_mut().filter(|mark| mark.fd == fd) else {
            return Ok(());
        };
        mark.size_bytes = None;
        if mark.held != mark.lent {
            keeper.ask(fd, Wish::one(mark.lent, SHARED | LOCK))?;
            give_back(keeper, fd, Wish::one(mark.held, SHARED | UNLOCK));
            mark.held = mark.lent;
        }
        Ok(())
    }

    pub fn size<E>(&mut self, fd: Fd, ask: impl FnOnce() -> Result<i64, E>) -> Result<i64, E> {
        let reads_database =
            |mark: &&mut Mark| mark.fd == fd && !mark.idle && mark.lent == FIRST_MARK;
        let Some(mark) = self.0.as_mut().filter(reads_database) else {
            return ask();
        };
        match mark.size_bytes {
            Some(known) => Ok(known),
            None => ask().inspect(|size_bytes| mark.size_bytes = Some(*size_bytes)),
        }
    }

    pub fn forget_size(&mut self, fd: Fd) {
        if let Some(mark) = self.0.as_mut().filter(|mark| mark.fd == fd) {
            mark.size_bytes = None;
        }
    }
}
