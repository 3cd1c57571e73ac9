//! The guest of rapsqlite: SQLite and a query engine as one WASI module, driven through two rings.
//!
//! `docs/abi.md` is the contract with the host. Modules in reading order, from the bottom up; those that call
//! SQLite exist in wasm only, the rest is also built and tested on the build machine.

// The contract, and what both sides of it are made of.
pub mod abi;
pub mod allocator;
pub mod error;
pub mod host;
pub mod parking;
pub mod reply;
pub mod ring;
pub mod wire;

// SQLite's files.
pub mod vfs;

// Around one SQLite handle.
pub mod buffers;
#[cfg(target_arch = "wasm32")]
mod busy_timeout;
pub mod cache;
#[cfg(target_arch = "wasm32")]
mod callbacks;
#[cfg(target_arch = "wasm32")]
mod columns;
#[cfg(target_arch = "wasm32")]
mod connection;
#[cfg(target_arch = "wasm32")]
mod library;
pub mod localtime;
pub mod memo;
pub mod memory;
#[cfg(target_arch = "wasm32")]
mod options;
#[cfg(target_arch = "wasm32")]
mod parameters;
pub mod program;
pub mod sql;
#[cfg(target_arch = "wasm32")]
mod statement;
#[cfg(target_arch = "wasm32")]
mod watch;

// From a request to its answer.
#[cfg(target_arch = "wasm32")]
mod answer;
#[cfg(target_arch = "wasm32")]
mod backup;
#[cfg(target_arch = "wasm32")]
mod blob;
#[cfg(target_arch = "wasm32")]
mod blocks;
#[cfg(target_arch = "wasm32")]
mod bulk;
#[cfg(target_arch = "wasm32")]
mod changeset;
#[cfg(target_arch = "wasm32")]
mod control;
#[cfg(target_arch = "wasm32")]
mod executor;
#[cfg(target_arch = "wasm32")]
mod exports;
#[cfg(target_arch = "wasm32")]
mod handles;
#[cfg(target_arch = "wasm32")]
mod image;
#[cfg(target_arch = "wasm32")]
mod objects;
#[cfg(target_arch = "wasm32")]
mod run;
#[cfg(target_arch = "wasm32")]
mod service;
#[cfg(target_arch = "wasm32")]
mod session;
#[cfg(target_arch = "wasm32")]
mod snapshot;
