//! The guest of rapsqlite: SQLite and a query engine as one WASI module, driven through two rings.
//!
//! `docs/abi.md` is the contract with the host. Modules in reading order, from the bottom up; those that call
//! SQLite exist in wasm only, the rest is also built and tested on the build machine.

pub mod abi;
pub mod error;
pub mod host;
pub mod localtime;
pub mod ring;
pub mod sql;
pub mod wire;

pub mod cache;
pub mod reply;
pub mod vfs;

#[cfg(target_arch = "wasm32")]
mod connection;
#[cfg(target_arch = "wasm32")]
mod control;
#[cfg(target_arch = "wasm32")]
mod executor;
#[cfg(target_arch = "wasm32")]
mod library;
#[cfg(target_arch = "wasm32")]
mod service;
#[cfg(target_arch = "wasm32")]
mod statement;
