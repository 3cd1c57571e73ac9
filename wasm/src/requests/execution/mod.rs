//! One execution of a statement: how far it has come, and its rows on their way into a batch.

mod ahead;
mod rows;

use crate::abi;
use crate::callbacks::reading;
use crate::connection::Connection;
use crate::error::{Error, Result, code};
use crate::requests::answer::Output;
use crate::requests::execution::rows::Ahead;
use crate::sqlite::options::Options;
use crate::sqlite::statement::{Lifetime, Statement};
use crate::vfs;
use crate::wire::params::Params;
use crate::wire::rows::{Batch, Encoder};

/// Where the statement stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// On a row that was not read yet.
    Row,
    /// On one that was read.
    Read,
    End,
}

impl Stand {
    fn after_step(is_row: bool) -> Self {
        if is_row { Self::Row } else { Self::End }
    }
}

pub struct Run {
    format: u16,
    stand: Stand,
    /// Sent so far.
    pub rows: u64,
    /// After so many rows nothing is stepped any more: the rest is not wanted.
    pub last: u64,
    bytes: u64,
    /// What the next row failed with, once rows that were read ahead before it are sent.
    error: Option<Error>,
    /// Names as MessagePack, for rows that are maps.
    keys: Vec<Box<[u8]>>,
    /// Once calls of functions are put off.
    ahead: Option<Box<Ahead>>,
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
        connection.refuse_if_lost(statement)?;
        connection.begin_for(statement, format)?;
        let params = Params::of_request(params)?;
        statement.check_positions(format, &params)?;
        // SAFETY: the caller's promise.
        unsafe { statement.bind(&params, lifetime)? };
        if statement.attaches {
            connection.check_attach(statement)?;
        }
        let callbacks = &connection.watch.callbacks;
        callbacks.forget_calls();
        vfs::before_statement(statement.needs);
        let stand = Stand::after_step(statement.step()?);
        let mut run = Self {
            format,
            stand,
            rows: 0,
            last: u64::MAX,
            bytes: 0,
            error: None,
            keys: Vec::new(),
            ahead: None,
        };
        // Only now: the first step prepares anew after a change of the schema.
        if statement.column_count() > 0 {
            if format & abi::FORMAT_COLUMNS != 0 {
                statement.encode_columns(format, &mut output.columns)?;
                run.bytes = output.columns.len() as u64;
                run.check(&connection.options)?;
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

    /// Whether there are rows that were not sent yet.
    pub fn has_more(&self) -> bool {
        self.stand != Stand::End
            || self.error.is_some()
            || self.ahead.as_ref().is_some_and(|ahead| ahead.left() > 0)
    }

    /// There are no more rows.
    pub fn end(&mut self) {
        self.stand = Stand::End;
        self.error = None;
        self.ahead = None;
    }

    /// Encodes rows until none is left, the batch is full or `most` rows of this run were encoded.
    pub fn fill(
        &mut self,
        statement: &mut Statement,
        connection: &Connection,
        output: &mut Output,
        most: u64,
    ) -> Result<()> {
        let batch = &mut output.batch;
        if self.ahead.is_none() {
            self.fill_now(statement, connection, batch, most)?;
        }
        let Some(mut ahead) = self.ahead.take() else {
            return Ok(());
        };
        let result = self.fill_ahead(&mut ahead, statement, connection, batch, most);
        self.ahead = Some(ahead);
        result
    }

    /// As `fill`, until it is known that rows are to be read ahead.
    fn fill_now(
        &mut self,
        statement: &mut Statement,
        connection: &Connection,
        batch: &mut Batch,
        most: u64,
    ) -> Result<()> {
        let callbacks = &connection.watch.callbacks;
        while self.stand == Stand::Row && self.has_room(batch, most) {
            self.send(batch, &connection.options, |run, batch| {
                let encode =
                    |column, out: &mut Encoder| statement.encode_value(column, run.format, out);
                batch.row(|out| run.encode_row(statement.column_count(), out, encode))
            })?;
            if callbacks.has_called()
                && let Some(plan) = reading::plan(statement, callbacks)
            {
                self.ahead = Some(Box::new(Ahead::new(statement, plan, self.format)));
                self.stand = Stand::Read;
                return Ok(());
            }
            if self.rows == self.last {
                self.stand = Stand::Read;
                return Ok(());
            }
            self.stand = Stand::after_step(statement.step()?);
        }
        Ok(())
    }

    fn has_room(&self, batch: &Batch, most: u64) -> bool {
        self.rows < most && batch.len() < abi::BATCH_BYTES as usize
    }

    /// Counts the row that `put` adds to the batch.
    fn send(
        &mut self,
        batch: &mut Batch,
        limits: &Options,
        put: impl FnOnce(&Self, &mut Batch) -> Result<()>,
    ) -> Result<()> {
        let start = batch.len();
        put(self, batch)?;
        self.rows += 1;
        self.bytes += (batch.len() - start) as u64;
        self.check(limits).inspect_err(|_| batch.take_back(start))
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

    /// Writes a row as an array or a map of what `encode` writes for each column.
    #[inline]
    fn encode_row(
        &self,
        columns: usize,
        out: &mut Encoder,
        mut encode: impl FnMut(usize, &mut Encoder) -> Result<()>,
    ) -> Result<()> {
        if self.sends_maps() {
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
