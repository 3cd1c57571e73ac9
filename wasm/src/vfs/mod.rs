//! The guest's only VFS: SQLite's view of the host's files.
//!
//! SQLite is built with `SQLITE_OS_OTHER`, so `sqlite3_os_init` below is its whole operating system.
//! <https://sqlite.org/c3ref/vfs.html>. All policy is here (when to flush, map, sync a directory); the host keeps
//! descriptors, names and locks. Code that needs neither SQLite nor the host is tested on the build machine.

pub mod arena;
pub mod kept_locks;
pub mod temporary_buffer;
pub mod write_buffer;
pub mod write_order;

#[cfg(target_arch = "wasm32")]
mod file;
#[cfg(target_arch = "wasm32")]
mod io_methods;
#[cfg(target_arch = "wasm32")]
mod locks;
#[cfg(target_arch = "wasm32")]
mod mapped_reads;
#[cfg(target_arch = "wasm32")]
mod registration;
#[cfg(target_arch = "wasm32")]
mod shm;

#[cfg(target_arch = "wasm32")]
pub use file::limit_size;
#[cfg(target_arch = "wasm32")]
pub use mapped_reads::hits_and_misses;

#[cfg(target_arch = "wasm32")]
pub use locks::{
    after_statement, before_statement, between_statements, give_back as give_back_locks, prelock,
};

/// On the build machine there is no host to hold a lock.
#[cfg(not(target_arch = "wasm32"))]
mod no_locks {
    use super::kept_locks::{Needs, Unlock};
    use crate::ring::Prelock;

    pub fn after_statement(_polls: bool) -> Option<Unlock> {
        None
    }
    pub fn between_statements() {}
    pub fn prelock(_prelock: Prelock) {}
    pub fn before_statement(_needs: Needs) {}
    pub fn give_back_locks() {}
}
#[cfg(not(target_arch = "wasm32"))]
pub use no_locks::{
    after_statement, before_statement, between_statements, give_back_locks, prelock,
};
