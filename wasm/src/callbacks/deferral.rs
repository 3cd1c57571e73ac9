//! The seam to what puts calls of Python off, so that one crossing to the host makes many (`crate::deferral`).
//!
//! Callbacks know no more of it than this: a function or a step may be taken over, and before Python is called for
//! anything else whatever was put off is done.

use libsqlite3_sys as ffi;

use crate::callbacks::Callbacks;
use crate::callbacks::calls::{Function, Values};
use crate::callbacks::errors::Failed;
use crate::error::Result;

/// What came of a call that returns nothing to its caller.
pub type Called = core::result::Result<(), Failed>;

pub trait Deferral {
    /// A function is defined, which programs show as `signature`. Returns the number by which it is known here.
    fn define(&self, signature: Box<[u8]>, is_deterministic: bool) -> Result<usize>;

    /// SQLite calls the function no more.
    fn forget(&self, number: usize);

    /// A request begins: what a deterministic function has returned before need not hold any more.
    fn begin_request(&self);

    /// Makes a call of a function, or puts it off; `None` if the caller is to make it as any other.
    ///
    /// # Safety
    /// `context` and `values` are what SQLite passed to `function`, which runs.
    unsafe fn call(
        &self,
        callbacks: &Callbacks,
        function: &Function,
        context: *mut ffi::sqlite3_context,
        values: Values,
    ) -> Option<Called>;

    /// Puts a step of an aggregate's instance off, or makes it; `key` is the instance's handle, negative for `inverse`.
    ///
    /// # Safety
    /// `values` are what SQLite passed to the running step.
    unsafe fn step(&self, callbacks: &Callbacks, key: i64, values: Values) -> Called;

    /// Python is called for something else: makes what was put off. What raises is the last.
    fn flush(&self, callbacks: &Callbacks) -> Called;

    /// As `flush`, but for the steps, which `send` passes to the host as a MessagePack array.
    fn flush_with_steps(&self, callbacks: &Callbacks, send: &mut dyn FnMut(&[u8])) -> Called;

    /// Whether a call that was put off has raised: none is made after it.
    fn has_failed(&self) -> bool;
}
