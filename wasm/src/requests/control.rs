//! `CONTROL`: settings and queries of a connection that need no SQL.
//! <https://sqlite.org/c3ref/limit.html>, <https://sqlite.org/c3ref/db_config.html>

use core::ffi::c_int;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::callbacks::{Handle, argument_block, collations, extensions, functions};
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::requests::answer::Answer;
use crate::requests::executor::Executor;
use crate::requests::replies::Counters;
use crate::vfs;
use crate::wire::params::Reader;

/// Puts the answer to one `CONTROL` request into the executor's value.
pub fn control(
    executor: &mut Executor,
    operation: u32,
    arguments: &[u8],
    replies: Counters,
) -> Result<Answer> {
    let mut reader = Reader::new(arguments);
    let count = if arguments.is_empty() {
        0
    } else {
        reader.array()?
    };
    match operation {
        abi::CONTROL_OP_STATISTICS => statistics(executor, replies)?,
        abi::CONTROL_OP_LIMIT => {
            let (category, value) = one_or_two(&mut reader, count)?;
            let previous = limit(&executor.connection, category, value)?;
            executor.output.value.integer(previous.into())?;
        }
        abi::CONTROL_OP_CONFIG => {
            let (option, value) = one_or_two(&mut reader, count)?;
            let now = config(&executor.connection, option, value)?;
            executor.output.value.integer(now.into())?;
        }
        abi::CONTROL_OP_CHANGES => {
            let changes = executor.connection.changes();
            executor.output.value.integer(changes)?;
        }
        abi::CONTROL_OP_INTERRUPT => executor.interrupt(),
        abi::CONTROL_OP_FUNCTION => define_function(&executor.connection, &mut reader)?,
        abi::CONTROL_OP_COLLATION => {
            let (handle, name) = (handle(&mut reader)?, reader.text()?);
            let connection = &executor.connection;
            let callbacks = &connection.watch.callbacks;
            // SAFETY: the callbacks outlive the connection.
            unsafe { collations::define(connection.db(), callbacks, handle, name)? };
        }
        abi::CONTROL_OP_HOOK => {
            let (kind, handle) = (reader.integer()?, handle(&mut reader)?);
            let number = small(reader.integer()?)?;
            let connection = &executor.connection;
            let watch = &connection.watch;
            // SAFETY: the watch outlives the connection.
            unsafe { watch.set_hook(connection.db(), small(kind)?, handle, number)? };
        }
        abi::CONTROL_OP_EXTENSIONS | abi::CONTROL_OP_LOAD_EXTENSION => {
            let loads = operation == abi::CONTROL_OP_LOAD_EXTENSION;
            extend(&executor.connection, &mut reader, loads)?;
        }
        _ => {
            return Err(Error::internal(format!(
                "unknown control operation {operation}"
            )));
        }
    }
    Ok(Answer::value())
}

fn small(argument: i64) -> Result<c_int> {
    c_int::try_from(argument).map_err(|_| Error::internal("an argument is out of range"))
}

/// The handle of a host object, `None` for 0, which removes.
fn handle(reader: &mut Reader<'_>) -> Result<Option<Handle>> {
    let number = u32::try_from(reader.integer()?);
    Ok(Handle::new(number.map_err(|_| {
        Error::internal("a handle is out of range")
    })?))
}

/// Loads an extension, or allows SQL to.
fn extend(connection: &Connection, reader: &mut Reader<'_>, loads: bool) -> Result<()> {
    let loader = handle(reader)?.ok_or_else(|| Error::internal("there is no loader"))?;
    // SAFETY: the callbacks outlive the connection.
    unsafe { extensions::set_loader(&connection.watch.callbacks, loader) };
    if loads {
        return extensions::load(connection.db(), reader);
    }
    extensions::allow(connection.db(), reader.integer()? != 0);
    Ok(())
}

fn define_function(connection: &Connection, reader: &mut Reader<'_>) -> Result<()> {
    let handle = handle(reader)?;
    let name = reader.text()?;
    let argument_count = small(reader.integer()?)?;
    let flags = small(reader.integer()?)?;
    let kind = reader.integer()?;
    let callbacks = &connection.watch.callbacks;
    let signature = functions::Signature {
        name,
        argument_count,
        flags,
        kind,
    };
    // SAFETY: the callbacks outlive the connection.
    unsafe { functions::define(connection.db(), callbacks, handle, &signature) }
}

/// The category and the new value; -1, which both functions treat as "unchanged", if there is none.
fn one_or_two(reader: &mut Reader<'_>, count: usize) -> Result<(c_int, c_int)> {
    if !(1..=2).contains(&count) {
        return Err(Error::internal("one or two arguments were expected"));
    }
    let mut argument = || {
        c_int::try_from(reader.integer()?)
            .map_err(|_| Error::internal("an argument is out of range"))
    };
    Ok((argument()?, if count == 2 { argument()? } else { -1 }))
}

fn limit(connection: &Connection, category: c_int, value: c_int) -> Result<c_int> {
    // SAFETY: `db` is open; for an unknown category it returns -1.
    match unsafe { ffi::sqlite3_limit(connection.db(), category, value) } {
        -1 => Err(Error::programming("'category' is out of bounds")),
        previous => Ok(previous),
    }
}

fn config(connection: &Connection, option: c_int, value: c_int) -> Result<c_int> {
    // The two options before these take other arguments.
    if !(ffi::SQLITE_DBCONFIG_ENABLE_FKEY..=ffi::SQLITE_DBCONFIG_MAX).contains(&option) {
        return Err(Error::programming("unknown config 'op'"));
    }
    let mut now: c_int = 0;
    // SAFETY: `db` is open, and these options take an `int` and an `int*`.
    let code = unsafe { ffi::sqlite3_db_config(connection.db(), option, value, &raw mut now) };
    if code == ffi::SQLITE_OK {
        Ok(now)
    } else {
        Err(Error::last(connection.db()))
    }
}

/// Counters by name; sizes in bytes.
fn statistics(executor: &mut Executor, replies: Counters) -> Result<()> {
    let connection = &executor.connection;
    let status = |counter| db_status(connection, counter);
    let (window_hits, window_misses) = vfs::hits_and_misses();
    let entries: [(&str, i64); 18] = [
        ("callbacks", argument_block::count()),
        ("window_hits", window_hits as i64),
        ("window_misses", window_misses as i64),
        ("cache_hits", connection.hits as i64),
        ("cache_misses", connection.misses as i64),
        ("cached_statements", connection.cached() as i64),
        ("open_statements", executor.open_statements() as i64),
        ("batches", replies.batches as i64),
        ("spills", replies.spills as i64),
        ("bells", replies.bells as i64),
        ("parks", replies.parks as i64),
        ("waits_for_room", replies.waits_for_room as i64),
        ("page_cache_bytes", status(ffi::SQLITE_DBSTATUS_CACHE_USED)),
        ("page_cache_hits", status(ffi::SQLITE_DBSTATUS_CACHE_HIT)),
        ("page_cache_misses", status(ffi::SQLITE_DBSTATUS_CACHE_MISS)),
        (
            "page_cache_writes",
            status(ffi::SQLITE_DBSTATUS_CACHE_WRITE),
        ),
        ("schema_bytes", status(ffi::SQLITE_DBSTATUS_SCHEMA_USED)),
        ("statement_bytes", status(ffi::SQLITE_DBSTATUS_STMT_USED)),
    ];
    executor.output.value.map(entries.len() + 1)?;
    for (name, value) in entries {
        executor.output.value.text(name.as_bytes())?;
        executor.output.value.integer(value)?;
    }
    executor.output.value.text(b"memory_bytes")?;
    executor
        .output
        .value
        .integer(core::arch::wasm32::memory_size::<0>() as i64 * 65_536)
}

fn db_status(connection: &Connection, counter: c_int) -> i64 {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: `db` is open; the counters are not reset.
    unsafe { ffi::sqlite3_db_status(connection.db(), counter, &mut current, &mut highest, 0) };
    current.into()
}
