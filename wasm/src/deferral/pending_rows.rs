//! Rows that were read ahead: encoded except for the results of deferred calls.

use core::ops::Range;
use std::rc::Rc;

use crate::buffers::push;
use crate::callbacks::calls::SCALAR;
use crate::callbacks::{Callbacks, Failed};
use crate::deferral::calls::PendingCalls;
use crate::deferral::program::DeferralPlan;
use crate::error::{Error, Result};
use crate::wire::rows::{Batch, Encoder};

/// A buffer that larger rows made grow beyond this is freed.
const KEPT_BYTES: usize = 131_072;
/// The expected size of results before there are any.
const USUAL_BYTES: usize = 64;

pub struct PendingRows {
    pub calls: PendingCalls,
    pub plan: Rc<DeferralPlan>,
    rows: Encoder,
    /// For each row, where its results go, in column order.
    slots: Vec<usize>,
    /// Where each row ends.
    ends: Vec<usize>,
    /// The number of rows sent.
    sent: usize,
    /// The size of the results of one row so far.
    usual_bytes: usize,
}

impl PendingRows {
    pub fn new(calls: PendingCalls) -> Self {
        Self {
            plan: calls.plan.clone(),
            calls,
            rows: Encoder::default(),
            slots: Vec::new(),
            ends: Vec::new(),
            sent: 0,
            usual_bytes: USUAL_BYTES,
        }
    }

    /// How many rows are still to be sent.
    pub fn left(&self) -> usize {
        self.ends.len() - self.sent
    }

    /// The size of all rows, as far as it is known before the results are.
    pub fn expected_bytes(&self) -> usize {
        self.rows.len() + self.ends.len() * self.usual_bytes
    }

    /// Makes the remaining calls, though maybe not all of them.
    pub fn make_calls(&mut self, callbacks: &Callbacks) -> Result<()> {
        self.calls.make_some(callbacks).map_err(explained)?;
        let results = &self.calls.results;
        let rows = results.count() / self.plan.slots.len();
        self.usual_bytes = results.bytes() / rows.max(1);
        Ok(())
    }

    pub fn clear(&mut self) {
        self.calls.clear();
        self.rows.clear(KEPT_BYTES);
        self.slots.clear();
        self.ends.clear();
        self.sent = 0;
    }

    /// Adds the row that `encode` writes; `calls`: the number of calls for the rows so far.
    pub fn add(
        &mut self,
        calls: usize,
        encode: impl FnOnce(&mut Encoder, &mut Vec<usize>) -> Result<()>,
    ) -> Result<()> {
        encode(&mut self.rows, &mut self.slots)?;
        // The bytecode holds for every row; if it did not, results would go to the wrong rows.
        if calls == self.slots.len() {
            push(&mut self.ends, self.rows.len())
        } else {
            Err(Error::internal(
                "a statement made other calls than its bytecode contains",
            ))
        }
    }

    fn row(&self) -> Range<usize> {
        let start = self.sent.checked_sub(1).map_or(0, |last| self.ends[last]);
        start..self.ends[self.sent]
    }

    /// Whether all results of the next row are available.
    pub fn is_complete(&self) -> bool {
        let calls = (self.sent + 1) * self.plan.slots.len();
        self.left() > 0 && calls <= self.calls.results.count()
    }

    /// Moves the next row, which is complete, into `batch`.
    pub fn send(&mut self, batch: &mut Batch) -> Result<()> {
        let row = self.row();
        let PendingCalls { results, .. } = &self.calls;
        let first = self.sent * self.plan.slots.len();
        let rows = self.rows.bytes();
        self.sent += 1;
        batch.row(|out| {
            let mut start = row.start;
            for (slot, (_, call)) in self.slots[first..].iter().zip(&self.plan.slots) {
                out.part(rows, start..*slot)?;
                let (bytes, result) = results.get(first + call);
                out.part(bytes, result)?;
                start = *slot;
            }
            out.part(rows, start..row.end)
        })
    }
}

fn explained(failed: Failed) -> Error {
    SCALAR.error(failed)
}
