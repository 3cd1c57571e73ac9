//! Calls of functions that one execution of a statement has put off.
//!
//! It can be done where a function's result goes to the row that is sent and nowhere else, which the statement's
//! program shows (`program`). To SQLite such a call returns NULL; the row that is encoded leaves a slot for the result
//! there (`pending_rows`). The calls are made in their order, and before anything else that Python is called for: what
//! comes in between would do so with every row, so from then on each call of this execution is made at once.

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

/// What some calls in a row have in common.
struct Called {
    /// The number of the first of them.
    first: usize,
    /// Held until the calls were made.
    handle: Rc<Handle>,
    /// How many arguments.
    width: usize,
}

/// The calls of one execution of a statement that are put off, and the results to those that were made.
#[derive(Default)]
pub struct PendingCalls {
    pub plan: Rc<DeferralPlan>,
    /// Nothing is put off any more: what is called goes to `results` at once.
    is_over: bool,
    runs: Runs,
    /// Where in `runs` the arguments of each call are.
    starts: Vec<usize>,
    called: Vec<Called>,
    pub results: Results,
    failed: Option<Failed>,
    /// The number of a function that is known to be among the plan's.
    pub newest: Option<usize>,
    /// For arguments that are more than one.
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

    /// Puts nothing off any more.
    pub fn stop(&mut self) {
        self.is_over = true;
    }

    /// Whether there are calls that were not made yet.
    pub fn is_unfinished(&self) -> bool {
        self.results.count() < self.count()
    }

    /// How many calls there have been.
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    pub fn is_full(&self) -> bool {
        self.runs.is_full()
    }

    /// Whether a call has no answer: none is made after it.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Puts a call off; `false` if it has to be made at once and `take_made` to be told.
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

    /// Takes the answer to a call that was made at once, when all before it were made.
    pub fn take_made(&mut self, value: Value<'_>) -> Made {
        push(&mut self.starts, 0).map_err(|_| NO_MEMORY)?;
        self.results.take_one(value)
    }

    /// Has the host make the calls that are left; if results are large, as many as have results that fit one batch of
    /// rows, and no more once the request is cancelled.
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

    /// Has the host make all calls, though it may stop where results are large.
    fn make_first(&mut self, callbacks: &Callbacks, all: usize) -> Made {
        // The host is told what is too large, for it makes no call after that.
        let callee = Callee::new(abi::CALLBACK_CALLS, self.results.largest as u32);
        let array = Arguments::Array(self.runs.finished());
        let results = &mut self.results;
        let taken = callbacks.call_host(callee, array, |value| results.take(value, all))?;
        callbacks.note_failure(core::mem::take(&mut results.raised));
        taken
    }

    /// Makes one call as if it had not been put off: the results are large, so that is as good.
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

    /// What a statement that failed fails with: the calls come before what went wrong. After an interrupt nobody waits
    /// for the results, and each call may take its time.
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

/// The most bytes that a text or blob may have.
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
