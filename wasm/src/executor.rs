//! One request from SQL to its answer: execute, many, script, next batch.
//!
//! Owns what outlives a request: the connection, open statements by handle, and the buffers that answers
//! are written to. A handle is either a cursor's, which dies with its last row, or one of `PREPARE`.

use std::collections::HashMap;

use crate::abi;
use crate::connection::Connection;
use crate::error::{Error, Result, code};
use crate::reply::{Body, Replies};
use crate::ring::{ReplyHeader, Request};
use crate::statement::{self, Lifetime, Statement};
use crate::wire::params::{Params, Reader};
use crate::wire::rows::{Batch, Encoder};

/// A buffer that a large row made grow past this is given back after the request.
const KEPT_BYTES: usize = 4 * abi::BATCH_BYTES as usize;

/// What a `DONE` reply says beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub flags: u8,
    pub column_count: usize,
    pub handle: u32,
    pub changes: i64,
    pub content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Rows,
    Value,
}

impl Answer {
    pub fn nothing() -> Self {
        Self {
            flags: 0,
            column_count: 0,
            handle: 0,
            changes: -1,
            content: Content::Nothing,
        }
    }

    pub fn value() -> Self {
        Self {
            content: Content::Value,
            ..Self::nothing()
        }
    }
}

/// How far a running statement has come.
struct Run {
    format: u16,
    /// The statement stands on a row that was not sent yet.
    row_ready: bool,
    rows: u64,
    bytes: u64,
    /// Names as MessagePack, for rows that are maps.
    keys: Vec<Box<[u8]>>,
}

impl Run {
    fn new(format: u16) -> Self {
        Self {
            format,
            row_ready: false,
            rows: 0,
            bytes: 0,
            keys: Vec::new(),
        }
    }
}

/// A statement that a handle stands for.
struct Held {
    statement: Statement,
    run: Option<Run>,
    prepared: bool,
}

/// The SQL and the parameters of a request.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub sql: &'a [u8],
    pub params: &'a [u8],
}

pub struct Executor {
    /// Before the connection: fields are dropped in this order, and statements have to go first.
    held: HashMap<u32, Held>,
    pub connection: Connection,
    last_handle: u32,
    columns: Encoder,
    batch: Batch,
    pub value: Encoder,
}

impl Executor {
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            held: HashMap::new(),
            last_handle: 0,
            columns: Encoder::default(),
            batch: Batch::default(),
            value: Encoder::default(),
        }
    }

    pub fn open_statements(&self) -> usize {
        self.held.len()
    }

    /// Empties the buffers before a request.
    pub fn restart(&mut self) -> Result<()> {
        self.columns.clear(KEPT_BYTES);
        self.value.clear(KEPT_BYTES);
        self.batch.restart(KEPT_BYTES)
    }

    /// The header of a reply about the connection as it is now.
    pub fn header(&self, id: u32, kind: u8, answer: &Answer) -> ReplyHeader {
        let in_transaction = if self.connection.in_transaction() {
            abi::REPLY_IN_TRANSACTION
        } else {
            0
        };
        ReplyHeader {
            id,
            kind,
            flags: answer.flags | in_transaction,
            column_count: answer.column_count as u16,
            row_count: if answer.content == Content::Rows {
                self.batch.row_count()
            } else {
                0
            },
            handle: answer.handle,
            changes: answer.changes,
            total_changes: self.connection.total_changes(),
            last_insert_rowid: self.connection.last_insert_rowid(),
            ..ReplyHeader::default()
        }
    }

    pub fn body(&mut self, content: Content) -> Body<'_> {
        match content {
            Content::Nothing => Body::default(),
            Content::Rows => Body {
                columns: self.columns.bytes(),
                rows: self.batch.bytes(),
            },
            Content::Value => Body {
                columns: &[],
                rows: self.value.bytes(),
            },
        }
    }

    /// `EXECUTE`: the first rows; a handle if there are more.
    pub fn execute(&mut self, request: &Request<'_>, input: Input<'_>) -> Result<Answer> {
        let Some(mut statement) = self.connection.checkout(input.sql)? else {
            return nothing_to_run(input.params);
        };
        let mut run = Run::new(request.format);
        // Without rows the statement ends within this request.
        let lifetime = if statement.column_count() == 0 {
            Lifetime::Request
        } else {
            Lifetime::Call
        };
        let started = self.start(&mut statement, &mut run, input.params, lifetime);
        let result = started.and_then(|()| self.page(&mut statement, &mut run, request.b));
        match result {
            Ok(mut answer) if run.row_ready => {
                answer.handle = self.hold(Held {
                    statement,
                    run: Some(run),
                    prepared: false,
                });
                Ok(answer)
            }
            result => {
                self.connection.checkin(statement);
                result
            }
        }
    }

    /// `NEXT`: more rows of an open statement.
    pub fn next(&mut self, request: &Request<'_>) -> Result<Answer> {
        let unknown = || Error::programming("the cursor's statement is closed");
        let mut held = self.held.remove(&request.a).ok_or_else(unknown)?;
        let Some(mut run) = held.run.take() else {
            self.held.insert(request.a, held);
            return Err(unknown());
        };
        let result = self.page(&mut held.statement, &mut run, request.b);
        self.settle(request.a, held, run, result)
    }

    /// `EXECUTE_PREPARED`.
    pub fn execute_prepared(&mut self, request: &Request<'_>, params: &[u8]) -> Result<Answer> {
        let mut held = self.take_prepared(request.a)?;
        let mut run = Run::new(request.format);
        let started = self.start(&mut held.statement, &mut run, params, Lifetime::Call);
        let result = started.and_then(|()| self.page(&mut held.statement, &mut run, request.b));
        self.settle(request.a, held, run, result)
    }

    /// Puts a statement back under its handle, or away if it has ended.
    fn settle(
        &mut self,
        handle: u32,
        mut held: Held,
        run: Run,
        result: Result<Answer>,
    ) -> Result<Answer> {
        let more = result.is_ok() && run.row_ready;
        if more {
            held.run = Some(run);
            self.held.insert(handle, held);
        } else if held.prepared {
            held.statement.clear();
            self.held.insert(handle, held);
        } else {
            self.connection.checkin(held.statement);
        }
        result.map(|answer| Answer {
            handle: if more { handle } else { 0 },
            ..answer
        })
    }

    /// `FETCH`: all rows, in as many replies as it takes.
    pub fn fetch(
        &mut self,
        request: &Request<'_>,
        input: Input<'_>,
        replies: &mut Replies<'_>,
    ) -> Result<Answer> {
        let Some(mut statement) = self.connection.checkout(input.sql)? else {
            return nothing_to_run(input.params);
        };
        let result = self.fetch_all(&mut statement, request, input.params, replies);
        self.connection.checkin(statement);
        result
    }

    /// `FETCH_PREPARED`.
    pub fn fetch_prepared(
        &mut self,
        request: &Request<'_>,
        params: &[u8],
        replies: &mut Replies<'_>,
    ) -> Result<Answer> {
        let mut held = self.take_prepared(request.a)?;
        let result = self.fetch_all(&mut held.statement, request, params, replies);
        held.statement.clear();
        self.held.insert(request.a, held);
        result
    }

    /// Runs to the end and sends a batch whenever one is full; the caller clears the statement.
    fn fetch_all(
        &mut self,
        statement: &mut Statement,
        request: &Request<'_>,
        params: &[u8],
        replies: &mut Replies<'_>,
    ) -> Result<Answer> {
        let mut run = Run::new(request.format);
        self.start(statement, &mut run, params, Lifetime::Request)?;
        let most = if request.b == 0 {
            u64::MAX
        } else {
            request.b.into()
        };
        loop {
            self.fill(statement, &mut run, most)?;
            if !run.row_ready {
                return Ok(self.answer(statement));
            }
            if run.rows >= most {
                break;
            }
            let answer = Answer {
                changes: -1,
                ..self.answer(statement)
            };
            let header = self.header(request.id, abi::REPLY_BATCH, &answer);
            replies.send_batch(header, self.body(answer.content))?;
            self.columns.clear(KEPT_BYTES);
            self.batch.restart(KEPT_BYTES)?;
        }
        if statement.changes_data {
            // RETURNING: the change is only complete, and only counted, at the end.
            statement.run()?;
        }
        Ok(self.answer(statement))
    }

    /// Binds, opens a transaction if asked to, and makes the first step; encodes the columns.
    fn start(
        &mut self,
        statement: &mut Statement,
        run: &mut Run,
        params: &[u8],
        lifetime: Lifetime,
    ) -> Result<()> {
        if statement.changes_data {
            self.connection
                .begin((run.format & abi::FORMAT_BEGIN_MASK) >> abi::FORMAT_BEGIN_SHIFT)?;
        }
        let params = Params::of_request(params)?;
        // SAFETY: with `Request`, the statement is cleared by the caller before the frame is released.
        unsafe { statement.bind(&params, lifetime)? };
        run.row_ready = statement.step()?;
        // Only now: the first step prepares anew after a change of the schema.
        if statement.column_count() > 0 {
            if run.format & abi::FORMAT_COLUMNS != 0 {
                statement.encode_columns(run.format, &mut self.columns)?;
            }
            if run.format & abi::FORMAT_SHAPE_MASK == abi::FORMAT_MAPS {
                run.keys = statement.encoded_names()?;
            }
        }
        Ok(())
    }

    /// One reply's rows: at most `most`, 0 for as many as a batch holds.
    fn page(&mut self, statement: &mut Statement, run: &mut Run, most: u32) -> Result<Answer> {
        let most = if most == 0 {
            u64::MAX
        } else {
            run.rows + u64::from(most)
        };
        self.fill(statement, run, most)?;
        let answer = self.answer(statement);
        // Changes are counted when the statement ends.
        let changes = if run.row_ready {
            answer.changes.min(0)
        } else {
            answer.changes
        };
        Ok(Answer { changes, ..answer })
    }

    /// Encodes rows until none is left, the batch is full or `most` rows of this run were encoded.
    fn fill(&mut self, statement: &mut Statement, run: &mut Run, most: u64) -> Result<()> {
        let columns = statement.column_count();
        let limits = self.connection.options;
        while run.row_ready && run.rows < most && self.batch.len() < abi::BATCH_BYTES as usize {
            let start = self.batch.len();
            let current = &*statement;
            let (format, keys) = (run.format, &run.keys);
            self.batch
                .row(|out| encode_row(current, columns, format, keys, out))?;
            run.rows += 1;
            run.bytes += (self.batch.len() - start) as u64;
            if limits.max_rows != 0 && run.rows > limits.max_rows {
                let message = format!("the result has more than {} rows", limits.max_rows);
                return Err(Error::limit(code::TOOBIG, message));
            }
            if limits.max_bytes != 0 && run.bytes > limits.max_bytes {
                let message = format!("the result has more than {} bytes", limits.max_bytes);
                return Err(Error::limit(code::TOOBIG, message));
            }
            run.row_ready = statement.step()?;
        }
        Ok(())
    }

    fn answer(&self, statement: &Statement) -> Answer {
        let column_count = statement.column_count();
        let (has_columns, content) = match column_count {
            0 => (0, Content::Nothing),
            _ => (abi::REPLY_HAS_COLUMNS, Content::Rows),
        };
        let (changes_data, changes) = match statement.changes_data {
            true => (abi::REPLY_CHANGES_DATA, self.connection.changes()),
            false => (0, -1),
        };
        Answer {
            flags: has_columns | changes_data,
            column_count,
            handle: 0,
            changes,
            content,
        }
    }

    /// `MANY`: one statement, many parameter sets.
    pub fn many(&mut self, request: &Request<'_>, input: Input<'_>) -> Result<Answer> {
        let only_dml = || Error::programming("executemany() can only execute DML statements.");
        let mut statement = self.connection.checkout(input.sql)?.ok_or_else(only_dml)?;
        let result = if statement.is_readonly() {
            Err(only_dml())
        } else {
            self.run_sets(&mut statement, request, input.params)
        };
        self.connection.checkin(statement);
        let changes = result?;
        if !statement_changes(changes) {
            return Ok(Answer::nothing());
        }
        Ok(Answer {
            flags: abi::REPLY_CHANGES_DATA,
            changes,
            ..Answer::nothing()
        })
    }

    /// The sum of changes, or -1 if the statement changes no data; the caller clears the statement.
    fn run_sets(
        &mut self,
        statement: &mut Statement,
        request: &Request<'_>,
        params: &[u8],
    ) -> Result<i64> {
        let mut sets = Reader::new(params);
        let count = sets.array()?;
        if statement.changes_data {
            self.connection
                .begin((request.format & abi::FORMAT_BEGIN_MASK) >> abi::FORMAT_BEGIN_SHIFT)?;
        }
        let first = request.a as usize;
        let mut changes = 0;
        for row in 0..count {
            self.run_set(statement, &mut sets)
                .map_err(|error| error.in_row(first + row))?;
            changes += self.connection.changes();
        }
        Ok(if statement.changes_data { changes } else { -1 })
    }

    fn run_set(&mut self, statement: &mut Statement, sets: &mut Reader<'_>) -> Result<()> {
        if self.connection.is_cancelled() {
            return Err(Error::interrupted());
        }
        let params = sets.params()?;
        // SAFETY: `many` clears the statement before the request's frame is released.
        unsafe { statement.bind(&params, Lifetime::Request)? };
        let result = statement.run();
        statement.reset();
        result
    }

    /// `SCRIPT`: statement after statement; rows are dropped.
    pub fn script(&mut self, request: &Request<'_>, sql: &[u8]) -> Result<Answer> {
        crate::sql::refuse_nul(sql)?;
        if request.format & abi::FORMAT_SCRIPT_COMMITS != 0 && self.connection.in_transaction() {
            self.run_text(b"COMMIT\0", 0)?;
        }
        // With its NUL in the length, SQLite parses the text where it is and does not copy the rest of the
        // script for every statement.
        let mut text = Vec::new();
        text.try_reserve_exact(sql.len() + 1)
            .map_err(|_| Error::out_of_memory())?;
        text.extend_from_slice(sql);
        text.push(0);
        let mut start = 0;
        while start < sql.len() {
            if self.connection.is_cancelled() {
                return Err(Error::interrupted());
            }
            let taken = self.run_text(&text[start..], start)?;
            if taken == 0 {
                break;
            }
            start += taken;
        }
        Ok(Answer::nothing())
    }

    /// Runs the first statement in `text`, which ends in a NUL; returns how much of it that was.
    fn run_text(&self, text: &[u8], start: usize) -> Result<usize> {
        let (statement, taken) = statement::prepare(self.connection.db(), text, 0)
            .map_err(|error| error.shifted_by(start))?;
        if let Some(mut statement) = statement {
            statement.run()?;
        }
        Ok(taken)
    }

    /// `PREPARE`: a statement that stays prepared, and what there is to know about it.
    pub fn prepare(&mut self, sql: &[u8]) -> Result<Answer> {
        let statement = self.connection.prepare(sql)?;
        let statement =
            statement.ok_or_else(|| Error::programming("there is no statement to prepare"))?;
        let out = &mut self.value;
        out.map(3)?;
        out.text(b"columns")?;
        statement.encode_columns(abi::FORMAT_DECLARED_TYPES, out)?;
        out.text(b"parameters")?;
        let names = statement.parameter_names();
        out.array(names.len())?;
        for name in names {
            match name {
                Some(name) => out.text(name)?,
                None => out.null()?,
            }
        }
        out.text(b"readonly")?;
        out.boolean(statement.is_readonly())?;
        let described = self.answer(&statement);
        let handle = self.hold(Held {
            statement,
            run: None,
            prepared: true,
        });
        Ok(Answer {
            handle,
            changes: -1,
            content: Content::Value,
            ..described
        })
    }

    /// `FINISH`: the rest of the rows is not wanted.
    pub fn finish(&mut self, handle: u32) {
        match self.held.remove(&handle) {
            Some(mut held) if held.prepared => {
                held.run = None;
                held.statement.clear();
                self.held.insert(handle, held);
            }
            Some(held) => self.connection.checkin(held.statement),
            None => {}
        }
    }

    /// `RELEASE`: a prepared statement is not wanted any more.
    pub fn release(&mut self, handle: u32) {
        if self.held.get(&handle).is_some_and(|held| held.prepared) {
            self.held.remove(&handle);
        }
    }

    fn take_prepared(&mut self, handle: u32) -> Result<Held> {
        let is_prepared = self.held.get(&handle).is_some_and(|held| held.prepared);
        let held = if is_prepared {
            self.held.remove(&handle)
        } else {
            None
        };
        let mut held =
            held.ok_or_else(|| Error::programming("the prepared statement is closed"))?;
        // It may stand in the middle of an earlier run.
        held.run = None;
        held.statement.clear();
        Ok(held)
    }

    fn hold(&mut self, held: Held) -> u32 {
        loop {
            self.last_handle = self.last_handle.wrapping_add(1);
            if self.last_handle != 0 && !self.held.contains_key(&self.last_handle) {
                self.held.insert(self.last_handle, held);
                return self.last_handle;
            }
        }
    }
}

fn statement_changes(changes: i64) -> bool {
    changes >= 0
}

/// An empty statement does nothing, but it takes no parameters either.
fn nothing_to_run(params: &[u8]) -> Result<Answer> {
    match Params::of_request(params)? {
        Params::ByPosition { count, .. } if count > 0 => Err(Error::programming(format!(
            "Incorrect number of bindings supplied. The current statement uses 0, and there are {count} supplied."
        ))),
        _ => Ok(Answer::nothing()),
    }
}

/// Writes the current row as an array or a map.
#[inline]
fn encode_row(
    statement: &Statement,
    columns: usize,
    format: u16,
    keys: &[Box<[u8]>],
    out: &mut Encoder,
) -> Result<()> {
    if format & abi::FORMAT_SHAPE_MASK == abi::FORMAT_MAPS {
        out.map(columns)?;
        for (column, key) in keys.iter().enumerate() {
            out.raw(key)?;
            statement.encode_value(column, format, out)?;
        }
        return Ok(());
    }
    out.array(columns)?;
    for column in 0..columns {
        statement.encode_value(column, format, out)?;
    }
    Ok(())
}
