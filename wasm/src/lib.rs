//! The guest of rapsqlite: SQLite and a query engine as one WASI module, driven through two rings.
//!
//! `docs/abi.md` is the contract with the host. Folders are in reading order, from the bottom up: none uses a
//! folder listed below it (tests/project/test_architecture.py). Code that calls SQLite exists only in wasm; the
//! rest is also built and tested on the build machine.

// The contract, and what both sides of it share.
pub mod abi;
pub mod allocator;
pub mod buffers;
pub mod error;
pub mod wire;

// The host: its functions, and the rings.
pub mod host;
pub mod ring;

// SQLite's files.
pub mod vfs;

// Around one SQLite handle.
#[cfg(target_arch = "wasm32")]
mod callbacks;
#[cfg(target_arch = "wasm32")]
mod connection;
pub mod deferral;
pub mod sqlite;

#[cfg(target_arch = "wasm32")]
mod requests;
