//! Reads parameters, options and arguments from a request's bytes, in place.
//!
//! The host is trusted, but its bytes are checked anyway: a length never leads past the slice.

use crate::abi;
use crate::error::{Error, Result};

/// One value; text and blobs point into the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Integer(i64),
    Float(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
    /// An integer above the 64-bit signed range.
    TooLarge,
    /// The name of a Python type that has no SQLite counterpart.
    Unsupported(&'a [u8]),
}

/// The parameters of one execution of a statement.
#[derive(Clone, Debug)]
pub enum Params<'a> {
    ByPosition { count: usize, values: Reader<'a> },
    ByName { count: usize, entries: Reader<'a> },
}

impl<'a> Params<'a> {
    /// The parameters of a whole request, whose `params_len` may be 0.
    pub fn of_request(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        if bytes.is_empty() {
            return Ok(Self::ByPosition {
                count: 0,
                values: reader,
            });
        }
        let params = reader.params()?;
        if !reader.is_empty() {
            return Err(malformed("bytes after the parameters"));
        }
        Ok(params)
    }
}

#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

fn malformed(noun: &str) -> Error {
    Error::internal(format!("malformed request: {noun}"))
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads an array or map and advances past it.
    pub fn params(&mut self) -> Result<Params<'a>> {
        if self.at_map() {
            let count = self.map()?;
            let entries = self.clone();
            for _ in 0..count {
                self.text()?;
                self.value()?;
            }
            return Ok(Params::ByName { count, entries });
        }
        let count = self.array()?;
        let values = self.clone();
        for _ in 0..count {
            self.value()?;
        }
        Ok(Params::ByPosition { count, values })
    }

    /// Whether a map comes next.
    #[inline]
    pub fn at_map(&self) -> bool {
        matches!(self.rest.first(), Some(0x80..=0x8f | 0xde | 0xdf))
    }

    /// The length of an array whose elements follow.
    pub fn array(&mut self) -> Result<usize> {
        match self.byte()? {
            marker @ 0x90..=0x9f => Ok(usize::from(marker & 0x0f)),
            0xdc => self.length(2),
            0xdd => self.length(4),
            _ => Err(malformed("an array was expected")),
        }
    }

    /// The number of pairs of a map whose keys and values follow.
    pub fn map(&mut self) -> Result<usize> {
        match self.byte()? {
            marker @ 0x80..=0x8f => Ok(usize::from(marker & 0x0f)),
            0xde => self.length(2),
            0xdf => self.length(4),
            _ => Err(malformed("a map was expected")),
        }
    }

    pub fn text(&mut self) -> Result<&'a [u8]> {
        match self.value()? {
            Value::Text(text) => Ok(text),
            _ => Err(malformed("text was expected")),
        }
    }

    pub fn integer(&mut self) -> Result<i64> {
        match self.value()? {
            Value::Integer(value) => Ok(value),
            _ => Err(malformed("an integer was expected")),
        }
    }

    #[inline]
    pub fn value(&mut self) -> Result<Value<'a>> {
        let marker = self.byte()?;
        Ok(match marker {
            0x00..=0x7f => Value::Integer(marker.into()),
            0xe0..=0xff => Value::Integer((marker as i8).into()),
            0xa0..=0xbf => Value::Text(self.take(usize::from(marker & 0x1f))?),
            0xc0 => Value::Null,
            0xc2 => Value::Integer(0),
            0xc3 => Value::Integer(1),
            0xcb => Value::Float(f64::from_be_bytes(self.fixed()?)),
            0xd9 => Value::Text(self.sized(1)?),
            0xda => Value::Text(self.sized(2)?),
            0xdb => Value::Text(self.sized(4)?),
            0xc4 => Value::Blob(self.sized(1)?),
            0xc5 => Value::Blob(self.sized(2)?),
            0xc6 => Value::Blob(self.sized(4)?),
            0xca..=0xd3 => self.number(marker)?,
            0xc7..=0xc9 | 0xd4..=0xd8 => self.extension(marker)?,
            _ => return Err(malformed("a scalar value was expected")),
        })
    }

    fn number(&mut self, marker: u8) -> Result<Value<'a>> {
        Ok(Value::Integer(match marker {
            0xca => return Ok(Value::Float(f32::from_be_bytes(self.fixed()?).into())),
            0xcc => u8::from_be_bytes(self.fixed()?).into(),
            0xcd => u16::from_be_bytes(self.fixed()?).into(),
            0xce => u32::from_be_bytes(self.fixed()?).into(),
            0xcf => match i64::try_from(u64::from_be_bytes(self.fixed()?)) {
                Ok(value) => value,
                Err(_) => return Ok(Value::TooLarge),
            },
            0xd0 => i8::from_be_bytes(self.fixed()?).into(),
            0xd1 => i16::from_be_bytes(self.fixed()?).into(),
            0xd2 => i32::from_be_bytes(self.fixed()?).into(),
            _ => i64::from_be_bytes(self.fixed()?),
        }))
    }

    fn extension(&mut self, marker: u8) -> Result<Value<'a>> {
        let len = match marker {
            0xc7 => self.length(1)?,
            0xc8 => self.length(2)?,
            0xc9 => self.length(4)?,
            _ => 1 << (marker - 0xd4),
        };
        let kind = self.byte()? as i8;
        let payload = self.take(len)?;
        if kind != abi::EXT_UNSUPPORTED {
            return Err(malformed("an unknown extension type"));
        }
        Ok(Value::Unsupported(payload))
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| malformed("it ends early"))?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| malformed("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| malformed("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A length of 1, 2 or 4 bytes.
    #[inline]
    fn length(&mut self, width: usize) -> Result<usize> {
        Ok(match width {
            1 => usize::from(self.byte()?),
            2 => usize::from(u16::from_be_bytes(self.fixed()?)),
            _ => u32::from_be_bytes(self.fixed()?) as usize,
        })
    }

    #[inline]
    fn sized(&mut self, width: usize) -> Result<&'a [u8]> {
        let len = self.length(width)?;
        self.take(len)
    }
}
