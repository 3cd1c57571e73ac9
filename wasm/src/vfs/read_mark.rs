//! The lock on a read mark of the WAL index that outlives its statement for a moment.
//!
//! A reader of a WAL database holds a shared lock on the mark it reads up to, from the first page to the last:
//! two calls of the host for every SELECT in autocommit mode. As with the lease of a database the lock is kept
//! while statements follow each other closely. To others that looks like one longer statement; SQLite itself
//! looks at the index each time, and takes another mark when there is something new.
//!
//! Mark 0 stands for "nothing but the database": nobody checkpoints into the file while it is locked, so the
//! file's size, which SQLite then asks for with every statement, is remembered as long.
//! <https://sqlite.org/walformat.html#locks>

use core::ffi::c_int;
use std::sync::Mutex;
use std::time::Instant;

use super::lease::LONGEST;
use crate::host::{self, Code, Fd};

// SQLITE_SHM_*: <https://sqlite.org/c3ref/c_shm_exclusive.html>
const UNLOCK: c_int = 1;
const LOCK: c_int = 2;
const SHARED: c_int = 4;
const EXCLUSIVE: c_int = 8;

/// The first of the locks on read marks; those before it belong to writers, checkpoints and recovery.
const FIRST_MARK: c_int = 3;

struct Kept {
    fd: Fd,
    mark: c_int,
    taken: Instant,
    idle: bool,
    size_bytes: Option<i64>,
}

/// The one lock that may be kept: of several attached databases on the one locked last.
static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

fn with<R>(use_kept: impl FnOnce(&mut Option<Kept>) -> R) -> R {
    // An instance runs on one thread, and `use_kept` never comes back here.
    use_kept(&mut KEPT.lock().expect("a panic ends the guest"))
}

/// What SQLite asks of `xShmLock`.
#[derive(Clone, Copy)]
pub struct Wish {
    pub first: c_int,
    pub count: c_int,
    pub flags: c_int,
}

/// Does what SQLite wishes; `ask` passes it on to the host.
pub fn lock(fd: Fd, wish: Wish, ask: impl FnOnce(Wish) -> Result<(), Code>) -> Result<(), Code> {
    let is_mark = wish.first >= FIRST_MARK && wish.count == 1;
    match wish.flags {
        flags if flags == SHARED | UNLOCK && is_mark && keep(fd, wish.first) => Ok(()),
        flags if flags == SHARED | LOCK && is_mark => {
            if resume(fd, wish.first) {
                return Ok(());
            }
            end();
            ask(wish)?;
            let kept = Kept {
                fd,
                mark: wish.first,
                taken: Instant::now(),
                idle: false,
                size_bytes: None,
            };
            with(|current| *current = Some(kept));
            Ok(())
        }
        flags => {
            if flags & EXCLUSIVE != 0 && wish.first + wish.count > FIRST_MARK {
                // The wish may be for the very mark: the host must not find it taken by ourselves.
                end();
                forget_size(fd);
            }
            ask(wish)
        }
    }
}

fn resume(fd: Fd, mark: c_int) -> bool {
    with(|kept| match kept {
        Some(kept)
            if kept.fd == fd
                && kept.mark == mark
                && kept.idle
                && kept.taken.elapsed() < LONGEST =>
        {
            kept.idle = false;
            true
        }
        _ => false,
    })
}

fn keep(fd: Fd, mark: c_int) -> bool {
    with(|kept| match kept {
        Some(kept) if kept.fd == fd && kept.mark == mark => {
            kept.idle = true;
            true
        }
        _ => false,
    })
}

/// The size of the database, as `ask` told it once while mark 0 is locked.
pub fn size<E>(fd: Fd, ask: impl FnOnce() -> Result<i64, E>) -> Result<i64, E> {
    let of_database = |kept: &&mut Kept| kept.fd == fd && kept.mark == FIRST_MARK && !kept.idle;
    let known = with(|kept| {
        kept.as_mut()
            .filter(of_database)
            .and_then(|kept| kept.size_bytes)
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let size_bytes = ask()?;
    with(|kept| {
        if let Some(kept) = kept.as_mut().filter(of_database) {
            kept.size_bytes = Some(size_bytes);
        }
    });
    Ok(size_bytes)
}

/// The database is about to be changed by ourselves.
pub fn forget_size(fd: Fd) {
    with(|kept| {
        if let Some(kept) = kept.as_mut().filter(|kept| kept.fd == fd) {
            kept.size_bytes = None;
        }
    });
}

/// Gives the lock back if no statement uses it.
pub fn end() {
    let idle = with(|kept| kept.take_if(|kept| kept.idle));
    if let Some(kept) = idle
        && let Err(code) = host::shm_lock(kept.fd, kept.mark, 1, SHARED | UNLOCK)
    {
        host::log(format!("a read mark was not given back: result code {code}").as_bytes());
    }
}

/// Gives back an idle lock whose time is over.
pub fn end_if_over() {
    if with(|kept| {
        kept.as_ref()
            .is_some_and(|kept| kept.idle && kept.taken.elapsed() >= LONGEST)
    }) {
        end();
    }
}
