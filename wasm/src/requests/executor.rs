//! One SQL request: execute, fetch, next rows, prepared statements.
//!
//! Owns what outlives a request: the connection, statements by handle, and the buffers of answers.

use libsqlite3_sys as ffi;

use crate::abi;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::requests::answer::{Answer, Content, Output};
use crate::requests::execution::Run;
use crate::requests::handles::{Handles, Held};
use crate::requests::many;
use crate::requests::objects::Objects;
use crate::requests::replies::Replies;
use crate::ring::request::Request;
use crate::sqlite::statement::{Lifetime, Statement};
use crate::vfs;
use crate::wire::params::Params;

/// Minimum number of RETURNING rows in a reply, if there are that many.
const RETURNED_ROWS: u32 = 256;

/// The SQL and parameters of a request.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub sql: &'a [u8],
    pub params: &'a [u8],
}

pub struct Executor {
    /// Before the connection: fields are dropped in this order, and statements have to go first.
    handles: Handles,
    pub objects: Objects,
    pub connection: Connection,
    pub output: Output,
}

impl Executor {
    pub fn new(connection: Connection) -> Self {
        Self {
            handles: Handles::default(),
            objects: Objects::default(),
            connection,
            output: Output::default(),
        }
    }

    pub fn open_statements(&self) -> usize {
        self.handles.len()
    }

    /// `EXECUTE`: the first rows; a handle if there are more.
    pub fn execute(&mut self, request: &Request<'_>, input: Input<'_>) -> Result<Answer> {
        let Some(mut statement) = self.connection.checkout(input.sql)? else {
            return nothing_to_run(input.params);
        };
        // Without rows the statement ends within this request.
        let lifetime = if statement.column_count() == 0 {
            Lifetime::Request
        } else {
            Lifetime::Call
        };
        let mut run = None;
        let result = self.start(&mut statement, request, input.params, lifetime);
        let result = result
            .and_then(|started| self.page(&mut statement, run.insert(started), request.argument));
        match (result, run) {
            (Ok(answer), Some(run)) if run.has_more() => {
                let handle = self.handles.hold(Held {
                    statement,
                    run: Some(run),
                    prepared: false,
                    interrupted: false,
                })?;
                Ok(Answer { handle, ..answer })
            }
            (result, _) => {
                self.connection.checkin(statement);
                result
            }
        }
    }

    /// `EXECUTE_PREPARED`: as `execute`, with the existing handle.
    pub fn execute_prepared(&mut self, request: &Request<'_>, params: &[u8]) -> Result<Answer> {
        let mut held = self.handles.take_prepared(request.target)?;
        match self.start(&mut held.statement, request, params, Lifetime::Call) {
            Ok(run) => self.go_on(request, held, run),
            Err(error) => {
                self.check_in(request.target, held);
                Err(error)
            }
        }
    }

    /// `NEXT`: more rows of an open statement.
    pub fn next(&mut self, request: &Request<'_>) -> Result<Answer> {
        let (held, run) = self.handles.take_running(request.target)?;
        vfs::before_statement(held.statement.needs);
        self.go_on(request, held, run)
    }

    /// Sends rows of a statement that has a handle; it keeps the handle while there are more.
    fn go_on(&mut self, request: &Request<'_>, mut held: Held, mut run: Run) -> Result<Answer> {
        let result = self.page(&mut held.statement, &mut run, request.argument);
        match result {
            Ok(answer) if run.has_more() => {
                held.run = Some(run);
                self.handles.put_back(request.target, held);
                Ok(Answer {
                    handle: request.target,
                    ..answer
                })
            }
            result => {
                self.check_in(request.target, held);
                result
            }
        }
    }

    /// Ends an execution: the statement goes back under its handle if prepared, otherwise into the cache.
    fn check_in(&mut self, handle: u32, mut held: Held) {
        if held.prepared {
            held.run = None;
            held.statement.clear();
            self.handles.put_back(handle, held);
        } else {
            self.connection.checkin(held.statement);
        }
    }

    /// `FETCH`: all rows, in as many replies as needed.
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
        let mut held = self.handles.take_prepared(request.target)?;
        let result = self.fetch_all(&mut held.statement, request, params, replies);
        self.check_in(request.target, held);
        result
    }

    /// Runs to the end and sends each batch as it fills up; the caller clears the statement.
    fn fetch_all(
        &mut self,
        statement: &mut Statement,
        request: &Request<'_>,
        params: &[u8],
        replies: &mut Replies<'_>,
    ) -> Result<Answer> {
        let mut run = self.start(statement, request, params, Lifetime::Request)?;
        let most = if request.argument == 0 {
            u64::MAX
        } else {
            request.argument.into()
        };
        run.last = most;
        loop {
            run.fill(statement, &self.connection, &mut self.output, most)?;
            if !run.has_more() {
                return Ok(Answer::of(statement, &self.connection));
            }
            if run.rows >= most {
                break;
            }
            let answer = Answer {
                changes: -1,
                ..Answer::of(statement, &self.connection)
            };
            let rows = self.output.batch.row_count();
            let header = answer.header(request.id, abi::REPLY_BATCH, &self.connection, rows);
            replies.send_batch(header, self.output.body(answer.content))?;
            self.output.restart()?;
        }
        if statement.changes_data {
            // RETURNING: the change is complete, and counted, only at the end.
            statement.run()?;
        }
        Ok(Answer::of(statement, &self.connection))
    }

    fn start(
        &mut self,
        statement: &mut Statement,
        request: &Request<'_>,
        params: &[u8],
        lifetime: Lifetime,
    ) -> Result<Run> {
        let (connection, output) = (&mut self.connection, &mut self.output);
        // SAFETY: a statement that is not kept is cleared before its request is answered, and one that is kept
        // copies what is bound.
        unsafe {
            Run::start(
                connection,
                statement,
                output,
                request.format,
                params,
                lifetime,
            )
        }
    }

    /// One reply's rows: at most `most`, 0 for as many as fit a batch. A row's error comes after the rows before
    /// it; execution itself fails only with the first step.
    fn page(&mut self, statement: &mut Statement, run: &mut Run, most: u32) -> Result<Answer> {
        let most = match most {
            0 => u64::MAX,
            // All its rows are known with the first, and it is complete as soon as they are read.
            _ if statement.changes_data => run.rows + u64::from(most.max(RETURNED_ROWS)),
            _ => run.rows + u64::from(most),
        };
        let is_first = run.rows == 0;
        let filled = run.fill(statement, &self.connection, &mut self.output, most);
        let answer = Answer::of(statement, &self.connection);
        if let Err(error) = filled {
            run.end();
            self.fail_after_rows(error, is_first)?;
            return Ok(Answer {
                changes: -1,
                ..answer
            });
        }
        // Changes are counted when the statement ends.
        let changes = if run.has_more() {
            answer.changes.min(0)
        } else {
            answer.changes
        };
        Ok(Answer { changes, ..answer })
    }

    /// Puts an error after the rows of the batch, if there are any or it `is_first`. After a cancellation the rows
    /// are not wanted.
    fn fail_after_rows(&mut self, error: Error, is_first: bool) -> Result<()> {
        let watch = &self.connection.watch;
        let batch = &mut self.output.batch;
        if watch.is_cancelled() || batch.is_empty() && !is_first {
            return Err(error);
        }
        let max_bytes = self.connection.options.max_bytes;
        let error = watch.explained(error).within(max_bytes);
        batch.fail(&error).map_err(|_| error)
    }

    /// `MANY`.
    pub fn many(&mut self, request: &Request<'_>, input: Input<'_>) -> Result<Answer> {
        many::many(&mut self.connection, request, input.sql, input.params)
    }

    /// `SCRIPT`.
    pub fn script(&mut self, request: &Request<'_>, sql: &[u8]) -> Result<Answer> {
        many::script(&self.connection, request, sql)
    }

    /// `PREPARE`: a prepared statement, and its properties.
    pub fn prepare(&mut self, sql: &[u8]) -> Result<Answer> {
        let statement = self.connection.prepare(sql)?;
        let statement =
            statement.ok_or_else(|| Error::programming("there is no statement to prepare"))?;
        statement.describe(&mut self.output.value)?;
        let answer = Answer::of(&statement, &self.connection);
        let handle = self.handles.hold(Held {
            statement,
            run: None,
            prepared: true,
            interrupted: false,
        })?;
        Ok(Answer {
            handle,
            changes: -1,
            content: Content::Value,
            ..answer
        })
    }

    /// Adds to a request's result what only the callbacks know: why a statement was interrupted, or that it
    /// succeeded with arbitrary answers after a callback raised.
    pub fn checked(&mut self, result: Result<Answer>) -> Result<Answer> {
        let result = self.explained(result);
        let (blocks, in_transaction) = (&self.connection.blocks, self.connection.in_transaction());
        match &result {
            Ok(_) => blocks.note_success(in_transaction),
            Err(error) => blocks.note_failure(in_transaction, error.code),
        }
        result
    }

    fn explained(&mut self, result: Result<Answer>) -> Result<Answer> {
        let callbacks = &self.connection.watch.callbacks;
        // All steps are complete before the host reads the answer.
        callbacks.flush_rest();
        let checked = callbacks.check();
        self.connection.roll_back_failed();
        let Err(error) = checked else {
            return result.map_err(|error| self.connection.watch.explained(error));
        };
        let row = result.map_or_else(
            |other| other.row,
            |answer| {
                self.finish(answer.handle);
                error.row
            },
        );
        Err(Error { row, ..error })
    }

    /// `FINISH`: the remaining rows are not wanted.
    pub fn finish(&mut self, handle: u32) {
        if let Some(held) = self.handles.take(handle) {
            self.check_in(handle, held);
        }
    }

    /// Interrupts the statements with rows left. SQLite undoes the changes of one that changes data.
    pub fn interrupt(&mut self) {
        // With an open blob, which counts as a running statement, SQLite would keep interrupting until it is
        // closed.
        if !self.objects.run() {
            // SAFETY: the connection is open.
            unsafe { ffi::sqlite3_interrupt(self.connection.db()) };
        }
        self.handles.interrupt();
        let in_transaction = self.connection.in_transaction();
        let blocks = &self.connection.blocks;
        blocks.note_failure(in_transaction, ffi::SQLITE_INTERRUPT);
    }

    /// `RELEASE`: drops a prepared statement.
    pub fn release(&mut self, handle: u32) {
        self.handles.release(handle);
    }
}

/// An empty statement does nothing, but also accepts no parameters.
fn nothing_to_run(params: &[u8]) -> Result<Answer> {
    match Params::of_request(params)? {
        Params::ByPosition { count, .. } if count > 0 => Err(Error::binding_count(0, count)),
        _ => Ok(Answer {
            flags: abi::REPLY_NO_STATEMENT,
            ..Answer::nothing()
        }),
    }
}
