//! Pins a database's current state for one connection, while pages are copied step by step.
//! <https://sqlite.org/isolation.html>

use libsqlite3_sys as ffi;

use crate::connection::Connection;
use crate::error::Result;
use crate::sqlite::statement::Statement;

/// What keeps a snapshot while it lives.
pub enum Pin {
    NotNeeded,
    Held {
        _statement: Statement,
    },
    /// Another connection holds the lock.
    Refused,
}

/// Runs `sql`, which reads the database and returns a row, and stays on that row. It calls no function, because
/// the user may have overridden it.
pub fn pinned(connection: &Connection, sql: &[u8]) -> Result<Pin> {
    let stepped = connection
        .watch
        .callbacks
        .without_hooks(|| -> Result<Statement> {
            let prepared = connection.prepare(sql)?;
            let mut statement = prepared.expect("a SELECT is a statement");
            statement.step()?;
            Ok(statement)
        });
    match stepped {
        Ok(statement) => Ok(Pin::Held {
            _statement: statement,
        }),
        Err(error) if error.code & 0xff == ffi::SQLITE_BUSY => Ok(Pin::Refused),
        Err(error) => Err(error),
    }
}
