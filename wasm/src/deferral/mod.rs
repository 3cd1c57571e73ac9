//! Deferred calls of Python functions: one crossing to the host makes many.
//!
//! There are three kinds, where SQLite cannot tell the difference: calls whose results are only columns of rows
//! (`program` detects them, `read_ahead` reads rows while `calls` collects them), steps of aggregates (`steps`),
//! and deterministic functions, whose results are kept for a request (`memo`). `policy` decides, behind the trait
//! that callbacks use (`callbacks::deferral`); SQL, rows and requests are the same without any of it.
//!
//! Nothing here knows the layout of SQLite's structs: bytecode comes from its table function `bytecode`. The
//! meaning of opcodes is not part of SQLite's interface, so the build fails with another SQLite release than the
//! one `program` was written for.

#[cfg(target_arch = "wasm32")]
mod calls;
#[cfg(target_arch = "wasm32")]
mod encoding;
pub mod memo;
#[cfg(target_arch = "wasm32")]
mod pending_rows;
#[cfg(target_arch = "wasm32")]
pub(crate) mod policy;
pub mod program;
#[cfg(target_arch = "wasm32")]
pub(crate) mod read_ahead;
#[cfg(target_arch = "wasm32")]
mod results;
#[cfg(target_arch = "wasm32")]
mod statement;
#[cfg(target_arch = "wasm32")]
mod steps;
