//! The user's callbacks: SQLite calls these functions, they call the host.
//!
//! The guest is not entered while the host runs a callback, so one buffer for arguments and one place for answers
//! serve them all.

mod aggregates;
pub mod answers;
pub mod argument_block;
mod authorizer;
pub mod calls;
pub mod collations;
pub mod deferred;
mod errors;
pub mod extensions;
pub mod functions;
mod handle;
pub mod hooks;
mod infallible;
mod lending;
pub mod preupdate;
pub mod reading;
mod runs;
mod steps;

use core::cell::{Cell, RefCell};
use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::BTreeMap;

use libsqlite3_sys as ffi;

use self::deferred::Deferred;
pub use self::handle::{Callee, Handle};
use self::steps::Steps;
use crate::abi;
use crate::buffers::zeroed;
use crate::callbacks::argument_block::{Answered, Arguments};
pub use crate::callbacks::errors::{During, Failed, Failure};
use crate::callbacks::errors::{INTERRUPTED, NO_MEMORY, failed};
use crate::error::{Error, Result};
use crate::host;
use crate::wire::params::Value;
use crate::wire::rows::Encoder;

/// Arguments larger than this are not kept room for.
const KEPT_BYTES: usize = 65_536;
/// Kinds of hooks are small numbers; each has one slot.
const SLOTS: usize = abi::CALLBACK_PREUPDATE as usize + 1;
/// An empty array: what the host is passed where a kind takes no arguments.
const NOTHING: Arguments<'_> = Arguments::Array(&[0x90]);

/// The callbacks of one connection; SQLite holds its address.
pub struct Callbacks {
    arguments: RefCell<Encoder>,
    /// Arguments of a function whose answers are kept.
    key: RefCell<Encoder>,
    steps: Steps,
    /// Calls that the statement that is being stepped puts off.
    deferred: RefCell<Option<Deferred>>,
    /// The functions that are defined, as SQLite shows them, and how often: one may take another's place.
    functions: RefCell<BTreeMap<Box<[u8]>, u32>>,
    /// Calls of functions that the running statement has made and not put off.
    single_calls: Cell<u32>,
    /// The running request's cancel word, or null.
    cancel: Cell<*const AtomicU32>,
    /// Counts requests: what was answered in one need not hold in the next.
    request: Cell<u32>,
    /// Sessions that are open: they and a preupdate hook exclude each other.
    sessions: Cell<u32>,
    hooks: [Cell<Option<Handle>>; SLOTS],
    loader: extensions::Loader,
    /// Whose hooks are set: what an exception in one has to interrupt.
    db: Cell<*mut ffi::sqlite3>,
    progress_steps: Cell<c_int>,
    progress_done: Cell<c_int>,
    /// A statement of the engine's own is running.
    without_hooks: Cell<bool>,
    /// `PRAGMA wal_autocheckpoint`, which a WAL hook takes the place of.
    checkpoint_pages: Cell<c_int>,
    /// The exception that the running request fails with: its number at the host.
    failure: Cell<u32>,
    /// What raised although SQLite does not let it fail; the statement does.
    spoiled: Cell<Option<&'static str>>,
    /// What was changed on the way is still to be rolled back.
    doomed: Cell<bool>,
}

impl Default for Callbacks {
    fn default() -> Self {
        Self {
            arguments: RefCell::default(),
            key: RefCell::default(),
            steps: Steps::default(),
            deferred: RefCell::default(),
            functions: RefCell::default(),
            single_calls: Cell::new(0),
            cancel: Cell::new(ptr::null()),
            request: Cell::new(0),
            sessions: Cell::new(0),
            hooks: [const { Cell::new(None) }; SLOTS],
            loader: extensions::Loader::default(),
            db: Cell::new(ptr::null_mut()),
            progress_steps: Cell::new(0),
            progress_done: Cell::new(0),
            without_hooks: Cell::new(false),
            checkpoint_pages: Cell::new(0),
            failure: Cell::new(0),
            spoiled: Cell::new(None),
            doomed: Cell::new(false),
        }
    }
}

impl Callbacks {
    /// Number of the exception of the running request, or 0.
    pub fn failure(&self) -> u32 {
        self.failure.get()
    }

    /// A session begins, which takes the place that a preupdate hook has.
    pub fn begin_session(&self) -> Result<()> {
        if self.handle_of(abi::CALLBACK_PREUPDATE).is_some() {
            return Err(Error::programming(
                "SQLite records no session while a preupdate hook is set: remove the hook first",
            ));
        }
        self.sessions.set(self.sessions.get() + 1);
        Ok(())
    }

    pub fn end_session(&self) {
        self.sessions.set(self.sessions.get() - 1);
    }

    /// Null once the request is answered: its cancel word is not looked at any more. Returns the one before.
    pub fn set_cancel(&self, cancel: *const AtomicU32) -> *const AtomicU32 {
        self.cancel.replace(cancel)
    }

    pub fn is_cancelled(&self) -> bool {
        let cancel = self.cancel.get();
        // SAFETY: not null only while the request's frame is in the ring.
        !cancel.is_null() && unsafe { (*cancel).load(Ordering::Relaxed) != 0 }
    }

    /// A new request begins.
    pub fn forget_failure(&self) {
        self.request.set(self.request.get().wrapping_add(1));
        self.failure.set(0);
        self.spoiled.set(None);
    }

    /// Has the host do the steps that were put off. One that raises is the last: the statement is to end.
    fn settle_steps(&self) -> core::result::Result<(), Failed> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let callee = Callee::new(abi::CALLBACK_STEPS, 0);
        self.call_with_steps(callee, |_| ())
    }

    /// The request is answered: steps that are still put off are of a statement with rows left. What they raise is
    /// that statement's, and told when their instance is next asked for something.
    pub fn settle_rest(&self) {
        let failure = self.failure.get();
        if self.settle_steps().is_err() {
            self.failure.set(failure);
        }
    }

    /// Has the host do whatever was put off.
    fn settle(&self) -> core::result::Result<(), Failed> {
        self.settle_calls()?;
        self.settle_steps()
    }

    /// Calls the host with the array that `encode` writes, and gives `receive` the answer.
    pub fn call<R>(
        &self,
        callee: Callee<'_>,
        encode: impl FnOnce(&mut Encoder) -> Result<()>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        self.settle()?;
        let mut arguments = self.arguments.borrow_mut();
        arguments.clear(KEPT_BYTES);
        encode(&mut arguments).map_err(|_| NO_MEMORY)?;
        self.cross(callee, Arguments::Array(arguments.bytes()), receive)
    }

    /// As `call`, with arguments that need no encoding.
    pub fn call_with<R>(
        &self,
        callee: Callee<'_>,
        arguments: Arguments<'_>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        self.settle()?;
        self.cross(callee, arguments, receive)
    }

    /// As `call`; the steps that were put off are the arguments.
    fn call_with_steps<R>(
        &self,
        callee: Callee<'_>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        self.settle_calls()?;
        self.steps
            .take(|array| self.cross(callee, Arguments::Array(array), receive))
    }

    /// Keeps the first exception of a request: the others follow from it.
    fn note_failure(&self, number: u32) {
        if self.failure.get() == 0 {
            self.failure.set(number);
        }
    }

    fn cross<R>(
        &self,
        callee: Callee<'_>,
        arguments: Arguments<'_>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        match argument_block::cross(callee, arguments) {
            Answered::Value(value) => Ok(receive(value)),
            Answered::Failed { code, number } => {
                self.note_failure(number);
                Err(failed(code))
            }
            Answered::Large { form, len } => {
                let mut large = zeroed(len).map_err(|_| NO_MEMORY)?;
                host::callback_answer(&mut large).map_err(|_| NO_MEMORY)?;
                Ok(receive(argument_block::value_of(form, &large)))
            }
        }
    }
}

/// The answer where an integer is wanted.
pub fn integer(value: Value<'_>) -> c_int {
    match value {
        Value::Integer(value) => c_int::try_from(value).unwrap_or(c_int::MAX),
        _ => 0,
    }
}
