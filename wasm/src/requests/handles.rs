//! Statements that outlive a request, by handle.
//!
//! A cursor's handle ends with its last row; a `PREPARE` handle lives until `RELEASE`.

use std::collections::HashMap;

use crate::buffers::reserve_entry;
use crate::error::{Error, Result};
use crate::requests::execution::Run;
use crate::sqlite::statement::Statement;

pub struct Held {
    pub statement: Statement,
    /// The execution that `NEXT` continues.
    pub run: Option<Run>,
    pub prepared: bool,
    /// There were rows left when it was interrupted.
    pub interrupted: bool,
}

#[derive(Default)]
pub struct Handles {
    held: HashMap<u32, Held>,
    last: u32,
}

impl Handles {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Stores a statement under a new handle.
    pub fn hold(&mut self, held: Held) -> Result<u32> {
        reserve_entry(&mut self.held)?;
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.held.contains_key(&self.last) {
                self.held.insert(self.last, held);
                return Ok(self.last);
            }
        }
    }

    /// Returns a statement to the handle it was taken from.
    pub fn put_back(&mut self, handle: u32, held: Held) {
        self.held.insert(handle, held);
    }

    pub fn take(&mut self, handle: u32) -> Option<Held> {
        self.held.remove(&handle)
    }

    /// Ends the executions that have rows left. SQLite interrupts the statement it is stepping.
    pub fn interrupt(&mut self) {
        for held in self.held.values_mut() {
            if held.run.take().is_some() {
                drop(held.statement.step());
                held.statement.clear();
                held.interrupted = true;
            }
        }
    }

    /// A statement with rows left, and its progress.
    pub fn take_running(&mut self, handle: u32) -> Result<(Held, Run)> {
        let closed = || Error::programming("the cursor's statement is closed");
        let mut held = self.held.remove(&handle).ok_or_else(closed)?;
        match held.run.take() {
            Some(run) => Ok((held, run)),
            None => {
                let interrupted = held.interrupted;
                self.held.insert(handle, held);
                Err(if interrupted {
                    Error::interrupted()
                } else {
                    closed()
                })
            }
        }
    }

    /// A prepared statement, ready to be executed; an earlier execution of it ends here.
    pub fn take_prepared(&mut self, handle: u32) -> Result<Held> {
        let is_prepared = self.held.get(&handle).is_some_and(|held| held.prepared);
        let held = if is_prepared {
            self.held.remove(&handle)
        } else {
            None
        };
        let mut held =
            held.ok_or_else(|| Error::programming("the prepared statement is closed"))?;
        held.run = None;
        held.interrupted = false;
        held.statement.clear();
        Ok(held)
    }

    /// Drops a prepared statement; ignores other handles.
    pub fn release(&mut self, handle: u32) {
        if self.held.get(&handle).is_some_and(|held| held.prepared) {
            self.held.remove(&handle);
        }
    }
}
