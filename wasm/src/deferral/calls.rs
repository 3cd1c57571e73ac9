//! The deferred calls of one execution of a statement.
//!
//! Calls can be deferred if a function's result is only a column of the emitted row, which the statement's
//! bytecode shows (`program`). SQLite gets NULL from such a call; the encoded row leaves a slot for the result
//! (`pending_rows`). The calls are made in order, before any other Python code is called. Another callback in
//! between would recur with every row, so from then on each call of this execution is made immediately.

use std::rc::Rc;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::push;
use crate::callbacks::argument_block;
use crate::callbacks::argument_block::Arguments;
use crate::callbacks::calls::{SCALAR, Values};
use crate::callbacks::deferral::Called as Made;
use crate::callbacks::{
    Callbacks, Callee, Failed, Handle, INTERRUPTED, KEPT_BYTES, NO_MEMORY, NOTHING,
};
use crate::deferral::encoding::{Runs, encode_small};
use crate::deferral::program::DeferralPlan;
use crate::deferral::results::Results;
use crate::error::{Error, Result, code};
use crate::sqlite::statement::Statement;
use crate::wire::params::{Reader, Value};
use crate::wire::rows::Encoder;

/// What several calls in a row have in common.
struct Called {
    /// The number of the first one.
    first: usize,
    /// Kept until the calls were made.
    handle: Rc<Handle>,
    /// The number of arguments.
    width: usize,
}

/// The deferred calls of one execution, and the results of those already made.
#[derive(Default)]
pub struct PendingCalls {
    pub plan: Rc<DeferralPlan>,
    /// Nothing is deferred any more: results of calls go to `results` immediately.
    is_over: bool,
    runs: Runs,
    /// The offset of each call's arguments in `runs`.
    starts: Vec<usize>,
    called: Vec<Called>,
    pub results: Results,
    failed: Option<Failed>,
    /// The number of a function known to be in the plan.
    pub newest: Option<usize>,
    /// For several arguments.
    array: Encoder,
}

impl PendingCalls {
    pub fn new(plan: Rc<DeferralPlan>, statement: &Statement, format: u16) -> Self {
        Self {
            plan,
            results: Results::new(format, largest_value(statement)),
            ..Self::default()
        }
    }

    /// Forgets the calls and their results.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.starts.clear();
        self.called.clear();
        self.results.clear();
        self.newest = None;
    }

    /// Defers nothing any more.
    pub fn stop(&mut self) {
        self.is_over = true;
    }

    /// Whether some calls have not been made yet.
    pub fn is_unfinished(&self) -> bool {
        self.results.count() < self.count()
    }

    /// The number of calls so far.
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    pub fn is_full(&self) -> bool {
        self.runs.is_full()
    }

    /// Whether a call has failed: none is made after it.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Defers a call; `false` if it must be made immediately and reported to `take_made`.
    ///
    /// # Safety
    /// `values` are what SQLite passed to the running function.
    pub unsafe fn put(&mut self, handle: &Rc<Handle>, values: Values) -> Result<bool> {
        let (number, width) = (self.count(), values.1 as usize);
        if self.is_over {
            return Ok(false);
        }
        let key = argument_block::key(abi::CALLBACK_FUNCTION, handle.number());
        let mut can_wait = true;
        // SAFETY: the caller's promise.
        let write = |out: &mut Encoder| unsafe { encode_small(values, &mut can_wait, out) };
        let start = match self.runs.push(key, width, write) {
            Err(_) if !can_wait => return Ok(false),
            pushed => pushed?,
        };
        let same = |last: &Called| Rc::ptr_eq(&last.handle, handle) && last.width == width;
        if !self.called.last().is_some_and(same) {
            let called = Called {
                first: number,
                handle: handle.clone(),
                width,
            };
            push(&mut self.called, called)?;
        }
        push(&mut self.starts, start)?;
        Ok(true)
    }

    /// Takes the result of a call that was made immediately, after all earlier ones.
    pub fn take_made(&mut self, value: Value<'_>) -> Made {
        push(&mut self.starts, 0).map_err(|_| NO_MEMORY)?;
        self.results.take_one(value)
    }

    /// Has the host make the remaining calls; if results are large, as many as have results that fit one batch of
    /// rows, and none once the request is cancelled.
    pub fn make_some(&mut self, callbacks: &Callbacks) -> Made {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let next = self.results.count();
        let left = self.count() - next;
        let made = if left == 0 {
            return Ok(());
        } else if self.runs.is_empty() && callbacks.is_cancelled() {
            Err(INTERRUPTED)
        } else if self.runs.is_empty() {
            self.make_one(callbacks, next)
        } else {
            self.make_first(callbacks, left)
        };
        made.inspect_err(|failed| self.failed = Some(*failed))
    }

    /// Has the host make all calls, although it may stop after large results.
    fn make_first(&mut self, callbacks: &Callbacks, all: usize) -> Made {
        // The host needs the size limit: it stops calling after a result that exceeds it.
        let callee = Callee::new(abi::CALLBACK_CALLS, self.results.largest as u32);
        let array = Arguments::Array(self.runs.finished());
        let results = &mut self.results;
        let taken = callbacks.call_host(callee, array, |value| results.take(value, all))?;
        callbacks.note_failure(core::mem::take(&mut results.raised));
        taken
    }

    /// Makes one call as if it had not been deferred: with large results, batching gains nothing.
    fn make_one(&mut self, callbacks: &Callbacks, call: usize) -> Made {
        let called = self.called.partition_point(|called| called.first <= call) - 1;
        let Called { handle, width, .. } = &self.called[called];
        let mut reader = Reader::new(&self.runs.bytes()[self.starts[call]..]);
        let array = &mut self.array;
        let arguments = match width {
            0 => NOTHING,
            1 => Arguments::One(reader.value().map_err(|_| NO_MEMORY)?),
            _ => {
                array.clear(KEPT_BYTES);
                copy_array(&mut reader, *width, array).map_err(|_| NO_MEMORY)?;
                Arguments::Array(array.bytes())
            }
        };
        let callee = handle.callee(abi::CALLBACK_FUNCTION);
        let results = &mut self.results;
        callbacks.call_host(callee, arguments, |value| results.take_one(value))?
    }

    /// The error of a failed statement: deferred calls come before it. After an interrupt the results are not
    /// wanted, and each call may take long.
    pub fn error_after(&mut self, callbacks: &Callbacks, error: Error) -> Error {
        if error.code & 0xff == code::INTERRUPT && !self.has_failed() {
            return error;
        }
        let made = self.make_all(callbacks);
        made.map_or_else(|failed| SCALAR.error(failed), |()| error)
    }

    pub fn make_all(&mut self, callbacks: &Callbacks) -> Made {
        loop {
            self.make_some(callbacks)?;
            if !self.is_unfinished() {
                return Ok(());
            }
        }
    }
}

/// The maximum size of a text or blob.
fn largest_value(statement: &Statement) -> usize {
    // SAFETY: the connection is open; -1 changes nothing.
    unsafe { ffi::sqlite3_limit(statement.db(), ffi::SQLITE_LIMIT_LENGTH, -1) as usize }
}

/// Writes the next `width` values as an array.
fn copy_array(values: &mut Reader<'_>, width: usize, out: &mut Encoder) -> Result<()> {
    out.array(width)?;
    for _ in 0..width {
        argument_block::encode(&values.value()?, out)?;
    }
    Ok(())
}
