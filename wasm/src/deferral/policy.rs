//! Decides which calls to defer, and when to make them; one statement at a time, while it is stepped.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::push;
use crate::callbacks::argument_block;
use crate::callbacks::argument_block::Arguments;
use crate::callbacks::calls::{Function, Values, encode_each, encode_values, put_result};
use crate::callbacks::deferral::{Called, Deferral};
use crate::callbacks::{Callbacks, Callee, KEPT_BYTES, NO_MEMORY};
use crate::deferral::calls::PendingCalls;
use crate::deferral::memo::Memo;
use crate::deferral::program::DeferralPlan;
use crate::deferral::statement;
use crate::deferral::steps::Steps;
use crate::error::Result;
use crate::sqlite::statement::Statement;
use crate::wire::params::{Reader, Value};
use crate::wire::rows::Encoder;

/// Calls that an execution makes one by one before its bytecode is examined.
const CALLS_BEFORE_PLANNING: u32 = 32;

/// A registered function.
struct Defined {
    /// As bytecode listings show it.
    signature: Box<[u8]>,
    /// Of a deterministic function.
    memo: Option<RefCell<Memo>>,
}

/// The policy of one connection.
#[derive(Default)]
pub struct Policy {
    /// By number; one may override another with the same signature.
    functions: RefCell<Vec<Option<Defined>>>,
    /// Arguments of a function whose results are kept.
    key: RefCell<Encoder>,
    /// Counts requests.
    request: Cell<u32>,
    /// The calls of the statement that is being stepped, if it defers any.
    calls: RefCell<Option<PendingCalls>>,
    steps: Steps,
    /// Calls that the running statement has made one by one.
    single_calls: Cell<u32>,
}

impl Policy {
    /// An execution begins: nothing has been called yet.
    pub fn begin_execution(&self) {
        self.single_calls.set(0);
    }

    /// What the running statement can defer, if anything.
    pub fn plan(&self, callbacks: &Callbacks, statement: &Statement) -> Option<Rc<DeferralPlan>> {
        let calls = self.single_calls.get();
        if calls == 0 || is_watched(callbacks) {
            return None;
        }
        let defines = |signature: &[u8]| self.defines(signature);
        statement::plan(statement, calls >= CALLS_BEFORE_PLANNING, defines)
    }

    fn defines(&self, signature: &[u8]) -> bool {
        let functions = self.functions.borrow();
        let mut defined = functions.iter().flatten();
        defined.any(|function| &*function.signature == signature)
    }

    /// Lets calls be deferred, until `stop_deferring`, while one statement is stepped.
    pub fn start_deferring(&self, calls: PendingCalls) {
        self.calls.replace(Some(calls));
    }

    pub fn stop_deferring(&self) -> PendingCalls {
        self.calls.take().unwrap_or_default()
    }

    /// Whether no more calls can be deferred until the pending ones are made.
    pub fn is_full(&self) -> bool {
        let calls = self.calls.borrow();
        calls.as_ref().is_some_and(PendingCalls::is_full)
    }

    /// The number of calls for the rows being read.
    pub fn call_count(&self) -> usize {
        self.calls.borrow().as_ref().map_or(0, PendingCalls::count)
    }

    /// Makes the deferred calls; no more are deferred until the next batch.
    fn flush_calls(&self, callbacks: &Callbacks) -> Called {
        let mut current = self.calls.borrow_mut();
        match current.as_mut() {
            Some(calls) if calls.is_unfinished() => {
                calls.stop();
                calls.make_all(callbacks)
            }
            _ => Ok(()),
        }
    }

    fn flush_steps(&self, callbacks: &Callbacks) -> Called {
        if self.steps.is_empty() {
            return Ok(());
        }
        let callee = Callee::new(abi::CALLBACK_STEPS, 0);
        self.steps
            .take(|array| callbacks.call_host(callee, Arguments::Array(array), |_| ()))
    }

    /// Defers a call, or makes it, if rows have slots for its results; `None` otherwise.
    ///
    /// # Safety
    /// `values` are what SQLite passed to `function`, which runs.
    unsafe fn put_off(
        &self,
        callbacks: &Callbacks,
        function: &Function,
        values: Values,
    ) -> Option<Called> {
        let mut current = self.calls.borrow_mut();
        let calls = current.as_mut()?;
        if !self.is_planned(calls, function.number) {
            return None;
        }
        if !self.steps.is_empty() {
            calls.stop();
        }
        // SAFETY: the caller's promise.
        let put = unsafe { calls.put(&function.handle, values) };
        drop(current);
        Some(match put {
            Ok(true) => Ok(()),
            // SAFETY: the caller's promise.
            Ok(false) => unsafe { self.call_now(callbacks, function, values) },
            Err(_) => Err(NO_MEMORY),
        })
    }

    fn is_planned(&self, calls: &mut PendingCalls, number: usize) -> bool {
        if calls.newest == Some(number) {
            return true;
        }
        let functions = self.functions.borrow();
        let function = functions.get(number).and_then(Option::as_ref);
        let is_planned = function.is_some_and(|function| calls.plan.has(&function.signature));
        if is_planned {
            calls.newest = Some(number);
        }
        is_planned
    }

    /// Makes a call that cannot be deferred, after the pending ones.
    ///
    /// # Safety
    /// As `put_off`.
    unsafe fn call_now(
        &self,
        callbacks: &Callbacks,
        function: &Function,
        values: Values,
    ) -> Called {
        self.count_single_call();
        let receive = |value: Value<'_>| match self.calls.borrow_mut().as_mut() {
            Some(calls) => calls.take_made(value),
            None => Ok(()),
        };
        // SAFETY: the caller's promise.
        unsafe { callbacks.call_function(&function.handle, values, receive)? }
    }

    fn count_single_call(&self) {
        self.single_calls
            .set(self.single_calls.get().saturating_add(1));
    }

    /// Returns a kept result, or calls and keeps the result; for deterministic functions.
    ///
    /// # Safety
    /// As `Deferral::call`.
    unsafe fn call_once(
        &self,
        callbacks: &Callbacks,
        function: &Function,
        context: *mut ffi::sqlite3_context,
        values: Values,
        memo: &mut Memo,
    ) -> Called {
        let mut key = self.key.borrow_mut();
        key.clear(KEPT_BYTES);
        // SAFETY: the caller's promise.
        unsafe {
            encode_values(values, &mut key).map_err(|_| NO_MEMORY)?;
            if let Some(known) = memo.answer(self.request.get(), key.bytes()) {
                let value = Reader::new(known).value().expect("it was encoded below");
                put_result(context, value);
                return Ok(());
            }
            self.count_single_call();
            callbacks.call_function(&function.handle, values, |value: Value<'_>| {
                memo.keep(key.bytes(), |out| argument_block::encode(&value, out));
                put_result(context, value);
            })
        }
    }
}

impl Deferral for Policy {
    fn define(&self, signature: Box<[u8]>, is_deterministic: bool) -> Result<usize> {
        let mut functions = self.functions.borrow_mut();
        let memo = is_deterministic.then(RefCell::default);
        let defined = Some(Defined { signature, memo });
        if let Some(free) = functions.iter().position(Option::is_none) {
            functions[free] = defined;
            return Ok(free);
        }
        push(&mut functions, defined)?;
        Ok(functions.len() - 1)
    }

    fn forget(&self, number: usize) {
        self.functions.borrow_mut()[number] = None;
    }

    fn begin_request(&self) {
        self.request.set(self.request.get().wrapping_add(1));
    }

    unsafe fn call(
        &self,
        callbacks: &Callbacks,
        function: &Function,
        context: *mut ffi::sqlite3_context,
        values: Values,
    ) -> Option<Called> {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(called) = self.put_off(callbacks, function, values) {
                return Some(called);
            }
            // The host cannot define or remove a function meanwhile, because it does not enter the guest.
            let functions = self.functions.borrow();
            match functions[function.number].as_ref()?.memo.as_ref() {
                Some(memo) => {
                    let memo = &mut memo.borrow_mut();
                    Some(self.call_once(callbacks, function, context, values, memo))
                }
                None => {
                    self.count_single_call();
                    None
                }
            }
        }
    }

    unsafe fn step(&self, callbacks: &Callbacks, key: i64, values: Values) -> Called {
        self.flush_calls(callbacks)?;
        // SAFETY: the caller's promise.
        let write = |out: &mut Encoder| unsafe { encode_each(values, out) };
        let pushed = self.steps.push(key, values.1 as usize, write);
        pushed.map_err(|_| NO_MEMORY)?;
        if self.steps.is_full() {
            return self.flush_steps(callbacks);
        }
        Ok(())
    }

    fn flush(&self, callbacks: &Callbacks) -> Called {
        self.flush_calls(callbacks)?;
        self.flush_steps(callbacks)
    }

    fn flush_with_steps(&self, callbacks: &Callbacks, send: &mut dyn FnMut(&[u8])) -> Called {
        self.flush_calls(callbacks)?;
        self.steps.take(send);
        Ok(())
    }

    fn has_failed(&self) -> bool {
        let calls = self.calls.borrow();
        calls.as_ref().is_some_and(PendingCalls::has_failed)
    }
}

/// Whether the user observes statements or their progress: that would come between deferred calls, and would show
/// the statement that reads the bytecode.
fn is_watched(callbacks: &Callbacks) -> bool {
    let kinds = [
        abi::CALLBACK_AUTHORIZER,
        abi::CALLBACK_TRACE,
        abi::CALLBACK_PROGRESS,
    ];
    kinds.iter().any(|kind| callbacks.has(*kind))
}
