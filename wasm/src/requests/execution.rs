//! One execution of a statement: its progress, and encoding its rows into a batch.

use crate::abi;
use crate::connection::Connection;
use crate::deferral::read_ahead::{ReadAhead, Wanted};
use crate::error::{Error, Result, code};
use crate::requests::answer::Output;
use crate::sqlite::columns::RowShape;
use crate::sqlite::options::Options;
use crate::sqlite::statement::{Lifetime, Statement};
use crate::vfs;
use crate::wire::params::Params;
use crate::wire::rows::{Batch, Encoder};

/// The statement's position.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// On a row that has not been read yet.
    Row,
    /// On a row that has been read.
    Read,
    End,
}

impl Position {
    fn after_step(is_row: bool) -> Self {
        if is_row { Self::Row } else { Self::End }
    }
}

pub struct Run {
    shape: RowShape,
    position: Position,
    /// Rows sent so far.
    pub rows: u64,
    /// After this many rows the statement is not stepped any more: the rest is not wanted.
    pub last: u64,
    bytes: u64,
    /// Set once calls of functions are deferred.
    ahead: Option<Box<ReadAhead>>,
}

impl Run {
    /// Binds, opens a transaction if requested, and makes the first step; encodes the columns.
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
        connection.watch.deferral.begin_execution();
        vfs::before_statement(statement.needs);
        let position = Position::after_step(statement.step()?);
        let mut run = Self {
            // Only after the first step, which re-prepares the statement after a schema change.
            shape: RowShape::of(statement, format)?,
            position,
            rows: 0,
            last: u64::MAX,
            bytes: 0,
            ahead: None,
        };
        if format & abi::FORMAT_COLUMNS != 0 && statement.column_count() > 0 {
            statement.encode_columns(format, &mut output.columns)?;
            run.bytes = output.columns.len() as u64;
            run.check(&connection.options)?;
        }
        Ok(run)
    }

    /// Whether there are unsent rows.
    pub fn has_more(&self) -> bool {
        match &self.ahead {
            Some(ahead) => ahead.has_more(),
            None => self.position != Position::End,
        }
    }

    /// There are no more rows.
    pub fn end(&mut self) {
        self.position = Position::End;
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

    /// As `fill`, until it is known that rows should be read ahead.
    fn fill_now(
        &mut self,
        statement: &mut Statement,
        connection: &Connection,
        batch: &mut Batch,
        most: u64,
    ) -> Result<()> {
        let watch = &connection.watch;
        while self.position == Position::Row && self.has_room(batch, most) {
            self.send(batch, &connection.options, |run, batch| {
                let format = run.shape.format;
                let encode =
                    |column, out: &mut Encoder| statement.encode_value(column, format, out);
                batch.row(|out| run.shape.encode(statement.column_count(), out, encode))
            })?;
            self.ahead = ReadAhead::of(
                &watch.deferral,
                &watch.callbacks,
                statement,
                self.shape.format,
            );
            if self.ahead.is_some() {
                self.position = Position::Read;
                return Ok(());
            }
            if self.rows == self.last {
                self.position = Position::Read;
                return Ok(());
            }
            self.position = Position::after_step(statement.step()?);
        }
        Ok(())
    }

    /// As `fill`, through rows that are read ahead. One more than is sent is read, to know whether there are more.
    fn fill_ahead(
        &mut self,
        ahead: &mut ReadAhead,
        statement: &mut Statement,
        connection: &Connection,
        batch: &mut Batch,
        most: u64,
    ) -> Result<()> {
        let most_rows = match connection.options.max_rows {
            0 => most,
            limit => most.min(limit),
        };
        loop {
            let wanted = Wanted {
                rows: most_rows.saturating_sub(self.rows).saturating_add(1),
                bytes: (abi::BATCH_BYTES as usize).saturating_sub(batch.len()),
                now: self.has_room(batch, most),
            };
            let callbacks = &connection.watch.callbacks;
            let is_there = ahead.advance(callbacks, statement, &self.shape, &wanted)?;
            if !is_there || !wanted.now {
                return Ok(());
            }
            self.send(batch, &connection.options, |_, batch| ahead.send(batch))?;
        }
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
}
