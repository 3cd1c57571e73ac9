//! SQLite's C API in Rust: statements and their parts, and functions that SQLite is built to call.

#[cfg(target_arch = "wasm32")]
pub(crate) mod columns;
#[cfg(target_arch = "wasm32")]
mod errors;
#[cfg(target_arch = "wasm32")]
pub(crate) mod init;
pub mod localtime;
pub mod memcmp;
#[cfg(target_arch = "wasm32")]
pub(crate) mod options;
#[cfg(target_arch = "wasm32")]
pub(crate) mod parameters;
#[cfg(target_arch = "wasm32")]
pub(crate) mod statement;
pub mod statement_cache;
pub mod text;
