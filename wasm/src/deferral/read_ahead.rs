//! Reads the rows of a statement with deferred calls: some rows ahead, then their calls, then the rows.

use std::rc::Rc;

use crate::buffers::push;
use crate::callbacks::Callbacks;
use crate::deferral::calls::PendingCalls;
use crate::deferral::pending_rows::PendingRows;
use crate::deferral::policy::Policy;
use crate::error::{Error, Result, code};
use crate::sqlite::columns::RowShape;
use crate::sqlite::statement::Statement;
use crate::wire::rows::Batch;

/// How many rows to read.
pub struct Wanted {
    /// The maximum number of rows, but at least one is read.
    pub rows: u64,
    /// Reading stops at this many bytes.
    pub bytes: usize,
    /// Whether the next row is sent now.
    pub now: bool,
}

pub struct ReadAhead {
    policy: Rc<Policy>,
    rows: PendingRows,
    /// The statement's error, once the rows before it are sent.
    error: Option<Error>,
    is_at_end: bool,
}

impl ReadAhead {
    /// How to read the rows of the running statement from here on, if it can defer calls. Cheap without calls.
    pub fn of(
        policy: &Rc<Policy>,
        callbacks: &Callbacks,
        statement: &Statement,
        format: u16,
    ) -> Option<Box<Self>> {
        let plan = policy.plan(callbacks, statement)?;
        Some(Box::new(Self {
            policy: policy.clone(),
            rows: PendingRows::new(PendingCalls::new(plan, statement, format)),
            error: None,
            is_at_end: false,
        }))
    }

    /// Whether there are unsent rows, or an error.
    pub fn has_more(&self) -> bool {
        !self.is_at_end || self.error.is_some() || self.rows.left() > 0
    }

    /// Reads rows if none is left, and makes calls until the next row is complete if it is wanted now. `false` if
    /// there are no more rows.
    pub fn advance(
        &mut self,
        callbacks: &Callbacks,
        statement: &mut Statement,
        shape: &RowShape,
        wanted: &Wanted,
    ) -> Result<bool> {
        loop {
            if self.rows.left() > 0 {
                if !wanted.now || self.rows.is_complete() {
                    return Ok(true);
                }
                let made = self.rows.make_calls(callbacks);
                if !self.rows.is_complete() {
                    made?;
                }
                continue;
            }
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            if self.is_at_end {
                return Ok(false);
            }
            match self.refill(callbacks, statement, shape, wanted) {
                // Deferred calls are not made any more.
                Err(error) if error.code & 0xff == code::INTERRUPT => return Err(error),
                filled => self.error = filled.err(),
            }
        }
    }

    /// Moves the next row, which is complete, into `batch`.
    pub fn send(&mut self, batch: &mut Batch) -> Result<()> {
        self.rows.send(batch)
    }

    /// Reads more rows once all were sent, while calls are deferred; then makes the calls.
    fn refill(
        &mut self,
        callbacks: &Callbacks,
        statement: &mut Statement,
        shape: &RowShape,
        wanted: &Wanted,
    ) -> Result<()> {
        self.rows.clear();
        self.policy
            .start_deferring(core::mem::take(&mut self.rows.calls));
        let read = self.read(statement, shape, wanted);
        self.rows.calls = self.policy.stop_deferring();
        read.map_err(|error| self.rows.calls.error_after(callbacks, error))?;
        self.rows.make_calls(callbacks)
    }

    /// Reads until there are enough rows, bytes or deferred calls.
    fn read(&mut self, statement: &mut Statement, shape: &RowShape, wanted: &Wanted) -> Result<()> {
        let columns = statement.column_count();
        let plan = self.rows.plan.clone();
        loop {
            if !statement.step()? {
                self.is_at_end = true;
                return Ok(());
            }
            self.rows.add(self.policy.call_count(), |out, slots| {
                let mut next = plan.slots.iter().map(|(column, _)| *column).peekable();
                shape.encode(columns, out, |column, out| match next.peek() {
                    Some(slot) if *slot == column => {
                        next.next();
                        push(slots, out.len())
                    }
                    _ => statement.encode_value(column, shape.format, out),
                })
            })?;
            if self.rows.left() as u64 >= wanted.rows
                || self.rows.expected_bytes() >= wanted.bytes
                || self.policy.is_full()
            {
                return Ok(());
            }
        }
    }
}
