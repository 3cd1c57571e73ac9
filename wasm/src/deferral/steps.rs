//! Deferred steps of aggregates: one crossing to the host runs the steps of many rows.
//!
//! SQLite needs no result from a step, so it does not matter when the host runs it, as long as it is before any
//! other Python code is called and before the request is answered. A step's exception becomes the error of
//! whatever uses its instance next, at the latest `finalize`.

use core::cell::RefCell;

use crate::deferral::encoding::Runs;
use crate::error::Result;
use crate::wire::rows::Encoder;

#[derive(Default)]
pub struct Steps(RefCell<Runs>);

impl Steps {
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.0.borrow().is_full()
    }

    /// Adds a step whose `width` values `write` encodes. After an error all deferred steps are lost: there is no
    /// memory, and the statement ends.
    pub fn push(
        &self,
        handle: i64,
        width: usize,
        write: impl FnOnce(&mut Encoder) -> Result<()>,
    ) -> Result<()> {
        let mut runs = self.0.borrow_mut();
        let pushed = runs.push(handle, width, write).map(|_| ());
        pushed.inspect_err(|_| *runs = Runs::default())
    }

    /// Passes the array of all steps to `send`, and forgets them.
    pub fn take<R>(&self, send: impl FnOnce(&[u8]) -> R) -> R {
        send(self.0.borrow_mut().finished())
    }
}
