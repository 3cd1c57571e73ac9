//! The user's callbacks: SQLite calls these functions, they call the host.
//!
//! The guest is not entered while the host runs a callback, so one buffer for arguments and one for answers
//! serve them all.

mod aggregates;
mod calls;
pub mod collations;
pub mod functions;
mod handlers;
pub mod hooks;

use core::cell::{Cell, RefCell};
use core::ffi::c_int;
use core::num::NonZeroU32;
use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::error::{Error, Result, code};
use crate::host;
use crate::wire::params::{Reader, Value};
use crate::wire::rows::Encoder;

/// Arguments larger than this are not kept room for.
const KEPT_BYTES: usize = 65_536;
const ANSWER_BYTES: usize = abi::CALLBACK_ANSWER_BYTES as usize;
/// Kinds of hooks are small numbers; each has one slot.
const SLOTS: usize = abi::CALLBACK_WAL as usize + 1;

/// What the host holds for the guest; given back when dropped.
#[derive(Debug)]
pub struct Handle(NonZeroU32);

impl Handle {
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    fn number(&self) -> u32 {
        self.0.get()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut nothing = [0; ANSWER_BYTES];
        host::callback(abi::CALLBACK_RELEASE, self.number(), &[], &mut nothing);
    }
}

/// Why a callback has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Raised,
    NoMemory,
    TooLarge,
    NoMethod,
}

impl Failure {
    fn of(code: i32) -> Self {
        match code {
            abi::CALLBACK_NO_MEMORY => Self::NoMemory,
            abi::CALLBACK_TOO_LARGE => Self::TooLarge,
            abi::CALLBACK_NO_METHOD => Self::NoMethod,
            _ => Self::Raised,
        }
    }
}

/// The callbacks of one connection; SQLite holds its address.
pub struct Callbacks {
    arguments: RefCell<Encoder>,
    answer: RefCell<Box<[u8; ANSWER_BYTES]>>,
    hooks: [Cell<Option<Handle>>; SLOTS],
    /// Whose update hook is set.
    db: Cell<*mut ffi::sqlite3>,
    progress_steps: Cell<c_int>,
    progress_done: Cell<c_int>,
    /// `PRAGMA wal_autocheckpoint`, which a WAL hook takes the place of.
    checkpoint_pages: Cell<c_int>,
    /// The exception that the running request fails with: its number at the host.
    failure: Cell<u32>,
    /// What raised although SQLite does not let it fail; the statement does.
    spoiled: Cell<Option<&'static str>>,
}

impl Default for Callbacks {
    fn default() -> Self {
        Self {
            arguments: RefCell::default(),
            answer: RefCell::new(Box::new([0; ANSWER_BYTES])),
            hooks: [const { Cell::new(None) }; SLOTS],
            db: Cell::new(ptr::null_mut()),
            progress_steps: Cell::new(0),
            progress_done: Cell::new(0),
            checkpoint_pages: Cell::new(0),
            failure: Cell::new(0),
            spoiled: Cell::new(None),
        }
    }
}

impl Callbacks {
    /// Number of the exception of the running request, or 0.
    pub fn failure(&self) -> u32 {
        self.failure.get()
    }

    /// A new request begins.
    pub fn forget_failure(&self) {
        self.failure.set(0);
        self.spoiled.set(None);
    }

    /// The error of a statement that went on after a callback had raised, for want of a way to say so.
    pub fn spoiled(&self) -> Option<Error> {
        let message = |what| format!("user-defined {what} raised exception");
        let what = self.spoiled.get()?;
        Some(Error::new(abi::ERROR_SQLITE, code::ERROR, message(what)))
    }

    /// Calls the host with the array that `encode` writes, and gives `receive` the answer.
    fn call<R>(
        &self,
        kind: i32,
        handle: u32,
        encode: impl FnOnce(&mut Encoder) -> Result<()>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failure> {
        let mut arguments = self.arguments.borrow_mut();
        arguments.clear(KEPT_BYTES);
        encode(&mut arguments).map_err(|_| Failure::NoMemory)?;
        let mut answer = self.answer.borrow_mut();
        let length = host::callback(kind, handle, arguments.bytes(), &mut answer);
        let Ok(length) = usize::try_from(length) else {
            self.note(&answer);
            return Err(Failure::of(length));
        };
        if let Some(answer) = answer.get(..length) {
            return receive_from(answer, receive);
        }
        let mut large = Vec::new();
        large
            .try_reserve_exact(length)
            .map_err(|_| Failure::NoMemory)?;
        large.resize(length, 0);
        host::callback_answer(&mut large).map_err(|_| Failure::NoMemory)?;
        receive_from(&large, receive)
    }

    /// Keeps the first exception of a request: the others follow from it.
    fn note(&self, answer: &[u8; ANSWER_BYTES]) {
        if self.failure.get() == 0 {
            let number = answer.first_chunk().expect("an answer has four bytes");
            self.failure.set(u32::from_le_bytes(*number));
        }
    }
}

fn receive_from<R>(
    answer: &[u8],
    receive: impl FnOnce(Value<'_>) -> R,
) -> core::result::Result<R, Failure> {
    let value = Reader::new(answer).value().map_err(|_| Failure::Raised)?;
    Ok(receive(value))
}

/// The answer where an integer is wanted.
fn integer(value: Value<'_>) -> c_int {
    match value {
        Value::Integer(value) => c_int::try_from(value).unwrap_or(c_int::MAX),
        _ => 0,
    }
}
