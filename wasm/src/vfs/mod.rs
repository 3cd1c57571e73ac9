//! The one VFS of the guest: SQLite's view of the host's files.
//!
//! SQLite is built with `SQLITE_OS_OTHER`, so `sqlite3_os_init` below is its whole operating system.
//! <https://sqlite.org/c3ref/vfs.html>. All policy is here (when to flush, map, sync a directory); the
//! host keeps descriptors, names and locks. What needs neither SQLite nor the host is tested on the
//! build machine.

pub mod buffer;
pub mod lease;
pub mod urgency;
pub mod wal_locks;

#[cfg(target_arch = "wasm32")]
mod file;
#[cfg(target_arch = "wasm32")]
mod index;
#[cfg(target_arch = "wasm32")]
mod methods;
#[cfg(target_arch = "wasm32")]
mod registration;
#[cfg(target_arch = "wasm32")]
mod shm;
#[cfg(target_arch = "wasm32")]
mod tail;
#[cfg(target_arch = "wasm32")]
mod window;

#[cfg(target_arch = "wasm32")]
pub use file::limit_size;
#[cfg(target_arch = "wasm32")]
pub use tail::writes as mapped_writes;
#[cfg(target_arch = "wasm32")]
pub use window::hits_and_misses;

/// Gives back the locks that no statement uses: before the guest sleeps for whatever reason.
pub fn give_back_locks() {
    lease::end();
    #[cfg(target_arch = "wasm32")]
    index::give_back();
}

/// Gives back the locks that no statement uses and whose time is over.
pub fn give_back_old_locks() {
    lease::end_if_over();
    #[cfg(target_arch = "wasm32")]
    index::give_back_old();
}
