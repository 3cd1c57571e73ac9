//! Calls of Python functions that are put off, so that one crossing to the host makes many.
//!
//! Three ways, each where SQLite cannot tell the difference: calls whose results are columns of rows and nothing else
//! (`program` concludes that, `read_ahead` reads rows while `calls` collects them), steps of aggregates (`steps`), and
//! deterministic functions, whose answers are kept for a request (`memo`). `policy` decides, behind the seam that the
//! callbacks know (`callbacks::deferral`); SQL, rows and requests are the same without any of it.
//!
//! Nothing here knows how SQLite lays out its own structs: programs come from its table function `bytecode`. What opcodes
//! mean is not part of SQLite's interface, so the build fails with another SQLite than the one that `program` was
//! written for.

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
