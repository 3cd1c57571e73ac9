//! The statement that is being stepped, while it may put calls off whose results go to aggregates.
//!
//! Such a statement may do all its work before it has a row, so it is looked at while it runs.

use core::sync::atomic::{AtomicU32, Ordering};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use super::answers::Answers;
use super::calls::SCALAR;
use super::deferred::Deferred;
use super::{Callbacks, own_aggregates};
use crate::error::{Error, Result};
use crate::program::Known;
use crate::statement::Statement;

pub struct Stepped {
    statement: *mut ffi::sqlite3_stmt,
    known: Rc<Known>,
    /// Whether what was known before was asked for.
    has_asked: bool,
}

impl Callbacks {
    /// Steps `statement` by `step`; in the end nothing is put off any more.
    pub fn stepping<R>(
        &self,
        statement: &mut Statement,
        step: impl FnOnce(&mut Statement) -> Result<R>,
    ) -> Result<R> {
        self.is_interrupted.set(false);
        self.stepped.replace(Some(Stepped {
            statement: statement.raw(),
            known: statement.known.clone(),
            has_asked: false,
        }));
        let result = step(statement);
        self.stepped.replace(None);
        match self.deferred.take() {
            Some(deferred) => self.end_sums(deferred, result),
            None => result,
        }
    }

    fn end_sums<R>(&self, mut deferred: Deferred, result: Result<R>) -> Result<R> {
        own_aggregates::release();
        let stepped = result.map_err(|error| deferred.error_after(self, error))?;
        let summed_up = deferred.sum_up(self);
        summed_up.map_err(|failed| SCALAR.error(failed))?;
        if deferred.count() > 0 {
            return Err(Error::internal(
                "an aggregate takes other results than the statement's program says",
            ));
        }
        Ok(stepped)
    }

    /// Null once the request is answered: its cancel word is not looked at any more.
    pub fn set_cancel(&self, cancel: *const AtomicU32) {
        self.cancel.set(cancel);
    }

    pub fn is_cancelled(&self) -> bool {
        let cancel = self.cancel.get();
        // SAFETY: not null only while the request's frame is in the ring.
        !cancel.is_null() && unsafe { (*cancel).load(Ordering::Relaxed) != 0 }
    }

    /// What was put off is not called for any more.
    pub fn abandon_calls(&self) {
        self.is_interrupted.set(true);
    }

    /// Whether calls can be put off from now on, if it is time for a look: at the first call, when the statement may
    /// be known from before, and at that which makes a look worth it.
    pub(super) fn look_for_sums(&self) -> Option<Deferred> {
        let mut stepped = self.stepped.borrow_mut();
        let stepped = stepped.as_mut()?;
        if core::mem::replace(&mut stepped.has_asked, true) && !self.is_time_for_a_look() {
            return None;
        }
        // SAFETY: whoever steps it says so.
        let plan = unsafe { stepped.known.plan(stepped.statement, self)? };
        if !plan.is_for_aggregates() {
            return None;
        }
        // SAFETY: as above.
        let db = unsafe { ffi::sqlite3_db_handle(stepped.statement) };
        // SAFETY: the callbacks outlive the connection; `stepping` has them released.
        unsafe { own_aggregates::take_over(db, self) };
        Some(Deferred::new(plan, Answers::new(0, largest_value(db))))
    }
}

/// The most bytes that a text or blob may have.
pub fn largest_value(db: *mut ffi::sqlite3) -> usize {
    // SAFETY: `db` is open; -1 changes nothing.
    unsafe { ffi::sqlite3_limit(db, ffi::SQLITE_LIMIT_LENGTH, -1) as usize }
}
