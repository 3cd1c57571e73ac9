//! Rows that were read ahead: encoded but for the answers to calls that were put off (`callbacks::deferred`).

use core::ops::Range;
use std::rc::Rc;

use libsqlite3_sys as ffi;

use crate::buffers::push;
use crate::callbacks::answers::Answers;
use crate::callbacks::calls::SCALAR;
use crate::callbacks::deferred::Deferred;
use crate::callbacks::{Callbacks, Failed};
use crate::error::{Error, Result};
use crate::program::Plan;
use crate::sqlite::statement::Statement;
use crate::wire::rows::{Batch, Encoder};

/// Rows larger than this are not kept room for.
const KEPT_BYTES: usize = 131_072;
/// How large answers are expected to be before there are any.
const USUAL_BYTES: usize = 64;

pub struct Ahead {
    deferred: Deferred,
    rows: Encoder,
    /// For each row, where its holes are, in column order.
    holes: Vec<usize>,
    /// Where each row ends.
    ends: Vec<usize>,
    /// How many of the rows were sent.
    sent: usize,
    /// How many bytes the answers to one row have had.
    usual_bytes: usize,
}

impl Ahead {
    pub fn new(statement: &Statement, plan: Rc<Plan>, format: u16) -> Self {
        let answers = Answers::new(format, largest_value(statement));
        Self {
            deferred: Deferred::new(plan, answers),
            rows: Encoder::default(),
            holes: Vec::new(),
            ends: Vec::new(),
            sent: 0,
            usual_bytes: USUAL_BYTES,
        }
    }

    /// How many rows are still to be sent.
    pub fn left(&self) -> usize {
        self.ends.len() - self.sent
    }

    /// How many bytes all rows will have, as far as can be said before they have answers.
    pub fn expected_bytes(&self) -> usize {
        self.rows.len() + self.ends.len() * self.usual_bytes
    }

    /// Lets `read` add rows while calls are put off, after those that were all sent; then makes the calls.
    pub fn read(
        &mut self,
        callbacks: &Callbacks,
        read: impl FnOnce(&mut Self, &Plan) -> Result<()>,
    ) -> Result<()> {
        self.clear();
        let plan = self.deferred.plan.clone();
        callbacks.lend(core::mem::take(&mut self.deferred));
        let result = read(self, &plan);
        self.deferred = callbacks.take_back();
        result.map_err(|error| self.deferred.error_after(callbacks, error))?;
        self.make_calls(callbacks)
    }

    /// Has calls made that are left, if there are any, though maybe not all.
    pub fn make_calls(&mut self, callbacks: &Callbacks) -> Result<()> {
        self.deferred.make_some(callbacks).map_err(explained)?;
        let answers = &self.deferred.answers;
        let rows = answers.count() / self.deferred.plan.holes.len();
        self.usual_bytes = answers.bytes() / rows.max(1);
        Ok(())
    }

    fn clear(&mut self) {
        self.deferred.clear();
        self.rows.clear(KEPT_BYTES);
        self.holes.clear();
        self.ends.clear();
        self.sent = 0;
    }

    /// Adds the row that `encode` writes; `calls`: how many there were for the rows so far.
    pub fn add(
        &mut self,
        calls: usize,
        encode: impl FnOnce(&mut Encoder, &mut Vec<usize>) -> Result<()>,
    ) -> Result<()> {
        encode(&mut self.rows, &mut self.holes)?;
        // What the program says holds for every row; were it otherwise, answers would go to the wrong ones.
        if calls == self.holes.len() {
            push(&mut self.ends, self.rows.len())
        } else {
            Err(Error::internal(
                "a statement calls other functions than its program says",
            ))
        }
    }

    fn row(&self) -> Range<usize> {
        let start = self.sent.checked_sub(1).map_or(0, |last| self.ends[last]);
        start..self.ends[self.sent]
    }

    /// Whether the next row's calls are all answered.
    pub fn is_complete(&self) -> bool {
        let calls = (self.sent + 1) * self.deferred.plan.holes.len();
        self.left() > 0 && calls <= self.deferred.answers.count()
    }

    /// Moves the next row, which is complete, into `batch`.
    pub fn send(&mut self, batch: &mut Batch) -> Result<()> {
        let row = self.row();
        let Deferred { plan, answers, .. } = &self.deferred;
        let first = self.sent * plan.holes.len();
        let rows = self.rows.bytes();
        self.sent += 1;
        batch.row(|out| {
            let mut start = row.start;
            for (place, (_, call)) in self.holes[first..].iter().zip(&plan.holes) {
                out.part(rows, start..*place)?;
                let (bytes, answer) = answers.get(first + call);
                out.part(bytes, answer)?;
                start = *place;
            }
            out.part(rows, start..row.end)
        })
    }
}

/// The most bytes that a text or blob may have.
fn largest_value(statement: &Statement) -> usize {
    // SAFETY: the connection is open; -1 changes nothing.
    unsafe { ffi::sqlite3_limit(statement.db(), ffi::SQLITE_LIMIT_LENGTH, -1) as usize }
}

fn explained(failed: Failed) -> Error {
    SCALAR.error(failed)
}
