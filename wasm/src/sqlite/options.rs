//! The options of `OPEN`, decoded (docs/abi.md).

use core::ffi::c_int;

use libsqlite3_sys as ffi;

use crate::buffers::shown;
use crate::error::{Error, Result};
use crate::wire::params::Reader;

const DEFAULT_CACHED_STATEMENTS: i64 = 128;

/// The options of `OPEN` (docs/abi.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub flags: c_int,
    pub cached_statements: usize,
    /// Limits on one result; 0 means none.
    pub max_rows: u64,
    pub max_bytes: u64,
    pub statement_steps: u64,
    pub file_bytes: i64,
}

impl Options {
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let mut flags = i64::from(ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE);
        let mut cached_statements = DEFAULT_CACHED_STATEMENTS;
        let [
            mut max_rows,
            mut max_bytes,
            mut statement_steps,
            mut file_bytes,
        ] = [0_i64; 4];
        let count = if bytes.is_empty() { 0 } else { reader.map()? };
        for _ in 0..count {
            let name = reader.text()?;
            *match name {
                b"flags" => &mut flags,
                b"cached_statements" => &mut cached_statements,
                b"max_rows" => &mut max_rows,
                b"max_bytes" => &mut max_bytes,
                b"statement_steps" => &mut statement_steps,
                b"file_bytes" => &mut file_bytes,
                _ => {
                    let name = shown(name);
                    return Err(Error::internal(format!("unknown option of OPEN: {name}")));
                }
            } = reader.integer()?;
        }
        let negative = |_| Error::internal("an option of OPEN is out of range");
        Ok(Self {
            flags: c_int::try_from(flags).map_err(negative)?,
            cached_statements: usize::try_from(cached_statements).map_err(negative)?,
            max_rows: u64::try_from(max_rows).map_err(negative)?,
            max_bytes: u64::try_from(max_bytes).map_err(negative)?,
            statement_steps: u64::try_from(statement_steps).map_err(negative)?,
            file_bytes,
        })
    }
}
