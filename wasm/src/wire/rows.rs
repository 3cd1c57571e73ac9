//! Writes values, rows and other reply bodies as MessagePack into one growing buffer.
//!
//! The buffer is kept between requests. Memory that is not available is an error, not a trap: rows may contain
//! values as large as the caller's tables do.

use core::ops::Range;

use crate::buffers::reserve;
use crate::error::{Error, Result, code};

/// Maximum size of a scalar's marker and fixed part.
const HEAD_BYTES: usize = 9;

const SHORT_BYTES: usize = 64;

#[derive(Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The body of an `ERROR` reply: docs/abi.md, "Errors".
    pub fn error(&mut self, error: &Error) -> Result<()> {
        self.array(5)?;
        self.integer(error.code.into())?;
        self.text(error.message.as_bytes())?;
        self.integer(error.offset.into())?;
        self.integer(error.class.into())?;
        self.integer(error.row.into())
    }

    /// Clears the content; a buffer that grew past `kept_bytes` is freed, except for what a short answer needs:
    /// one that frees memory must not need any.
    pub fn clear(&mut self, kept_bytes: usize) {
        self.bytes.clear();
        if self.bytes.capacity() > kept_bytes {
            self.bytes.shrink_to(SHORT_BYTES);
        }
    }

    /// Overwrites existing bytes.
    pub fn patch(&mut self, start: usize, bytes: &[u8]) {
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    #[inline]
    fn room(&mut self, len: usize) -> Result<()> {
        if self.bytes.capacity() - self.bytes.len() < len {
            self.grow(len)?;
        }
        Ok(())
    }

    #[cold]
    fn grow(&mut self, len: usize) -> Result<()> {
        reserve(&mut self.bytes, len)
    }

    /// A marker and what follows it; the caller reserved space.
    #[inline]
    fn marked<const N: usize>(&mut self, marker: u8, rest: [u8; N]) {
        self.bytes.push(marker);
        self.bytes.extend_from_slice(&rest);
    }

    #[inline]
    pub fn null(&mut self) -> Result<()> {
        self.room(1)?;
        self.bytes.push(0xc0);
        Ok(())
    }

    pub fn boolean(&mut self, value: bool) -> Result<()> {
        self.room(1)?;
        self.bytes.push(0xc2 + u8::from(value));
        Ok(())
    }

    #[inline]
    pub fn integer(&mut self, value: i64) -> Result<()> {
        self.room(HEAD_BYTES)?;
        match value {
            -32..=127 => self.bytes.push(value as u8),
            128..=0xff => self.marked(0xcc, [value as u8]),
            0x100..=0xffff => self.marked(0xcd, (value as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.marked(0xce, (value as u32).to_be_bytes()),
            -0x8000_0000..=-33 => self.marked(0xd2, (value as i32).to_be_bytes()),
            _ => self.marked(0xd3, value.to_be_bytes()),
        }
        Ok(())
    }

    #[inline]
    pub fn float(&mut self, value: f64) -> Result<()> {
        self.room(HEAD_BYTES)?;
        self.marked(0xcb, value.to_be_bytes());
        Ok(())
    }

    /// Text must be UTF-8: the caller has checked it.
    #[inline]
    pub fn text(&mut self, text: &[u8]) -> Result<()> {
        self.room(text.len().saturating_add(HEAD_BYTES))?;
        match text.len() {
            len @ 0..=31 => self.bytes.push(0xa0 | len as u8),
            len @ 32..=0xff => self.marked(0xd9, [len as u8]),
            len @ 0x100..=0xffff => self.marked(0xda, (len as u16).to_be_bytes()),
            len => self.marked(0xdb, wire_length(len)?.to_be_bytes()),
        }
        self.bytes.extend_from_slice(text);
        Ok(())
    }

    #[inline]
    pub fn blob(&mut self, blob: &[u8]) -> Result<()> {
        self.room(blob.len().saturating_add(HEAD_BYTES))?;
        match blob.len() {
            len @ 0..=0xff => self.marked(0xc4, [len as u8]),
            len @ 0x100..=0xffff => self.marked(0xc5, (len as u16).to_be_bytes()),
            len => self.marked(0xc6, wire_length(len)?.to_be_bytes()),
        }
        self.bytes.extend_from_slice(blob);
        Ok(())
    }

    pub fn extension(&mut self, kind: i8, payload: &[u8]) -> Result<()> {
        self.room(payload.len().saturating_add(HEAD_BYTES))?;
        match payload.len() {
            len @ 0..=0xff => self.marked(0xc7, [len as u8]),
            len @ 0x100..=0xffff => self.marked(0xc8, (len as u16).to_be_bytes()),
            len => self.marked(0xc9, wire_length(len)?.to_be_bytes()),
        }
        self.bytes.push(kind as u8);
        self.bytes.extend_from_slice(payload);
        Ok(())
    }

    #[inline]
    pub fn array(&mut self, len: usize) -> Result<()> {
        self.room(HEAD_BYTES)?;
        match len {
            0..=15 => self.bytes.push(0x90 | len as u8),
            16..=0xffff => self.marked(0xdc, (len as u16).to_be_bytes()),
            _ => self.marked(0xdd, wire_length(len)?.to_be_bytes()),
        }
        Ok(())
    }

    #[inline]
    pub fn map(&mut self, len: usize) -> Result<()> {
        self.room(HEAD_BYTES)?;
        match len {
            0..=15 => self.bytes.push(0x80 | len as u8),
            16..=0xffff => self.marked(0xde, (len as u16).to_be_bytes()),
            _ => self.marked(0xdf, wire_length(len)?.to_be_bytes()),
        }
        Ok(())
    }

    /// Bytes that are already MessagePack.
    #[inline]
    pub fn raw(&mut self, encoded: &[u8]) -> Result<()> {
        self.room(encoded.len())?;
        self.bytes.extend_from_slice(encoded);
        Ok(())
    }

    /// Part of such bytes. Fast for a few: the instruction that copies arbitrary lengths has a high fixed cost.
    #[inline]
    pub fn part(&mut self, encoded: &[u8], part: Range<usize>) -> Result<()> {
        match encoded.get(part.start..).and_then(<[u8]>::first_chunk::<8>) {
            Some(word) if part.len() <= word.len() => {
                self.room(word.len())?;
                let len = self.bytes.len() + part.len();
                self.bytes.extend_from_slice(word);
                self.bytes.truncate(len);
                Ok(())
            }
            _ => self.raw(&encoded[part]),
        }
    }
}

fn wire_length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::limit(code::TOOBIG, "string or blob too big"))
}

/// Rows of one reply: an array whose length is filled in at the end.
#[derive(Default)]
pub struct Batch {
    encoder: Encoder,
    row_count: u32,
    is_failed: bool,
}

/// An array's head with a four-byte length, whatever the length.
const BATCH_HEAD: [u8; 5] = [0xdd, 0, 0, 0, 0];
/// The marker of an array of two.
const PAIR: u8 = 0x92;

impl Batch {
    pub fn clear(&mut self, kept_bytes: usize) {
        self.row_count = 0;
        self.is_failed = false;
        self.encoder.clear(kept_bytes);
    }

    /// Reserves space for the row count in a batch that was cleared.
    pub fn begin(&mut self) -> Result<()> {
        self.encoder.raw(&BATCH_HEAD)
    }

    pub fn row_count(&self) -> u32 {
        self.row_count
    }

    pub fn len(&self) -> usize {
        self.encoder.len()
    }

    pub fn is_empty(&self) -> bool {
        self.row_count == 0
    }

    /// Adds the row that `write` encodes: one array or map. After an error the row does not exist.
    #[inline]
    pub fn row(&mut self, write: impl FnOnce(&mut Encoder) -> Result<()>) -> Result<()> {
        let start = self.encoder.len();
        match write(&mut self.encoder) {
            Ok(()) => {
                self.row_count += 1;
                Ok(())
            }
            Err(error) => {
                self.encoder.truncate(start);
                Err(error)
            }
        }
    }

    /// Removes the last row, which starts at `start`.
    pub fn take_back(&mut self, start: usize) {
        self.row_count -= 1;
        self.encoder.truncate(start);
    }

    /// Ends the rows with the error of the next one: from now on the bytes are an array of both.
    pub fn fail(&mut self, error: &Error) -> Result<()> {
        self.encoder.error(error)?;
        self.encoder.room(1)?;
        self.encoder.patch(1, &self.row_count.to_be_bytes());
        self.encoder.bytes.insert(0, PAIR);
        self.is_failed = true;
        Ok(())
    }

    pub fn is_failed(&self) -> bool {
        self.is_failed
    }

    /// The finished bytes.
    pub fn bytes(&mut self) -> &[u8] {
        if !self.is_failed {
            self.encoder.patch(1, &self.row_count.to_be_bytes());
        }
        &self.encoder.bytes
    }
}
