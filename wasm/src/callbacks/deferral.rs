//! The interface for deferring Python calls, so that one crossing to the host makes many (`crate::deferral`).
//!
//! Callbacks know only this much about it: a function call or a step may be taken over, and before Python is
//! called for anything else, everything deferred is done.

use libsqlite3_sys as ffi;

use crate::callbacks::Callbacks;
use crate::callbacks::calls::{Function, Values};
use crate::callbacks::errors::Failed;
use crate::error::Result;

/// The result of a call that returns nothing to its caller.
pub type Called = core::result::Result<(), Failed>;

pub trait Deferral {
    /// A function is defined, which bytecode shows as `signature`. Returns its number here.
    fn define(&self, signature: Box<[u8]>, is_deterministic: bool) -> Result<usize>;

    /// SQLite no longer calls the function.
    fn forget(&self, number: usize);

    /// A request begins: earlier results of deterministic functions are no longer valid.
    fn begin_request(&self);

    /// Makes a call of a function, or defers it; `None` if the caller should make it as usual.
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

    /// Defers a step of an aggregate's instance, or makes it; `key` is the instance's handle, negative for
    /// `inverse`.
    ///
    /// # Safety
    /// `values` are what SQLite passed to the running step.
    unsafe fn step(&self, callbacks: &Callbacks, key: i64, values: Values) -> Called;

    /// Python is about to be called for something else: makes the deferred calls, up to the first that raises.
    fn flush(&self, callbacks: &Callbacks) -> Called;

    /// As `flush`, except for the steps, which `send` passes to the host as a MessagePack array.
    fn flush_with_steps(&self, callbacks: &Callbacks, send: &mut dyn FnMut(&[u8])) -> Called;

    /// Whether a deferred call has raised: none is made after it.
    fn has_failed(&self) -> bool;
}
