//! Calls of Python functions that are put off, so that one crossing to the host makes many.
//!
//! It can be done where a function's result goes to the row that is sent and nowhere else, which the statement's
//! program shows (`program`). To SQLite such a call returns NULL; whoever encodes the row leaves a hole for the answer
//! there (`run::rows`). The calls are made in their order, and before anything else that Python is called for: what
//! comes in between would do so with every row, so from then on each call of this execution is made at once.

use core::ptr;
use std::rc::Rc;

use super::answers::Answers;
use super::calls::{SCALAR, Values};
use super::functions::Function;
use super::runs::{Runs, encode_small};
use super::{Callbacks, Callee, Failed, Handle, INTERRUPTED, NO_MEMORY, NOTHING};
use crate::abi;
use crate::buffers::push;
use crate::callbacks::argument_block;
use crate::callbacks::argument_block::Arguments;
use crate::error::{Error, Result, code};
use crate::program::Plan;
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

/// The calls of one execution of a statement that are put off, and the answers to those that were made.
#[derive(Default)]
pub struct Deferred {
    pub plan: Rc<Plan>,
    /// Nothing is put off any more: what is called goes to `answers` at once.
    pub(super) is_over: bool,
    runs: Runs,
    /// Where in `runs` the arguments of each call are.
    starts: Vec<usize>,
    called: Vec<Called>,
    pub answers: Answers,
    failed: Option<Failed>,
    /// A function that is known to be among the plan's.
    newest: Option<*const Function>,
}

impl Deferred {
    pub fn new(plan: Rc<Plan>, answers: Answers) -> Self {
        Self {
            plan,
            answers,
            ..Self::default()
        }
    }

    /// Forgets the calls and their answers.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.starts.clear();
        self.called.clear();
        self.answers.clear();
        self.newest = None;
    }

    /// Whether calls of `function` are put off.
    pub(super) fn has_planned(&mut self, function: &Function) -> bool {
        if self.newest == Some(ptr::from_ref(function)) {
            return true;
        }
        let has_planned = self.plan.functions.contains(&function.signature);
        if has_planned {
            self.newest = Some(function);
        }
        has_planned
    }

    /// How many calls there have been.
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn is_full(&self) -> bool {
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
    pub(super) unsafe fn put(&mut self, handle: &Rc<Handle>, values: Values) -> Result<bool> {
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
    pub(super) fn take_made(&mut self, value: Value<'_>) -> core::result::Result<(), Failed> {
        push(&mut self.starts, 0).map_err(|_| NO_MEMORY)?;
        self.answers.take_one(value)
    }

    /// Has the host make the calls that are left; if answers are large, as many as have answers that fit one batch of
    /// rows, and no more once the request is cancelled.
    pub fn make_some(&mut self, callbacks: &Callbacks) -> core::result::Result<(), Failed> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let next = self.answers.count();
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

    /// Has the host make all calls, though it may stop where answers are large.
    fn make_first(
        &mut self,
        callbacks: &Callbacks,
        all: usize,
    ) -> core::result::Result<(), Failed> {
        // The host is told what is too large, for it makes no call after that.
        let callee = Callee::new(abi::CALLBACK_CALLS, self.answers.largest as u32);
        let array = Arguments::Array(self.runs.finished());
        let answers = &mut self.answers;
        let taken = callbacks.cross(callee, array, |value| answers.take(value, all))?;
        callbacks.note_failure(core::mem::take(&mut answers.raised));
        taken
    }

    /// Makes one call as if it had not been put off: the answers are large, so that is as good.
    fn make_one(&mut self, callbacks: &Callbacks, call: usize) -> core::result::Result<(), Failed> {
        let called = self.called.partition_point(|called| called.first <= call) - 1;
        let Called { handle, width, .. } = &self.called[called];
        let mut reader = Reader::new(&self.runs.bytes()[self.starts[call]..]);
        let mut array = callbacks.arguments.borrow_mut();
        let arguments = match width {
            0 => NOTHING,
            1 => Arguments::One(reader.value().map_err(|_| NO_MEMORY)?),
            _ => {
                array.clear(super::KEPT_BYTES);
                copy_array(&mut reader, *width, &mut array).map_err(|_| NO_MEMORY)?;
                Arguments::Array(array.bytes())
            }
        };
        let callee = handle.callee(abi::CALLBACK_FUNCTION);
        let answers = &mut self.answers;
        callbacks.cross(callee, arguments, |value| answers.take_one(value))?
    }

    /// What a statement that failed fails with: the calls come before what went wrong. After an interrupt nobody waits
    /// for the answers, and each call may take its time.
    pub fn error_after(&mut self, callbacks: &Callbacks, error: Error) -> Error {
        if error.code & 0xff == code::INTERRUPT && !self.has_failed() {
            return error;
        }
        let made = self.make_all(callbacks);
        made.map_or_else(|failed| SCALAR.error(failed), |()| error)
    }

    pub fn make_all(&mut self, callbacks: &Callbacks) -> core::result::Result<(), Failed> {
        loop {
            self.make_some(callbacks)?;
            if self.answers.count() == self.count() {
                return Ok(());
            }
        }
    }
}

/// Writes the next `width` values as an array.
fn copy_array(values: &mut Reader<'_>, width: usize, out: &mut Encoder) -> Result<()> {
    out.array(width)?;
    for _ in 0..width {
        argument_block::encode(&values.value()?, out)?;
    }
    Ok(())
}
