//! Requests that run many times or many statements, and give back no rows: `MANY` and `SCRIPT`.

use crate::abi;
use crate::answer::Answer;
use crate::buffers::joined;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::ring::request::Request;
use crate::sql;
use crate::statement::{self, Lifetime, Statement};
use crate::vfs;
use crate::watch::Step;
use crate::wire::params::Reader;

/// `MANY`: one statement, many parameter sets.
pub fn many(
    connection: &mut Connection,
    request: &Request<'_>,
    sql: &[u8],
    params: &[u8],
) -> Result<Answer> {
    let only_dml = || Error::programming("executemany() can only execute DML statements.");
    let mut statement = connection.checkout(sql)?.ok_or_else(only_dml)?;
    let result = if statement.is_readonly() {
        Err(only_dml())
    } else {
        run_sets(connection, &mut statement, request, params)
    };
    let changes_data = statement.changes_data;
    connection.checkin(statement);
    let changes = result?;
    if !changes_data {
        return Ok(Answer::nothing());
    }
    Ok(Answer {
        flags: abi::REPLY_CHANGES_DATA,
        changes,
        ..Answer::nothing()
    })
}

/// Returns the sum of changes; the caller clears the statement.
fn run_sets(
    connection: &mut Connection,
    statement: &mut Statement,
    request: &Request<'_>,
    params: &[u8],
) -> Result<i64> {
    let mut sets = Reader::new(params);
    let count = sets.array()?;
    connection.begin_for(statement, request.format)?;
    check_positions(statement, request.format, sets.clone(), count)?;
    let first = request.a as usize;
    let mut changes = 0;
    for row in 0..count {
        run_set(connection, statement, &mut sets).map_err(|error| error.in_row(first + row))?;
        changes += connection.changes();
    }
    Ok(changes)
}

/// Before any set is bound: so that the host can send the same request again.
fn check_positions(
    statement: &Statement,
    format: u16,
    mut sets: Reader<'_>,
    count: usize,
) -> Result<()> {
    if format & abi::FORMAT_REFUSE_POSITIONS == 0 || !statement.has_named_parameters() {
        return Ok(());
    }
    for _ in 0..count {
        statement.check_positions(format, &sets.params()?)?;
    }
    Ok(())
}

fn run_set(
    connection: &Connection,
    statement: &mut Statement,
    sets: &mut Reader<'_>,
) -> Result<()> {
    if connection.watch.is_cancelled() {
        return Err(Error::interrupted());
    }
    // SAFETY: `many` clears the statement before the request's frame is released.
    unsafe { statement.bind_next(sets, Lifetime::Request)? };
    let result = statement.run();
    statement.reset();
    vfs::after_statement(true);
    result.and_then(|()| connection.watch.callbacks.check())
}

/// `SCRIPT`: statement after statement.
pub fn script(connection: &Connection, request: &Request<'_>, sql: &[u8]) -> Result<Answer> {
    sql::refuse_nul(sql)?;
    if request.format & abi::FORMAT_SCRIPT_COMMITS != 0 && connection.in_transaction() {
        run_first(connection, b"COMMIT\0")?;
    }
    // With its NUL in the length, SQLite parses the text where it is, and does not copy the rest of the script
    // for every statement.
    let text = joined(&[sql, b"\0"])?;
    let mut start = 0;
    while start < sql.len() {
        let taken =
            run_first(connection, &text[start..]).map_err(|error| error.shifted_by(start))?;
        if taken == 0 {
            break;
        }
        start += taken;
    }
    if request.format & abi::FORMAT_BEGIN_MASK != 0 && !connection.in_transaction() {
        connection
            .watch
            .carry_through(|| run_first(connection, b"BEGIN\0"))?;
    }
    Ok(Answer::nothing())
}

/// Runs the first statement in `text`, which ends in a NUL; returns how much of it that was. Once cancelled, only
/// what undoes is still run.
fn run_first(connection: &Connection, text: &[u8]) -> Result<usize> {
    let watch = &connection.watch;
    watch.forget_kind();
    let (statement, taken) = statement::prepare(connection.db(), text, 0)?;
    if let Some(mut statement) = statement {
        vfs::give_back_locks();
        if watch.saw_attach() {
            connection.check_attach(&statement)?;
        }
        if watch.saw_step() == Step::Undo {
            watch.carry_through(|| statement.run())?;
        } else if watch.is_cancelled() {
            return Err(Error::interrupted());
        } else {
            statement.run()?;
        }
        watch.callbacks.check()?;
    }
    Ok(taken)
}
