//! Aggregates of SQLite's own over calls that are put off (`deferred`): their steps wait for the answers.
//!
//! While a statement runs whose plan says so, these aggregates are taken over (`own_aggregates`): a step is kept where its
//! argument is what `result` left there, and done once the call is answered. `SELECT sum(f(x))` then crosses to the host
//! once for hundreds of rows.

use libsqlite3_sys as ffi;

use super::answers::{Answers, check_length, each};
use super::argument::Argument;
use super::functions::Method;
use super::{Callbacks, Failed, NO_MEMORY};
use crate::buffers::push;
use crate::wire::params::{Reader, Value};

/// Together they tell what `result` leaves from any other value: a subtype that no function of SQLite's has, and what the
/// integer has in its upper half.
const SUBTYPE: u32 = 0xd7;
const MARK: i64 = 0x5a7e_11fe << 32;

/// Leaves the result of the call that is the `number`th, from 1 on, to the step that takes it.
///
/// # Safety
/// `context` is that of the running function.
pub unsafe fn result(context: *mut ffi::sqlite3_context, number: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        ffi::sqlite3_result_int64(context, MARK | number as i64);
        ffi::sqlite3_result_subtype(context, SUBTYPE);
    }
}

/// The number that `result` left in `value`, 0 if it did not.
///
/// # Safety
/// `value` is one that SQLite passes to a function.
unsafe fn number_in(value: *mut ffi::sqlite3_value) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        if ffi::sqlite3_value_subtype(value) != SUBTYPE {
            return 0;
        }
        let marked = ffi::sqlite3_value_int64(value) ^ MARK;
        u32::try_from(marked).map_or(0, |number| number as usize)
    }
}

impl Callbacks {
    /// Keeps a step if it takes the result of a call that was put off; others come after those that were kept.
    pub(super) fn wait_with_step(&self, mut step: Step) -> core::result::Result<bool, Failed> {
        let mut lent = self.deferred.borrow_mut();
        let Some(deferred) = lent.as_mut() else {
            return Ok(false);
        };
        if step.counts {
            step.call = core::mem::take(&mut deferred.sums.condition);
        }
        if (1..=deferred.count()).contains(&step.call) {
            return deferred.sums.add(step).map(|()| true);
        }
        if deferred.is_over {
            deferred.sum_up(self)?;
        }
        Ok(false)
    }

    /// An aggregate ends, maybe because its statement was interrupted: then nobody looks at the result.
    pub(super) fn end_with_steps(&self) -> core::result::Result<(), Failed> {
        let mut lent = self.deferred.borrow_mut();
        match lent.as_mut() {
            Some(deferred) if !self.is_interrupted.get() => deferred.sum_up(self),
            _ => Ok(()),
        }
    }
}

/// A step that waits for the answer to its call.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Of the instruction that does it, so it is there as long as the statement.
    context: *mut ffi::sqlite3_context,
    original: Method,
    /// Its number, from 1 on; 0 if it takes another value.
    call: usize,
    /// It takes no value, but is done if the answer is true.
    counts: bool,
}

impl Step {
    /// The step that SQLite wants done with `value`, if it takes one.
    ///
    /// # Safety
    /// SQLite has passed `context` and `value` to the step in the place of `original`.
    pub unsafe fn new(
        context: *mut ffi::sqlite3_context,
        original: Method,
        value: Option<*mut ffi::sqlite3_value>,
    ) -> Self {
        Self {
            context,
            original,
            // SAFETY: the caller's promise.
            call: value.map_or(0, |value| unsafe { number_in(value) }),
            counts: value.is_none(),
        }
    }

    /// # Safety
    /// The statement runs whose step this is, and the argument is set.
    unsafe fn take(&self, argument: &mut Argument) {
        // SAFETY: the caller's promise.
        unsafe {
            if !self.counts {
                (self.original)(self.context, 1, argument.as_mut_ptr());
            } else if argument.is_true() {
                (self.original)(self.context, 0, core::ptr::null_mut());
            }
        }
    }
}

/// The steps of one execution that wait, in their order.
#[derive(Default)]
pub struct Sums {
    waiting: Vec<Step>,
    /// How many there have been.
    count: usize,
    /// Not each came as its call had.
    are_mixed: bool,
    /// The newest call, should it be the condition of a step that comes next; 0 if that was answered at once.
    pub(super) condition: usize,
    argument: Argument,
}

impl Sums {
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.count = 0;
        self.are_mixed = false;
        self.condition = 0;
    }

    fn add(&mut self, step: Step) -> core::result::Result<(), Failed> {
        push(&mut self.waiting, step).map_err(|_| NO_MEMORY)?;
        self.count += 1;
        self.are_mixed |= step.call != self.count;
        Ok(())
    }

    /// Whether the steps have come in the order of their calls.
    pub fn are_in_order(&self) -> bool {
        !self.are_mixed
    }

    /// How many steps there have been: each call that was put off has one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Does the next steps with what the host answered to their calls, which are `most`; returns how many it answered.
    pub fn take(
        &mut self,
        answered: Value<'_>,
        (most, largest): (usize, usize),
    ) -> core::result::Result<usize, Failed> {
        let mut done = 0;
        let taken = each(answered, most, |answer, _| {
            check_length(&answer, largest)?;
            self.argument.set(answer)?;
            // SAFETY: the statement runs, so its contexts are there; the value is set.
            unsafe { self.waiting[done].take(&mut self.argument) };
            done += 1;
            Ok(())
        });
        self.waiting.drain(..done);
        taken
    }

    /// Does the steps whose calls are answered.
    pub fn step(&mut self, answers: &Answers) -> core::result::Result<(), Failed> {
        let is_left = |step: &Step| step.call > answers.count();
        let done = self.waiting.iter().position(is_left);
        for step in self.waiting.drain(..done.unwrap_or(self.waiting.len())) {
            let (bytes, place) = answers.get(step.call - 1);
            let answer = Reader::new(&bytes[place]).value();
            self.argument.set(answer.map_err(|_| NO_MEMORY)?)?;
            // SAFETY: the statement runs, so its contexts are there; the value is set.
            unsafe { step.take(&mut self.argument) };
        }
        Ok(())
    }
}
