//! Callbacks that SQLite does not allow to fail: collations, update and preupdate hooks.
//! <https://sqlite.org/c3ref/create_collation.html>, <https://sqlite.org/c3ref/update_hook.html>
//!
//! When one raises, SQLite continues as if it had answered, so the statement has to be failed from outside: the
//! progress handler ends it, and if it completes before that, its request is answered with the error. Its changes
//! are not kept: the commit hook refuses a commit, and a transaction that stays open is rolled back, as SQLite
//! does when a change is interrupted.

use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::callbacks::Callbacks;
use crate::error::{Error, Result, code};

impl Callbacks {
    /// Lets the running statement fail, since the callback that `noun` names cannot. `db` calls us.
    pub(super) fn fail_and_roll_back(&self, noun: &'static str, db: *mut ffi::sqlite3) {
        self.fail(noun);
        if changes_run(db) {
            self.rollback_pending.set(true);
        }
    }

    /// Fails the running statement without undoing its changes.
    pub(super) fn fail(&self, noun: &'static str) {
        // It may not have been called at all, because a deferred function before it failed.
        let noun = if self.deferral.has_failed() {
            "function"
        } else {
            noun
        };
        self.failed_callback.set(Some(noun));
    }

    /// Whether a callback that cannot fail has raised in the running request: none is called any more.
    pub fn has_failed(&self) -> bool {
        self.failed_callback.get().is_some()
    }

    /// Fails if a callback that cannot fail has raised.
    pub fn check(&self) -> Result<()> {
        let Some(noun) = self.failed_callback.get() else {
            return Ok(());
        };
        let message = format!("user-defined {noun} raised exception");
        Err(Error::new(abi::ERROR_SQLITE, code::ERROR, message))
    }

    /// Whether the commit must be refused and rolled back.
    pub(super) fn refuses_commit(&self) -> bool {
        self.rollback_pending.take()
    }

    /// Whether there are changes still to be rolled back.
    pub fn is_rollback_pending(&self) -> bool {
        self.rollback_pending.get()
    }

    /// The request ends: earlier exceptions must not end the ROLLBACK that may follow.
    pub fn forget_failed(&self) {
        self.failed_callback.set(None);
    }

    /// No transaction is open any more. A blob open for writing, or rows that a change still has to return, delay
    /// the end of their change: its commit will be refused.
    pub fn forget_pending_rollback(&self, db: *mut ffi::sqlite3) {
        self.rollback_pending.set(changes_run(db));
    }
}

/// Whether a statement that may change data is running.
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
