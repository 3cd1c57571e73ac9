//! The one VFS of the guest: SQLite's view of the host's files.
//!
//! SQLite is built with `SQLITE_OS_OTHER`, so `sqlite3_os_init` below is its whole operating system.
//! <https://sqlite.org/c3ref/vfs.html>. All policy is here (when to flush, map, sync a directory); the
//! host keeps descriptors, names and locks. What needs neither SQLite nor the host is tested on the
//! build machine.

pub mod buffer;
pub mod urgency;

#[cfg(target_arch = "wasm32")]
mod file;
#[cfg(target_arch = "wasm32")]
mod methods;
#[cfg(target_arch = "wasm32")]
mod registration;
#[cfg(target_arch = "wasm32")]
mod shm;
#[cfg(target_arch = "wasm32")]
mod window;
