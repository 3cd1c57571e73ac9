//! The SHARED lock of a database that outlives its statement for a moment, and what is known while it lasts.
//!
//! In autocommit mode every SELECT locks the database, looks for a journal and a WAL, reads the change counter,
//! asks for the size and unlocks: six calls of the host, each of which waits for Python's GIL. When requests
//! follow each other closely the lock is kept instead of given back, and as long as it is held without a break
//! the answers cannot change: no other connection can get the EXCLUSIVE lock that it needs to alter the file, so
//! a journal that appears meanwhile is not hot either. What needs more than SHARED, and the use of a WAL, ends
//! the lease: then everything is as SQLite asks for it.
//!
//! A lease that no statement uses is *idle*. It ends before the guest sleeps for whatever reason, and is not
//! renewed after `LONGEST`, so that a writer elsewhere waits no longer than for a statement of that length: its
//! PENDING lock keeps us out from then on.

use core::time::Duration;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::host::{self, Fd};

/// How long a lock is kept for statements that follow each other without a pause.
pub const LONGEST: Duration = Duration::from_millis(5);

/// Where SQLite looks whether someone else changed the database: the change counter and what stands behind it.
const VERSION_OFFSET: i64 = 24;
const VERSION_BYTES: usize = 16;

const COMPANIONS: [&[u8]; 2] = [b"-journal", b"-wal"];

/// A lock that is held, and what was learnt since it was taken.
struct Lease {
    fd: Fd,
    name: Arc<[u8]>,
    taken: Instant,
    idle: bool,
    facts: Facts,
}

#[derive(Default)]
struct Facts {
    size_bytes: Option<i64>,
    version: Option<[u8; VERSION_BYTES]>,
    missing: [bool; COMPANIONS.len()],
}

/// The one lease of this guest: of several attached databases the one locked last.
static LEASE: Mutex<Option<Lease>> = Mutex::new(None);

fn with<R>(use_lease: impl FnOnce(&mut Option<Lease>) -> R) -> R {
    // An instance runs on one thread, and `use_lease` never comes back here.
    use_lease(&mut LEASE.lock().expect("a panic ends the guest"))
}

fn with_facts<R>(fd: Fd, use_facts: impl FnOnce(&mut Facts) -> Option<R>) -> Option<R> {
    with(|lease| match lease {
        Some(lease) if lease.fd == fd => use_facts(&mut lease.facts),
        _ => None,
    })
}

/// Notes that the host granted SHARED on a database: its lease begins.
pub fn begin(fd: Fd, name: &Arc<[u8]>) {
    end();
    let lease = Lease {
        fd,
        name: name.clone(),
        taken: Instant::now(),
        idle: false,
        facts: Facts::default(),
    };
    with(|current| *current = Some(lease));
}

/// SQLite wants SHARED: whether it is still held, so that the host need not be asked.
pub fn resume(fd: Fd) -> bool {
    let resumed = with(|lease| match lease {
        Some(lease) if lease.fd == fd && lease.idle && lease.taken.elapsed() < LONGEST => {
            lease.idle = false;
            true
        }
        _ => false,
    });
    if !resumed {
        end();
    }
    resumed
}

/// SQLite is done with SHARED: whether it is kept, so that the host must not be told.
pub fn keep(fd: Fd) -> bool {
    with(|lease| match lease {
        Some(lease) if lease.fd == fd => {
            lease.idle = true;
            true
        }
        _ => false,
    })
}

/// Forgets the lease of a database that is about to be changed, by whatever way; the lock stays with SQLite.
pub fn forget(fd: Fd) {
    with(|lease| {
        if lease
            .as_ref()
            .is_some_and(|lease| lease.fd == fd && !lease.idle)
        {
            *lease = None;
        }
    });
}

/// The file is about to be closed, and its locks with it.
pub fn close(fd: Fd) {
    end();
    forget(fd);
}

/// Gives the lock back if no statement uses it: before the guest sleeps, or closes the file.
pub fn end() {
    let idle = with(|lease| lease.take_if(|lease| lease.idle));
    if let Some(lease) = idle
        && let Err(code) = host::file_unlock(lease.fd, 0)
    {
        host::log(format!("a lock was not given back: result code {code}").as_bytes());
    }
}

/// Gives back an idle lock whose time is over, while a statement runs that does not use it.
pub fn end_if_over() {
    if with(|lease| {
        lease
            .as_ref()
            .is_some_and(|lease| lease.idle && lease.taken.elapsed() >= LONGEST)
    }) {
        end();
    }
}

/// The size of the database, as `ask` told it once during this lease.
pub fn size<E>(fd: Fd, ask: impl FnOnce() -> Result<i64, E>) -> Result<i64, E> {
    if let Some(known) = with_facts(fd, |facts| facts.size_bytes) {
        return Ok(known);
    }
    let size_bytes = ask()?;
    with_facts(fd, |facts| facts.size_bytes.replace(size_bytes));
    Ok(size_bytes)
}

/// Reads the change counter, through `ask` once during this lease; any other read is `ask`'s.
pub fn read<E>(
    fd: Fd,
    data: &mut [u8],
    offset: i64,
    ask: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    if offset != VERSION_OFFSET || data.len() != VERSION_BYTES {
        return ask(data);
    }
    if let Some(known) = with_facts(fd, |facts| facts.version) {
        data.copy_from_slice(&known);
        return Ok(());
    }
    ask(data)?;
    with_facts(fd, |facts| facts.version.replace(data.try_into().ok()?));
    Ok(())
}

/// Whether a file exists; for the journal and the WAL of the leased database a "no" is asked for once.
pub fn exists<E>(name: &[u8], ask: impl FnOnce() -> Result<bool, E>) -> Result<bool, E> {
    let companion = |lease: &Lease| {
        COMPANIONS
            .iter()
            .position(|suffix| is_joined(name, &lease.name, suffix))
    };
    let known = with(|lease| {
        let lease = lease.as_ref().filter(|lease| !lease.idle)?;
        Some(lease.facts.missing[companion(lease)?])
    });
    if known == Some(true) {
        return Ok(false);
    }
    let found = ask()?;
    with(|lease| {
        let lease = lease.as_mut().filter(|lease| !lease.idle)?;
        let which = companion(lease)?;
        lease.facts.missing[which] = !found;
        Some(())
    });
    Ok(found)
}

fn is_joined(name: &[u8], stem: &[u8], suffix: &[u8]) -> bool {
    name.strip_prefix(stem) == Some(suffix)
}
