//! The locks on WAL indexes, as the host holds them for this guest.

use std::sync::Mutex;
use std::time::Instant;

use super::shm::Shm;
use super::wal_locks::{Keeper, WalLocks, Wish};
use crate::host::{self, Code, Fd};

static LOCKS: Mutex<WalLocks> = Mutex::new(WalLocks::new());

fn with<R>(use_locks: impl FnOnce(&mut WalLocks) -> R) -> R {
    // An instance runs on one thread, and the host never comes back here.
    use_locks(&mut LOCKS.lock().expect("a panic ends the guest"))
}

struct Host<'s>(Option<&'s Shm>);

impl Keeper for Host<'_> {
    fn ask(&mut self, fd: Fd, wish: Wish) -> Result<(), Code> {
        host::shm_lock(fd, wish.first, wish.count, wish.flags)
    }

    fn is_alone(&mut self, fd: Fd) -> bool {
        host::shm_alone(fd)
    }

    fn frames(&self) -> u32 {
        self.0.map_or(0, Shm::frames)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// `xShmLock` of the database `fd`, whose index is mapped as `shm`.
pub fn lock(fd: Fd, shm: &Shm, wish: Wish) -> Result<(), Code> {
    with(|locks| locks.lock(fd, wish, &mut Host(Some(shm))))
}

/// See `WalLocks::writer_epoch`.
pub fn writer_epoch(fd: Fd) -> Option<u64> {
    with(|locks| locks.writer_epoch(fd))
}

/// See `WalLocks::size`.
pub fn size<E>(fd: Fd, ask: impl FnOnce() -> Result<i64, E>) -> Result<i64, E> {
    with(|locks| locks.size(fd, ask))
}

/// See `WalLocks::forget_size`.
pub fn forget_size(fd: Fd) {
    with(|locks| locks.forget_size(fd));
}

/// Gives back what no statement uses.
pub fn give_back() {
    with(|locks| locks.give_back(&mut Host(None)));
}

/// Gives back what no statement uses and whose time is over.
pub fn give_back_old() {
    with(|locks| locks.give_back_old(&mut Host(None)));
}
