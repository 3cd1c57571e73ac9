//! The user's open `transaction()` and `savepoint()` blocks, and what happens if SQLite rolls back their
//! transaction by itself.
//!
//! SQLite does that on some errors: an interrupted change, ON CONFLICT ROLLBACK, a full disk. The rest of the
//! block would then be committed on its own, so half of the block would stay.
//!
//! <https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction>

use core::cell::{Cell, RefCell};
use core::ffi::{CStr, c_int};

use libsqlite3_sys as ffi;

use crate::abi;
use crate::error::{Error, Result};

#[derive(Default)]
pub struct Blocks {
    /// By the host's numbers.
    open: RefCell<Vec<u32>>,
    /// Whether a transaction was open when the last statement ended.
    in_transaction: Cell<bool>,
    /// The result code with which SQLite rolled back the open blocks' transaction.
    lost: Cell<Option<c_int>>,
}

impl Blocks {
    /// A statement succeeded: if the transaction has ended, that was intended.
    pub fn note_success(&self, in_transaction: bool) {
        self.in_transaction.set(in_transaction);
    }

    /// A request failed with this result code: if the transaction has ended, SQLite rolled it back.
    pub fn note_failure(&self, in_transaction: bool, code: c_int) {
        let was_open = self.in_transaction.replace(in_transaction);
        if was_open && !in_transaction && !self.open.borrow().is_empty() {
            self.lost.set(self.lost.get().or(Some(code)));
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Fails in a block whose transaction is lost.
    pub fn check(&self) -> Result<()> {
        let Some(code) = self.lost.get() else {
            return Ok(());
        };
        // SAFETY: a constant of SQLite's that ends in a NUL, for any code.
        let reason = unsafe { CStr::from_ptr(ffi::sqlite3_errstr(code & 0xff)) }.to_string_lossy();
        let message = format!(
            "SQLite has rolled back the transaction of this block ({reason}): leave the block before changing data"
        );
        Err(Error::new(
            abi::ERROR_SQLITE,
            ffi::SQLITE_ABORT_ROLLBACK,
            message,
        ))
    }

    pub fn open(&self, block: u32) {
        self.open.borrow_mut().push(block);
    }

    pub fn is_open(&self, block: u32) -> bool {
        self.open.borrow().contains(&block)
    }

    pub fn close(&self, block: u32) {
        let mut open = self.open.borrow_mut();
        // A savepoint object that is entered within itself has one number.
        if let Some(at) = open.iter().rposition(|other| *other == block) {
            open.remove(at);
        }
        if open.is_empty() {
            self.lost.set(None);
        }
    }
}
