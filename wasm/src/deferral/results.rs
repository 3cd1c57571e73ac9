//! The results of deferred calls, encoded as in rows.

use core::ops::Range;

use crate::buffers::push;
use crate::callbacks::argument_block;
use crate::callbacks::deferral::Called as Made;
use crate::callbacks::{During, Failed, Failure, NO_MEMORY, failed};
use crate::sqlite::columns::encode_text;
use crate::wire::params::{Reader, Value};
use crate::wire::rows::Encoder;

/// A buffer that larger results made grow beyond this is freed.
const KEPT_BYTES: usize = 65_536;

#[derive(Default)]
pub struct Results {
    /// The request's format of values.
    format: u16,
    /// `SQLITE_LIMIT_LENGTH`.
    pub largest: usize,
    encoder: Encoder,
    /// Where each result ends.
    ends: Vec<usize>,
    /// The number of the exception that the host sent instead of a result.
    pub raised: u32,
}

impl Results {
    pub fn new(format: u16, largest: usize) -> Self {
        Self {
            format,
            largest,
            ..Self::default()
        }
    }

    pub fn clear(&mut self) {
        self.encoder.clear(KEPT_BYTES);
        self.ends.clear();
    }

    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Their size in bytes.
    pub fn bytes(&self) -> usize {
        self.encoder.len()
    }

    /// Where one of them is, as it goes into a row.
    pub fn get(&self, number: usize) -> (&[u8], Range<usize>) {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        (self.encoder.bytes(), start..self.ends[number])
    }

    /// Takes the host's results of `most` calls: an array with at least one result and at most so many.
    pub fn take(&mut self, answered: Value<'_>, most: usize) -> Made {
        const MALFORMED: Failed = (Failure::Raised, During::Call);
        let Value::Blob(array) = answered else {
            return Err(MALFORMED);
        };
        let mut reader = Reader::new(array);
        let count = reader.array().map_err(|_| MALFORMED)?;
        if !(1..=most).contains(&count) {
            return Err(MALFORMED);
        }
        for _ in 0..count {
            let start = reader.rest();
            let value = reader.value().map_err(|_| MALFORMED)?;
            let length = start.len() - reader.rest().len();
            self.put(value, Some((start, length)))?;
        }
        Ok(())
    }

    /// Takes the result of one call.
    pub fn take_one(&mut self, value: Value<'_>) -> Made {
        self.put(value, None)
    }

    /// As SQLite would make it the result and the row would show it: a NaN is NULL.
    fn put(&mut self, value: Value<'_>, encoded: Option<(&[u8], usize)>) -> Made {
        if let Value::Unsupported(payload) = value {
            return Err(self.failure(payload));
        }
        if let Value::Text(bytes) | Value::Blob(bytes) = value
            && bytes.len() > self.largest
        {
            return Err((Failure::TooLarge, During::Call));
        }
        let out = &mut self.encoder;
        let put = match (value, encoded) {
            (Value::Text(text), _) => encode_text(text, self.format, out),
            (Value::Float(value), _) if value.is_nan() => out.null(),
            (_, Some((encoded, length))) => out.part(encoded, 0..length),
            (value, None) => argument_block::encode(&value, out),
        };
        put.and_then(|()| push(&mut self.ends, self.encoder.len()))
            .map_err(|_| NO_MEMORY)
    }

    /// Why there is no result: a code, and the number of an exception.
    #[cold]
    fn failure(&mut self, payload: &[u8]) -> Failed {
        let Some((code, number)) = payload.split_first_chunk::<4>() else {
            return NO_MEMORY;
        };
        self.raised = number.try_into().map_or(0, u32::from_le_bytes);
        failed(i32::from_le_bytes(*code).into())
    }
}
