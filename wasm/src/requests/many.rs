//! Requests that return no rows: `MANY` and `SCRIPT`, and the begin and end of blocks.
//! <https://peps.python.org/pep-0249/#executemany>, <https://sqlite.org/lang_transaction.html>

use crate::abi;
use crate::buffers::joined;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::requests::answer::Answer;
use crate::ring::request::Request;
use crate::sqlite::statement;
use crate::sqlite::statement::{Lifetime, Statement, Step};
use crate::sqlite::text;
use crate::vfs;
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
    connection.refuse_if_lost(statement)?;
    connection.begin_for(statement, request.format)?;
    check_positions(statement, request.format, sets.clone(), count)?;
    let first = request.target as usize;
    let mut changes = 0;
    for row in 0..count {
        run_set(connection, statement, &mut sets).map_err(|error| error.in_row(first + row))?;
        changes += connection.changes();
    }
    Ok(changes)
}

/// Before any set is bound, so that the host can send the same request again.
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
    vfs::between_statements();
    result.and_then(|()| connection.watch.callbacks.check())
}

/// `SCRIPT`: statement after statement.
pub fn script(connection: &Connection, request: &Request<'_>, sql: &[u8]) -> Result<Answer> {
    text::refuse_nul(sql)?;
    if request.format & abi::FORMAT_SCRIPT_COMMITS != 0 {
        connection.blocks.check()?;
        if connection.in_transaction() {
            run_first(connection, b"COMMIT\0")?;
        }
    }
    run_all(connection, sql)?;
    if request.format & abi::FORMAT_BEGIN_MASK != 0 && !connection.in_transaction() {
        connection
            .watch
            .without_interrupts(|| run_first(connection, b"BEGIN\0"))?;
    }
    Ok(Answer::nothing())
}

/// Runs the statements one after another.
pub fn run_all(connection: &Connection, sql: &[u8]) -> Result<()> {
    // With its NUL in the length, SQLite parses the text in place instead of copying the rest of the script for
    // every statement.
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
    Ok(())
}

/// Runs the first statement in `text`, which ends in a NUL; returns its length. Once cancelled, only statements
/// that undo are still run.
fn run_first(connection: &Connection, text: &[u8]) -> Result<usize> {
    let watch = &connection.watch;
    watch.forget_kind();
    let prepared = statement::prepare(connection.db(), text, 0);
    watch.apply_busy_timeout();
    let (statement, taken) = prepared?;
    if let Some(mut statement) = statement {
        vfs::give_back_locks();
        if watch.saw_attach() {
            connection.check_attach(&statement)?;
        }
        statement.transaction = watch.saw_step();
        connection.refuse_if_lost(&statement)?;
        if statement.transaction == Step::Undo {
            watch.without_interrupts(|| statement.run())?;
        } else if watch.is_cancelled() {
            return Err(Error::interrupted());
        } else {
            statement.run()?;
        }
        watch.callbacks.check()?;
        connection.blocks.note_success(connection.in_transaction());
    }
    Ok(taken)
}

/// Answers `BLOCK_ENTER`, `BLOCK_KEEP` and `BLOCK_UNDO`; `sql` begins or ends the block.
pub fn block(connection: &mut Connection, request: &Request<'_>, sql: &[u8]) -> Result<Answer> {
    let block = request.target;
    match request.op {
        abi::OP_BLOCK_ENTER => {
            run_cached(connection, sql)?;
            connection.blocks.open(block);
        }
        // A block that is not open was never entered.
        _ if !connection.blocks.is_open(block) => {}
        abi::OP_BLOCK_KEEP => {
            connection.blocks.check()?;
            run_cached(connection, sql)?;
            connection.blocks.close(block);
        }
        _ => {
            connection.blocks.close(block);
            if connection.in_transaction() {
                run_all(connection, sql)?;
            }
        }
    }
    Ok(Answer::nothing())
}

/// Runs a statement without rows. A block that has ended its transaction itself has nothing to commit.
fn run_cached(connection: &mut Connection, sql: &[u8]) -> Result<()> {
    let Some(mut statement) = connection.checkout(sql)? else {
        return Ok(());
    };
    let result = if statement.transaction == Step::Commit && !connection.in_transaction() {
        Ok(())
    } else {
        vfs::before_statement(statement.needs);
        connection
            .refuse_if_lost(&statement)
            .and_then(|()| statement.run())
    };
    connection.checkin(statement);
    result
}
