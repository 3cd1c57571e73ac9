//! Steps of aggregates that are put off, so that one crossing to the host does many rows.
//!
//! SQLite wants no answer of a step, so it matters to nobody when the host is told, as long as it is before anything
//! else that Python is called for and before the request is answered. What a step raises is the error of whatever
//! is next asked of its instance: at the latest of `finalize`.

use core::cell::RefCell;

use crate::error::Result;
use crate::wire::rows::Encoder;

/// More are not put off: what the host decodes in one go stays small.
const MOST_BYTES: usize = 32_768;
const MOST_STEPS: u32 = 1_000;
/// An array's marker with four bytes of length, whatever the length.
const HEAD: [u8; 5] = [0xdd, 0, 0, 0, 0];

/// `[handle, width, values, handle, width, values, …]`: runs of steps of one instance, each with `width` values, all in
/// one array; one nil for a step without values. The handle is negative for inverse steps.
#[derive(Default)]
struct Runs {
    encoder: Encoder,
    steps: u32,
    items: u32,
    /// Handle and width of the newest run, and where its array starts.
    newest: (i64, usize),
    start: usize,
    values: u32,
}

impl Runs {
    fn begin(&mut self, handle: i64, width: usize) -> Result<()> {
        if self.steps == 0 {
            self.encoder.clear(2 * MOST_BYTES);
            self.encoder.raw(&HEAD)?;
        }
        self.close();
        self.encoder.integer(handle)?;
        self.encoder.integer(width as i64)?;
        self.start = self.encoder.len();
        self.encoder.raw(&HEAD)?;
        self.items += 3;
        self.newest = (handle, width);
        Ok(())
    }

    /// Fills in how many values the newest run has.
    fn close(&mut self) {
        if self.items > 0 {
            let count = core::mem::take(&mut self.values);
            self.encoder.patch(self.start + 1, &count.to_be_bytes());
        }
    }

    fn push(
        &mut self,
        handle: i64,
        width: usize,
        write: impl FnOnce(&mut Encoder) -> Result<()>,
    ) -> Result<()> {
        if self.items == 0 || self.newest != (handle, width) {
            self.begin(handle, width)?;
        }
        if width == 0 {
            self.encoder.null()?;
        } else {
            write(&mut self.encoder)?;
        }
        self.values += width.max(1) as u32;
        self.steps += 1;
        Ok(())
    }

    fn finished(&mut self) -> &[u8] {
        if self.items == 0 {
            return &[0x90];
        }
        self.close();
        self.encoder.patch(1, &self.items.to_be_bytes());
        (self.items, self.steps) = (0, 0);
        self.encoder.bytes()
    }
}

#[derive(Default)]
pub struct Steps(RefCell<Runs>);

impl Steps {
    pub fn is_empty(&self) -> bool {
        self.0.borrow().items == 0
    }

    pub fn is_full(&self) -> bool {
        let runs = self.0.borrow();
        runs.steps >= MOST_STEPS || runs.encoder.len() >= MOST_BYTES
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
        runs.push(handle, width, write)
            .inspect_err(|_| *runs = Runs::default())
    }

    /// Gives `send` the array of all steps, and forgets them.
    pub fn take<R>(&self, send: impl FnOnce(&[u8]) -> R) -> R {
        send(self.0.borrow_mut().finished())
    }
}
