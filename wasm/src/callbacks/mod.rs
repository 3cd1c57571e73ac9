//! The user's callbacks: SQLite calls these functions, they call the host.
//!
//! The guest is not entered while the host runs a callback, so one buffer for arguments and one block for answers
//! serve them all.

mod aggregates;
pub mod argument_block;
mod authorizer;
pub mod calls;
pub mod collations;
pub mod deferral;
mod errors;
pub mod extensions;
pub mod functions;
mod handle;
pub mod hooks;
mod infallible;
pub mod preupdate;

use core::cell::{Cell, RefCell};
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use self::deferral::Deferral;
pub use self::handle::{Callee, Handle};
use crate::abi;
use crate::buffers::{lossy, zeroed};
use crate::callbacks::argument_block::{Answered, Arguments};
pub use crate::callbacks::errors::{During, Failed, Failure};
pub use crate::callbacks::errors::{INTERRUPTED, NO_MEMORY, failed};
use crate::error::{Error, Result};
use crate::host;
use crate::sqlite::statement::bytes_of;
use crate::wire::params::Value;
use crate::wire::rows::Encoder;

/// A buffer that larger arguments made grow beyond this is freed.
pub const KEPT_BYTES: usize = 65_536;
/// Kinds of hooks are small numbers; each has one slot.
const SLOTS: usize = abi::CALLBACK_PREUPDATE as usize + 1;
/// An empty array: for kinds without arguments.
pub const NOTHING: Arguments<'_> = Arguments::Array(&[0x90]);

/// The callbacks of one connection; SQLite stores its address.
pub struct Callbacks {
    arguments: RefCell<Encoder>,
    deferral: Rc<dyn Deferral>,
    /// The running request's cancel word, or null.
    cancel: Cell<*const AtomicU32>,
    /// Open sessions: they and a preupdate hook exclude each other.
    sessions: Cell<u32>,
    hooks: [Cell<Option<Handle>>; SLOTS],
    loader: extensions::Loader,
    /// The handle whose hooks are set, to be interrupted after an exception in one.
    db: Cell<*mut ffi::sqlite3>,
    progress_steps: Cell<c_int>,
    progress_done: Cell<c_int>,
    /// A statement of the engine's own is running.
    without_hooks: Cell<bool>,
    /// `PRAGMA wal_autocheckpoint`, which a WAL hook replaces.
    checkpoint_pages: Cell<c_int>,
    /// The host's number of the exception that fails the running request.
    failure: Cell<u32>,
    /// What raised although SQLite does not allow it to fail; the statement fails instead.
    failed_callback: Cell<Option<&'static str>>,
    /// Changes made before that must still be rolled back.
    rollback_pending: Cell<bool>,
}

impl Callbacks {
    pub fn new(deferral: Rc<dyn Deferral>) -> Self {
        Self {
            arguments: RefCell::default(),
            deferral,
            cancel: Cell::new(ptr::null()),
            sessions: Cell::new(0),
            hooks: [const { Cell::new(None) }; SLOTS],
            loader: extensions::Loader::default(),
            db: Cell::new(ptr::null_mut()),
            progress_steps: Cell::new(0),
            progress_done: Cell::new(0),
            without_hooks: Cell::new(false),
            checkpoint_pages: Cell::new(0),
            failure: Cell::new(0),
            failed_callback: Cell::new(None),
            rollback_pending: Cell::new(false),
        }
    }

    /// Number of the exception of the running request, or 0.
    pub fn failure(&self) -> u32 {
        self.failure.get()
    }

    /// A session begins; it uses the same slot as a preupdate hook.
    pub fn begin_session(&self) -> Result<()> {
        if self.handle_of(abi::CALLBACK_PREUPDATE).is_some() {
            return Err(Error::programming(
                "a session cannot be opened while a preupdate hook is set: remove the hook first",
            ));
        }
        self.sessions.set(self.sessions.get() + 1);
        Ok(())
    }

    pub fn end_session(&self) {
        self.sessions.set(self.sessions.get() - 1);
    }

    /// Null once the request is answered, so that its cancel word is not read any more. Returns the previous one.
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
        self.deferral.begin_request();
        self.failure.set(0);
        self.failed_callback.set(None);
    }

    /// The request is answered: remaining deferred steps belong to a statement with rows left. Their exceptions
    /// are that statement's, and reported when their instance is next used.
    pub fn flush_rest(&self) {
        let failure = self.failure.get();
        if self.deferral.flush(self).is_err() {
            self.failure.set(failure);
        }
    }

    /// Calls the host with the array that `encode` writes, and passes the result to `receive`.
    pub fn call<R>(
        &self,
        callee: Callee<'_>,
        encode: impl FnOnce(&mut Encoder) -> Result<()>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        self.deferral.flush(self)?;
        let mut arguments = self.arguments.borrow_mut();
        arguments.clear(KEPT_BYTES);
        encode(&mut arguments).map_err(|_| NO_MEMORY)?;
        self.call_host(callee, Arguments::Array(arguments.bytes()), receive)
    }

    /// As `call`, with arguments that need no encoding.
    pub fn call_with<R>(
        &self,
        callee: Callee<'_>,
        arguments: Arguments<'_>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        self.deferral.flush(self)?;
        self.call_host(callee, arguments, receive)
    }

    /// As `call`, with the deferred steps as arguments.
    fn call_with_steps<R>(
        &self,
        callee: Callee<'_>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        let (mut receive, mut result) = (Some(receive), Err(NO_MEMORY));
        self.deferral.flush_with_steps(self, &mut |array| {
            if let Some(receive) = receive.take() {
                result = self.call_host(callee, Arguments::Array(array), receive);
            }
        })?;
        result
    }

    /// Keeps a request's first exception: later ones follow from it.
    pub fn note_failure(&self, number: u32) {
        if self.failure.get() == 0 {
            self.failure.set(number);
        }
    }

    /// Calls the host immediately, even if other calls are deferred.
    pub fn call_host<R>(
        &self,
        callee: Callee<'_>,
        arguments: Arguments<'_>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        match argument_block::call_host(callee, arguments) {
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

/// # Safety
/// SQLite passes the pointer that was registered with the callback.
unsafe fn callbacks_of<'a>(context: *mut c_void) -> &'a Callbacks {
    // SAFETY: the caller's promise.
    unsafe { &*context.cast::<Callbacks>() }
}

/// # Safety
/// `text` is NULL or ends in a NUL.
pub unsafe fn encode_text(text: *const c_char, out: &mut Encoder) -> Result<()> {
    if text.is_null() {
        return out.null();
    }
    // SAFETY: the caller's promise.
    out.text(lossy(unsafe { bytes_of(text) })?.as_bytes())
}

/// The result as an integer.
pub fn integer(value: Value<'_>) -> c_int {
    match value {
        Value::Integer(value) => c_int::try_from(value).unwrap_or(c_int::MAX),
        _ => 0,
    }
}
