//! Deferred calls, in the form in which they are sent to the host in bulk.

use libsqlite3_sys as ffi;

use crate::callbacks::argument_block;
use crate::callbacks::calls::{Values, value_of};
use crate::error::{Error, Result};
use crate::wire::params::Value;
use crate::wire::rows::Encoder;

/// No more is deferred, so that the host decodes little at a time.
const MOST_BYTES: usize = 32_768;
const MOST_CALLS: u32 = 1_000;
/// A call with larger arguments is made on its own.
const LARGEST: usize = 16_384;
/// An array's head with a four-byte length, whatever the length.
const HEAD: [u8; 5] = [0xdd, 0, 0, 0, 0];

/// `[key, width, values, key, width, values, …]`: runs of calls of the same function, each with `width` values,
/// all in one array; one nil for a call without values.
#[derive(Default)]
pub struct Runs {
    encoder: Encoder,
    calls: u32,
    items: u32,
    /// Key and width of the newest run, and the start of its array.
    newest: (i64, usize),
    start: usize,
    values: u32,
}

impl Runs {
    fn begin(&mut self, key: i64, width: usize) -> Result<()> {
        if self.calls == 0 {
            self.encoder.clear(2 * MOST_BYTES);
            self.encoder.raw(&HEAD)?;
        }
        self.close();
        self.encoder.integer(key)?;
        self.encoder.integer(width as i64)?;
        self.start = self.encoder.len();
        self.encoder.raw(&HEAD)?;
        self.items += 3;
        self.newest = (key, width);
        Ok(())
    }

    /// Fills in the number of values of the newest run.
    fn close(&mut self) {
        if self.items > 0 {
            let count = core::mem::take(&mut self.values);
            self.encoder.patch(self.start + 1, &count.to_be_bytes());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    pub fn is_full(&self) -> bool {
        self.calls >= MOST_CALLS || self.encoder.len() >= MOST_BYTES
    }

    /// The encoded bytes; after `finished` until there are new calls.
    pub fn bytes(&self) -> &[u8] {
        self.encoder.bytes()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.items, self.calls) = (0, 0);
    }

    /// Adds a call whose `width` values `write` encodes; returns their offset in `bytes`. After an error the call
    /// is not added.
    pub fn push(
        &mut self,
        key: i64,
        width: usize,
        write: impl FnOnce(&mut Encoder) -> Result<()>,
    ) -> Result<usize> {
        if self.items == 0 || self.newest != (key, width) {
            self.begin(key, width)?;
        }
        let start = self.encoder.len();
        let written = match width {
            0 => self.encoder.null(),
            _ => write(&mut self.encoder),
        };
        written.inspect_err(|_| self.encoder.truncate(start))?;
        self.values += width.max(1) as u32;
        self.calls += 1;
        Ok(start)
    }

    /// The array of all calls; the next call starts a new one.
    pub fn finished(&mut self) -> &[u8] {
        if self.items == 0 {
            return &[0x90];
        }
        self.close();
        self.encoder.patch(1, &self.items.to_be_bytes());
        (self.items, self.calls) = (0, 0);
        self.encoder.bytes()
    }
}

/// Encodes arguments one after another. If the call cannot be deferred, `can_wait` and the result say so:
/// arguments that the host cannot decode must fail only their own call.
///
/// # Safety
/// `values` are what SQLite passed to the running function.
pub unsafe fn encode_small(
    (first, count): Values,
    can_wait: &mut bool,
    out: &mut Encoder,
) -> Result<()> {
    for index in 0..count as usize {
        // SAFETY: the caller's promise.
        let value = unsafe { *first.add(index) };
        // SAFETY: as above.
        unsafe {
            // The fastest path, for the most frequent type.
            if ffi::sqlite3_value_type(value) == ffi::SQLITE_INTEGER {
                out.integer(ffi::sqlite3_value_int64(value))?;
                continue;
            }
        }
        // SAFETY: as above.
        let value = unsafe { value_of(value)? };
        *can_wait = match value {
            Value::Text(text) => text.len() <= LARGEST && core::str::from_utf8(text).is_ok(),
            Value::Blob(blob) => blob.len() <= LARGEST,
            _ => true,
        };
        if !*can_wait {
            return Err(Error::internal(
                "a call that must be immediate was deferred",
            ));
        }
        argument_block::encode(&value, out)?;
    }
    Ok(())
}
