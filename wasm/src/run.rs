//! One execution of a statement: how far it has come, and its rows on their way into a batch.

use crate::abi;
use crate::answer::Output;
use crate::connection::Connection;
use crate::error::{Error, Result, code};
use crate::options::Options;
use crate::statement::{Lifetime, Statement};
use crate::wire::params::Params;
use crate::wire::rows::Encoder;

pub struct Run {
    format: u16,
    /// The statement stands on a row that was not sent yet.
    pub row_ready: bool,
    /// Sent so far.
    pub rows: u64,
    bytes: u64,
    /// Names as MessagePack, for rows that are maps.
    keys: Vec<Box<[u8]>>,
}

impl Run {
    /// Binds, opens a transaction if asked to, and makes the first step; encodes the columns.
    ///
    /// # Safety
    /// As `Statement::bind`: with `Lifetime::Request` the statement is cleared within the request.
    pub unsafe fn start(
        connection: &mut Connection,
        statement: &mut Statement,
        output: &mut Output,
        format: u16,
        params: &[u8],
        lifetime: Lifetime,
    ) -> Result<Self> {
        begin_for(connection, statement, format)?;
        let params = Params::of_request(params)?;
        statement.check_positions(format, &params)?;
        // SAFETY: the caller's promise.
        unsafe { statement.bind(&params, lifetime)? };
        let row_ready = statement.step()?;
        let mut run = Self {
            format,
            row_ready,
            rows: 0,
            bytes: 0,
            keys: Vec::new(),
        };
        // Only now: the first step prepares anew after a change of the schema.
        if statement.column_count() > 0 {
            if format & abi::FORMAT_COLUMNS != 0 {
                statement.encode_columns(format, &mut output.columns)?;
            }
            if run.sends_maps() {
                run.keys = statement.encoded_names()?;
            }
        }
        Ok(run)
    }

    fn sends_maps(&self) -> bool {
        self.format & abi::FORMAT_SHAPE_MASK == abi::FORMAT_MAPS
    }

    /// Encodes rows until none is left, the batch is full or `most` rows of this run were encoded.
    pub fn fill(
        &mut self,
        statement: &mut Statement,
        output: &mut Output,
        limits: &Options,
        most: u64,
    ) -> Result<()> {
        let columns = statement.column_count();
        let batch = &mut output.batch;
        while self.row_ready && self.rows < most && batch.len() < abi::BATCH_BYTES as usize {
            let start = batch.len();
            batch.row(|out| self.encode_row(statement, columns, out))?;
            self.rows += 1;
            self.bytes += (batch.len() - start) as u64;
            self.check(limits)?;
            self.row_ready = statement.step()?;
        }
        Ok(())
    }

    fn check(&self, limits: &Options) -> Result<()> {
        let (limit, unit) = if limits.max_rows != 0 && self.rows > limits.max_rows {
            (limits.max_rows, "rows")
        } else if limits.max_bytes != 0 && self.bytes > limits.max_bytes {
            (limits.max_bytes, "bytes")
        } else {
            return Ok(());
        };
        Err(Error::limit(
            code::TOOBIG,
            format!("the result has more than {limit} {unit}"),
        ))
    }

    /// Writes the current row as an array or a map.
    #[inline]
    fn encode_row(&self, statement: &Statement, columns: usize, out: &mut Encoder) -> Result<()> {
        if self.sends_maps() {
            out.map(columns)?;
            for (column, key) in self.keys.iter().enumerate() {
                out.raw(key)?;
                statement.encode_value(column, self.format, out)?;
            }
            return Ok(());
        }
        out.array(columns)?;
        for column in 0..columns {
            statement.encode_value(column, self.format, out)?;
        }
        Ok(())
    }
}

/// Opens the transaction that `format` asks for, if `statement` changes data.
pub fn begin_for(connection: &mut Connection, statement: &Statement, format: u16) -> Result<()> {
    if !statement.changes_data {
        return Ok(());
    }
    connection.begin((format & abi::FORMAT_BEGIN_MASK) >> abi::FORMAT_BEGIN_SHIFT)
}
