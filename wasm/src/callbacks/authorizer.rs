//! The user's authorizer, progress and busy handler.
//!
//! SQLite has one of each, which are `watch`'s; it calls the user's from there.
//!
//! <https://sqlite.org/c3ref/set_authorizer.html>

use core::ffi::{c_char, c_int};

use libsqlite3_sys as ffi;

use crate::abi;
use crate::callbacks::encode_text;
use crate::callbacks::{Callbacks, integer};
use crate::wire::rows::Encoder;

impl Callbacks {
    /// Runs a statement of the engine's own: the user's hooks do not see it. Only its lock waits are like any
    /// other's.
    pub fn without_hooks<R>(&self, act: impl FnOnce() -> R) -> R {
        self.without_hooks.set(true);
        let result = act();
        self.without_hooks.set(false);
        result
    }

    pub fn set_progress_steps(&self, steps: c_int) {
        self.progress_steps.set(steps);
        self.progress_done.set(0);
    }

    /// Whether the user's progress handler, called every so many steps, wants the statement to end.
    pub fn progress(&self, steps: c_int) -> bool {
        let done = self.progress_done.get().saturating_add(steps);
        if done < self.progress_steps.get() {
            self.progress_done.set(done);
            return false;
        }
        self.progress_done.set(0);
        let asked = self.ask(abi::CALLBACK_PROGRESS, |out| out.array(0), integer);
        asked.is_some_and(|answer| answer.unwrap_or(1) != 0)
    }

    /// Whether the user's busy handler wants to try again; `None` without one.
    pub fn busy(&self, attempt: c_int) -> Option<bool> {
        let encode = |out: &mut Encoder| {
            out.array(1)?;
            out.integer(attempt.into())
        };
        let asked = self.ask(abi::CALLBACK_BUSY, encode, integer)?;
        Some(asked.unwrap_or(0) != 0)
    }

    /// The user's authorizer's decision; without one, everything is allowed.
    ///
    /// # Safety
    /// Each text is NULL or ends in a NUL.
    pub unsafe fn authorize(&self, action: c_int, texts: [*const c_char; 4]) -> c_int {
        let encode = |out: &mut Encoder| {
            out.array(5)?;
            out.integer(action.into())?;
            // SAFETY: the caller's promise.
            texts
                .iter()
                .try_for_each(|text| unsafe { encode_text(*text, out) })
        };
        let asked = self.ask(abi::CALLBACK_AUTHORIZER, encode, integer);
        asked.map_or(ffi::SQLITE_OK, |answer| answer.unwrap_or(ffi::SQLITE_DENY))
    }
}
