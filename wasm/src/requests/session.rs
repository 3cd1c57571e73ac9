//! Owns `sqlite3_session*`: records changes of tables. <https://sqlite.org/sessionintro.html>

use core::ffi::{c_char, c_int};
use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::{c_string, shown};
use crate::callbacks::Callbacks;
use crate::error::{Error, Result};
use crate::requests::answer::Answer;
use crate::requests::changeset;
use crate::requests::changeset::Stream;
use crate::requests::executor::Executor;
use crate::requests::objects::Object;
use crate::ring::request::Request;
use crate::sqlite::statement::bytes_of;
use crate::wire::params::{Reader, Value};

pub struct Session {
    raw: *mut ffi::sqlite3_session,
    db: *mut ffi::sqlite3,
    callbacks: *const Callbacks,
}

/// `SESSION_OPEN`: the handle of a session without tables.
pub fn open(executor: &mut Executor, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let schema = reader.text()?;
    let name = c_string(schema)?;
    let db = executor.connection.db();
    let watch = &executor.connection.watch;
    let callbacks = &watch.callbacks;
    let mut raw = ptr::null_mut();
    // SAFETY: `db` is open and the name ends in a NUL. Without a preupdate hook of the user's, the hook that
    // SQLite finds is a session's.
    let code = unsafe {
        // Before its first table "temp" is not open, and SQLite does not find it.
        let is_temp = schema.eq_ignore_ascii_case(b"temp");
        if !is_temp && ffi::sqlite3_db_readonly(db, name.as_ptr()) < 0 {
            let message = format!("unknown database {}", shown(schema));
            return Err(Error::new(abi::ERROR_SQLITE, ffi::SQLITE_ERROR, message));
        }
        callbacks.begin_session()?;
        ffi::sqlite3session_create(db, name.as_ptr(), &mut raw)
    };
    let session = Session { raw, db, callbacks };
    session.check(code)?;
    // SAFETY: `db` is open, and `watch` outlives it. Statements prepared before would bypass the session.
    unsafe { watch.install(db)? };
    let handle = executor.objects.hold(session)?;
    Ok(Answer {
        handle,
        ..Answer::nothing()
    })
}

/// `SESSION`: the operation given by `b`.
pub fn serve(executor: &mut Executor, request: &Request<'_>, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    if !params.is_empty() {
        reader.array()?;
    }
    let watch = &executor.connection.watch;
    let session = executor.objects.get::<Session>(request.target);
    let session =
        session.ok_or_else(|| Error::programming("Cannot operate on a closed session."))?;
    let value = &mut executor.output.value;
    // SAFETY: the session and its connection are open.
    unsafe {
        match request.argument {
            abi::SESSION_ATTACH => session.attach(reader.value()?)?,
            abi::SESSION_ENABLE => {
                let flag = flag(reader.integer()?);
                let now = ffi::sqlite3session_enable(session.raw, flag);
                value.integer(now.into())?;
            }
            abi::SESSION_INDIRECT => {
                let flag = flag(reader.integer()?);
                let now = ffi::sqlite3session_indirect(session.raw, flag);
                value.integer(now.into())?;
            }
            abi::SESSION_DIFF => session.diff(reader.text()?, reader.text()?)?,
            abi::SESSION_STATE => {
                value.array(2)?;
                value.integer(ffi::sqlite3session_isempty(session.raw).into())?;
                value.integer(ffi::sqlite3session_memory_used(session.raw))?;
            }
            operation @ (abi::SESSION_CHANGESET | abi::SESSION_PATCHSET) => {
                let stream = Stream::new(watch, changeset::handle(&mut reader)?);
                let make = if operation == abi::SESSION_CHANGESET {
                    ffi::sqlite3session_changeset_strm
                } else {
                    ffi::sqlite3session_patchset_strm
                };
                let code = make(session.raw, Some(changeset::output), stream.context());
                stream.check(code, session.db)?;
            }
            operation => {
                let message = format!("unknown session operation {operation}");
                return Err(Error::internal(message));
            }
        }
    }
    Ok(Answer::value())
}

/// 1, 0, or the value that leaves the flag unchanged.
fn flag(value: i64) -> c_int {
    c_int::try_from(value).unwrap_or(-1)
}

impl Object for Session {}

impl Session {
    fn attach(&self, table: Value<'_>) -> Result<()> {
        let name = match table {
            Value::Text(name) => Some(c_string(name)?),
            _ => None,
        };
        let name = name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: the session is open; null means all tables.
        self.check(unsafe { ffi::sqlite3session_attach(self.raw, name) })
    }

    fn diff(&self, from: &[u8], table: &[u8]) -> Result<()> {
        let (from, table) = (c_string(from)?, c_string(table)?);
        let mut message: *mut c_char = ptr::null_mut();
        // SAFETY: the session is open, the names end in a NUL, and the message is ours to free.
        unsafe {
            let (from, table) = (from.as_ptr(), table.as_ptr());
            let code = ffi::sqlite3session_diff(self.raw, from, table, &mut message);
            if message.is_null() {
                return self.check(code);
            }
            let error = Error::quoting(abi::ERROR_SQLITE, code, bytes_of(message));
            ffi::sqlite3_free(message.cast());
            Err(error)
        }
    }

    fn check(&self, code: c_int) -> Result<()> {
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(Error::of_code(self.db, code)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: null, or open and used for the last time; the callbacks outlive the connection, and that the session.
        unsafe {
            if !self.raw.is_null() {
                ffi::sqlite3session_delete(self.raw);
            }
            (*self.callbacks).end_session();
        }
    }
}
