//! The locks of this guest: `KeptLocks` with the host behind it. <https://sqlite.org/lockingv3.html>

use std::sync::{Arc, Mutex};
use std::time::Instant;

use libsqlite3_sys as ffi;

use super::kept_locks::{Facts, KeptLocks, LockHost, LockRequest, Needs, Unlock};
use crate::host::{self, Code, Fd};
use crate::ring::Prelock;

static LOCKS: Mutex<KeptLocks> = Mutex::new(KeptLocks::new());

fn with<R>(use_locks: impl FnOnce(&mut KeptLocks) -> R) -> R {
    // An instance runs on one thread, and the host never re-enters here.
    use_locks(&mut LOCKS.lock().expect("a panic ends the guest"))
}

struct Host;

impl LockHost for Host {
    fn share_file(&mut self, fd: Fd) -> Result<Facts, Code> {
        let (size_bytes, companions) = host::file_share(fd)?;
        Ok(Facts {
            size_bytes,
            companions,
        })
    }

    fn unlock_file(&mut self, fd: Fd) -> Result<(), Code> {
        host::file_unlock(fd, ffi::SQLITE_LOCK_NONE)
    }

    fn lock_index(&mut self, fd: Fd, request: LockRequest) -> Result<Option<i64>, Code> {
        host::shm_lock(fd, request.first, request.count, request.flags)
    }

    fn unlock_index(&mut self, fd: Fd, locks: u8) -> Result<(), Code> {
        host::shm_unlock(fd, locks)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// See `KeptLocks::open`.
pub fn open(fd: Fd, name: Arc<[u8]>, is_local: bool) {
    with(|locks| locks.open(fd, name, is_local));
}

/// See `KeptLocks::close`.
pub fn close(fd: Fd) {
    with(|locks| locks.close(fd));
}

/// See `KeptLocks::close_index`.
pub fn close_index(fd: Fd) {
    with(|locks| locks.close_index(fd));
}

/// See `KeptLocks::share_file`.
pub fn share_file(fd: Fd) -> Result<(), Code> {
    with(|locks| locks.share_file(fd, &mut Host))
}

/// See `KeptLocks::unshare_file`.
pub fn unshare_file(fd: Fd) -> bool {
    with(|locks| locks.unshare_file(fd))
}

/// See `KeptLocks::index`.
pub fn index(fd: Fd, request: LockRequest) -> Result<(), Code> {
    with(|locks| locks.index(fd, request, &mut Host))
}

/// See `KeptLocks::give_back`.
pub fn give_back() {
    with(|locks| locks.give_back(&mut Host));
}

/// See `KeptLocks::before_statement`.
pub fn before_statement(needs: Needs) {
    with(|locks| locks.before_statement(needs, &mut Host));
}

/// See `KeptLocks::after_statement`.
pub fn after_statement(polls: bool) -> Option<Unlock> {
    with(|locks| locks.after_statement(polls, &mut Host))
}

/// See `KeptLocks::between_statements`.
pub fn between_statements() {
    with(|locks| locks.between_statements(&mut Host));
}

/// See `KeptLocks::prelock`.
pub fn prelock(prelock: Prelock) {
    with(|locks| locks.prelock(prelock));
}

/// See `KeptLocks::facts`.
pub fn facts(fd: Fd) -> Option<Facts> {
    with(|locks| locks.facts(fd))
}

/// See `KeptLocks::forget_facts`.
pub fn forget_facts(fd: Fd) {
    with(|locks| locks.forget_facts(fd));
}

/// See `KeptLocks::is_missing`.
pub fn is_missing(name: &[u8]) -> bool {
    with(|locks| locks.is_missing(name))
}
