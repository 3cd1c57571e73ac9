//! Steps of aggregates that are put off, so that one crossing to the host does many rows.
//!
//! SQLite wants no answer of a step, so it matters to nobody when the host is told, as long as it is before anything
//! else that Python is called for and before the request is answered. What a step raises is the error of whatever
//! is next asked of its instance: at the latest of `finalize`.

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

    /// Adds a step whose `width` values `write` encodes. After an error all that were put off are gone: there is no
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

    /// Gives `send` the array of all steps, and forgets them.
    pub fn take<R>(&self, send: impl FnOnce(&[u8]) -> R) -> R {
        send(self.0.borrow_mut().finished())
    }
}
