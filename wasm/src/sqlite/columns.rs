//! Reads a statement's columns: their names and types, and the values of the current row.
//! <https://sqlite.org/c3ref/column_blob.html>

use core::ffi::c_int;
use core::slice;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::{copied, lossy, push, shown};
use crate::error::{Error, Result};
use crate::sqlite::statement::{Statement, bytes_of};
use crate::wire::rows::Encoder;

/// Formats in which text need not be UTF-8.
const TEXT_AS_BYTES: u16 = abi::FORMAT_TEXT_AS_EXTENSION | abi::FORMAT_TEXT_AS_BYTES;

impl Statement {
    fn column_name(&self, column: usize) -> Result<&[u8]> {
        // SAFETY: `stmt` is prepared; the name lives until the next call for this column.
        let name = unsafe { ffi::sqlite3_column_name(self.raw(), column as c_int) };
        if name.is_null() {
            return Err(Error::out_of_memory());
        }
        // SAFETY: as above.
        Ok(unsafe { bytes_of(name) })
    }

    /// Encodes the columns according to `format`: names, or pairs of name and declared type.
    pub fn encode_columns(&self, format: u16, out: &mut Encoder) -> Result<()> {
        let count = self.column_count();
        out.array(count)?;
        for column in 0..count {
            if format & abi::FORMAT_DECLARED_TYPES == 0 {
                out.text(lossy(self.column_name(column)?)?.as_bytes())?;
                continue;
            }
            out.array(2)?;
            out.text(lossy(self.column_name(column)?)?.as_bytes())?;
            // SAFETY: `stmt` is prepared; NULL, or text that lives as long as it.
            let declared = unsafe { ffi::sqlite3_column_decltype(self.raw(), column as c_int) };
            if declared.is_null() {
                out.null()?;
            } else {
                // SAFETY: as above.
                out.text(lossy(unsafe { bytes_of(declared) })?.as_bytes())?;
            }
        }
        Ok(())
    }

    /// The reply to `PREPARE`: a map of a statement's columns, its parameters and whether it only reads.
    pub fn describe(&self, out: &mut Encoder) -> Result<()> {
        out.map(3)?;
        out.text(b"columns")?;
        self.encode_columns(abi::FORMAT_DECLARED_TYPES, out)?;
        out.text(b"parameters")?;
        let names = self.parameter_names();
        out.array(names.len())?;
        for name in names {
            match name {
                Some(name) => out.text(name)?,
                None => out.null()?,
            }
        }
        out.text(b"readonly")?;
        out.boolean(self.is_readonly())
    }

    /// The columns' names as MessagePack, one by one: the keys of rows that are maps.
    fn encoded_names(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = Vec::new();
        for column in 0..self.column_count() {
            let mut name = Encoder::default();
            name.text(lossy(self.column_name(column)?)?.as_bytes())?;
            push(&mut names, copied(name.bytes())?)?;
        }
        Ok(names)
    }

    /// Text of the current row, until the next step; empty for NULL.
    pub fn text_at(&self, column: usize) -> &[u8] {
        let (stmt, index) = (self.raw(), column as c_int);
        // SAFETY: `stmt` is on a row that has this column.
        unsafe {
            let start = ffi::sqlite3_column_text(stmt, index);
            value_bytes(start, ffi::sqlite3_column_bytes(stmt, index)).unwrap_or_default()
        }
    }

    /// Encodes one value of the current row.
    #[inline]
    pub fn encode_value(&self, column: usize, format: u16, out: &mut Encoder) -> Result<()> {
        let (stmt, index) = (self.raw(), column as c_int);
        // SAFETY: `stmt` is on a row that has this column; the type is read before any conversion.
        unsafe {
            match ffi::sqlite3_column_type(stmt, index) {
                ffi::SQLITE_INTEGER => out.integer(ffi::sqlite3_column_int64(stmt, index)),
                ffi::SQLITE_FLOAT => out.float(ffi::sqlite3_column_double(stmt, index)),
                ffi::SQLITE_TEXT => {
                    let start = ffi::sqlite3_column_text(stmt, index);
                    let len = ffi::sqlite3_column_bytes(stmt, index);
                    let text = value_bytes(start, len).ok_or_else(Error::out_of_memory)?;
                    if format & TEXT_AS_BYTES == 0 && core::str::from_utf8(text).is_err() {
                        return Err(self.not_utf8(column));
                    }
                    encode_text(text, format, out)
                }
                ffi::SQLITE_BLOB => {
                    let start = ffi::sqlite3_column_blob(stmt, index);
                    let len = ffi::sqlite3_column_bytes(stmt, index);
                    // A zero-length blob has no address.
                    let blob = if len == 0 {
                        Some(&[][..])
                    } else {
                        value_bytes(start.cast(), len)
                    };
                    out.blob(blob.ok_or_else(Error::out_of_memory)?)
                }
                _ => out.null(),
            }
        }
    }

    #[cold]
    fn not_utf8(&self, column: usize) -> Error {
        let name = self.column_name(column).map(shown).unwrap_or_default();
        let message = format!("Could not decode to UTF-8 column '{name}'");
        Error::new(abi::ERROR_TEXT, ffi::SQLITE_ERROR, message)
    }
}

/// How the rows of one execution are sent: as arrays, or as maps with the columns' names.
pub struct RowShape {
    /// `abi::FORMAT_*`.
    pub format: u16,
    /// Names as MessagePack, for maps.
    keys: Vec<Box<[u8]>>,
}

impl RowShape {
    pub fn of(statement: &Statement, format: u16) -> Result<Self> {
        let sends_maps = format & abi::FORMAT_SHAPE_MASK == abi::FORMAT_MAPS;
        let keys = match sends_maps && statement.column_count() > 0 {
            true => statement.encoded_names()?,
            false => Vec::new(),
        };
        Ok(Self { format, keys })
    }

    /// Writes a row of what `encode` writes for each column.
    #[inline]
    pub fn encode(
        &self,
        columns: usize,
        out: &mut Encoder,
        mut encode: impl FnMut(usize, &mut Encoder) -> Result<()>,
    ) -> Result<()> {
        if self.format & abi::FORMAT_SHAPE_MASK == abi::FORMAT_MAPS {
            out.map(columns)?;
            for (column, key) in self.keys.iter().enumerate() {
                out.raw(key)?;
                encode(column, out)?;
            }
            return Ok(());
        }
        out.array(columns)?;
        for column in 0..columns {
            encode(column, out)?;
        }
        Ok(())
    }
}

/// Encodes text according to `format`. It is UTF-8 unless that is `TEXT_AS_BYTES`.
#[inline]
pub fn encode_text(text: &[u8], format: u16, out: &mut Encoder) -> Result<()> {
    if format & TEXT_AS_BYTES == 0 {
        out.text(text)
    } else if format & abi::FORMAT_TEXT_AS_EXTENSION != 0 {
        out.extension(abi::EXT_TEXT, text)
    } else {
        out.blob(text)
    }
}

/// The bytes of a value; `None` if SQLite had no memory to convert it.
///
/// # Safety
/// `start` is NULL or has `len` bytes that live during `'a`.
unsafe fn value_bytes<'a>(start: *const u8, len: c_int) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, len as usize) })
}
