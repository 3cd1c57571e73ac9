//! Callbacks that SQLite does not let fail: collations, update and preupdate hooks.
//!
//! When one raises, SQLite goes on as if it had answered, so the statement has to fail from outside: the progress handler
//! ends it, and where it is done before that, its request is answered with the error. What it changed is not kept:
//! on the way to a commit the commit hook refuses, and a transaction that goes on is rolled back, which is also what
//! SQLite does with the transaction of a change that is interrupted.

use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::callbacks::Callbacks;
use crate::error::{Error, Result, code};

impl Callbacks {
    /// Lets the running statement fail, since the callback that `noun` names cannot. `db` calls us.
    pub(super) fn spoil(&self, noun: &'static str, db: *mut ffi::sqlite3) {
        self.complain(noun);
        if changes_run(db) {
            self.rollback_pending.set(true);
        }
    }

    /// Lets the running statement fail without taking back what it has done.
    pub(super) fn complain(&self, noun: &'static str) {
        // It may not have been called at all, for a function that was to be called before.
        let noun = if self.deferral.has_failed() {
            "function"
        } else {
            noun
        };
        self.spoiled.set(Some(noun));
    }

    /// Whether a callback of the running request has raised that could not fail: none is called any more.
    pub fn is_spoiled(&self) -> bool {
        self.spoiled.get().is_some()
    }

    /// Fails if a callback has raised that could not.
    pub fn check(&self) -> Result<()> {
        let Some(noun) = self.spoiled.get() else {
            return Ok(());
        };
        let message = format!("user-defined {noun} raised exception");
        Err(Error::new(abi::ERROR_SQLITE, code::ERROR, message))
    }

    /// Whether what is about to be committed must not be. It is rolled back then.
    pub(super) fn refuses_commit(&self) -> bool {
        self.rollback_pending.take()
    }

    /// Whether there are changes that are still to be rolled back.
    pub fn is_rollback_pending(&self) -> bool {
        self.rollback_pending.get()
    }

    /// The request ends: the ROLLBACK that may follow is not to be ended for what came before.
    pub fn forget_spoiled(&self) {
        self.spoiled.set(None);
    }

    /// No transaction is open any more. A blob that is open for writing, or rows that a change still has to return, hold
    /// up the end of their change: its commit will be refused.
    pub fn forget_pending_rollback(&self, db: *mut ffi::sqlite3) {
        self.rollback_pending.set(changes_run(db));
    }
}

/// Whether a statement is under way that may change data.
fn changes_run(db: *mut ffi::sqlite3) -> bool {
    let mut statement = ptr::null_mut();
    loop {
        // SAFETY: `db` is open, and a statement that it names is prepared.
        unsafe {
            statement = ffi::sqlite3_next_stmt(db, statement);
            if statement.is_null() {
                return false;
            }
            if ffi::sqlite3_stmt_busy(statement) != 0 && ffi::sqlite3_stmt_readonly(statement) == 0
            {
                return true;
            }
        }
    }
}
