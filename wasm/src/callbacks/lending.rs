//! Whose calls of functions are put off, and when they have to be made: one statement's at a time, while it is stepped.

use super::calls::{Values, cross};
use super::deferred::Deferred;
use super::functions::Function;
use super::{Callbacks, Failed, Handle, NO_MEMORY};
use crate::abi;
use crate::wire::params::Value;

/// Calls that an execution makes one by one before anybody looks whether they could be put off.
const WORTH_A_LOOK: u32 = 32;

impl Callbacks {
    /// An execution begins: nothing was called yet.
    pub fn forget_calls(&self) {
        self.single_calls.set(0);
    }

    pub(super) fn count_single_call(&self) {
        self.single_calls
            .set(self.single_calls.get().saturating_add(1));
    }

    /// Whether the running statement has called functions.
    pub fn has_called(&self) -> bool {
        self.single_calls.get() > 0
    }

    /// Whether it has done so often enough for a look whether that can be put off.
    pub fn has_called_often(&self) -> bool {
        self.single_calls.get() >= WORTH_A_LOOK
    }

    /// Whether the user is told of statements or their progress.
    pub fn is_watched(&self) -> bool {
        let kinds = [
            abi::CALLBACK_AUTHORIZER,
            abi::CALLBACK_TRACE,
            abi::CALLBACK_PROGRESS,
        ];
        kinds.iter().any(|kind| self.handle_of(*kind).is_some())
    }

    /// Lets calls be put off, until `take_back`, while one statement is stepped.
    pub fn lend(&self, deferred: Deferred) {
        self.deferred.replace(Some(deferred));
    }

    pub fn take_back(&self) -> Deferred {
        self.deferred.take().unwrap_or_default()
    }

    /// Whether calls are put off no more until they were made.
    pub fn is_full(&self) -> bool {
        self.deferred
            .borrow()
            .as_ref()
            .is_some_and(Deferred::is_full)
    }

    /// Whether one of the calls that were put off has raised when it was made.
    pub(super) fn call_has_failed(&self) -> bool {
        self.deferred
            .borrow()
            .as_ref()
            .is_some_and(Deferred::has_failed)
    }

    /// How many calls there were for the rows that are being read.
    pub fn deferred_count(&self) -> usize {
        self.deferred.borrow().as_ref().map_or(0, Deferred::count)
    }

    /// Python is called for something else: what was put off comes first, and nothing more is put off.
    pub(super) fn settle_calls(&self) -> core::result::Result<(), Failed> {
        let mut lent = self.deferred.borrow_mut();
        match lent.as_mut() {
            Some(deferred) if deferred.answers.count() < deferred.count() => {
                deferred.is_over = true;
                deferred.make_all(self)
            }
            _ => Ok(()),
        }
    }

    /// Puts a call off, or makes it, for the answers that rows have holes for; `None` where it is none of these and to
    /// be made at once.
    ///
    /// # Safety
    /// `values` are what SQLite passed to `function`, which runs.
    pub(super) unsafe fn put_off(
        &self,
        function: &Function,
        values: Values,
    ) -> Option<core::result::Result<(), Failed>> {
        let mut lent = self.deferred.borrow_mut();
        let deferred = lent.as_mut()?;
        if !deferred.has_planned(function) {
            return None;
        }
        if !self.steps.is_empty() {
            deferred.is_over = true;
        }
        // SAFETY: the caller's promise.
        let put = unsafe { deferred.put(&function.handle, values) };
        drop(lent);
        Some(match put {
            Ok(true) => Ok(()),
            // SAFETY: the caller's promise.
            Ok(false) => unsafe { self.call_now(&function.handle, values) },
            Err(_) => Err(NO_MEMORY),
        })
    }

    /// Makes a call that cannot be put off, and those before it.
    ///
    /// # Safety
    /// As `put_off`.
    unsafe fn call_now(&self, handle: &Handle, values: Values) -> core::result::Result<(), Failed> {
        let receive = |value: Value<'_>| match self.deferred.borrow_mut().as_mut() {
            Some(deferred) => deferred.take_made(value),
            None => Ok(()),
        };
        // SAFETY: the caller's promise.
        unsafe { cross(self, handle, values, receive)? }
    }
}
