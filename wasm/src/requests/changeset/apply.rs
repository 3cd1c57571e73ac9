//! Applies a changeset to the connection's main database, all of it or nothing.
//! <https://sqlite.org/session/sqlite3changeset_apply.html>

use core::cell::{Cell, RefCell};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::callbacks::encode_text;
use crate::callbacks::{Callee, integer};
use crate::connection::progress::Watch;
use crate::error::{Error, Result};
use crate::requests::answer::Answer;
use crate::requests::changeset::conflict::Change;
use crate::requests::changeset::stream::{Stream, handle, input};
use crate::requests::executor::Executor;
use crate::wire::params::Reader;
use crate::wire::rows::Encoder;

/// The user's filter and conflict handler while a changeset is applied.
struct Application<'a> {
    watch: &'a Watch,
    filter: u32,
    conflict: u32,
    /// What raised, although SQLite may not know of it.
    raised: Cell<Option<&'static str>>,
    /// Why the last conflict aborted.
    refused: RefCell<String>,
}

/// `APPLY`: `[input, filter, conflict, flags]`; handle 0 for callbacks that the user did not give.
pub fn apply(executor: &mut Executor, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let (watch, db) = (&executor.connection.watch, executor.connection.db());
    let source = Stream::new(watch, handle(&mut reader)?);
    let application = Application {
        watch,
        filter: handle(&mut reader)?,
        conflict: handle(&mut reader)?,
        raised: Cell::new(None),
        refused: RefCell::default(),
    };
    let flags = c_int::try_from(reader.integer()?).unwrap_or(0);
    let run = |sql| run(watch, db, sql);
    run(c"SAVEPOINT rapsqlite_changeset")?;
    let applied = application
        .apply(db, &source, flags)
        .and_then(|()| run(c"RELEASE rapsqlite_changeset"));
    if applied.is_err() {
        // If SQLite has rolled everything back there is no savepoint, and these fail.
        let _ = run(c"ROLLBACK TO rapsqlite_changeset");
        let _ = run(c"RELEASE rapsqlite_changeset");
    }
    applied.map(|()| Answer::nothing())
}

/// Begins or ends the savepoint. SQLite may report an interrupt after it has done so.
fn run(watch: &Watch, db: *mut ffi::sqlite3, sql: &CStr) -> Result<()> {
    let nothing = ptr::null_mut();
    // SAFETY: `db` is open and the text ends in a NUL.
    let exec = || unsafe { ffi::sqlite3_exec(db, sql.as_ptr(), None, ptr::null_mut(), nothing) };
    match watch.without_progress(exec) {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::of_code(db, code)),
    }
}

impl Application<'_> {
    fn apply(&self, db: *mut ffi::sqlite3, source: &Stream<'_>, flags: c_int) -> Result<()> {
        let filter = if self.filter == 0 {
            None
        } else {
            Some(on_table as OnTable)
        };
        // SAFETY: stream and application outlive the call; no rebase data is requested.
        let code = unsafe {
            ffi::sqlite3changeset_apply_v2_strm(
                db,
                Some(input),
                source.context(),
                filter,
                Some(on_conflict),
                ptr::from_ref(self).cast_mut().cast(),
                ptr::null_mut(),
                ptr::null_mut(),
                flags,
            )
        };
        if let Some(noun) = self.raised.get() {
            let message = format!("user-defined {noun} raised exception");
            return Err(Error::new(abi::ERROR_SQLITE, ffi::SQLITE_ABORT, message));
        }
        if code != ffi::SQLITE_OK && self.watch.is_cancelled() {
            return Err(Error::interrupted());
        }
        let refused = self.refused.take();
        if matches!(code & 0xff, ffi::SQLITE_ABORT | ffi::SQLITE_CONSTRAINT) && !refused.is_empty()
        {
            return Err(Error::new(abi::ERROR_SQLITE, code, refused));
        }
        source.check(code, db)
    }

    /// The host's answer, or 2 (`SQLITE_CHANGESET_ABORT`) if it raised.
    fn ask(
        &self,
        noun: &'static str,
        kind: i32,
        handle: u32,
        encode: impl FnOnce(&mut Encoder) -> Result<()>,
    ) -> c_int {
        let callbacks = &self.watch.callbacks;
        match callbacks.call(Callee::new(kind, handle), encode, integer) {
            Ok(answer) => answer,
            Err(_) => {
                self.raised.set(Some(noun));
                ffi::SQLITE_CHANGESET_ABORT
            }
        }
    }
}

type OnTable = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;

/// Not 0: the changes of this table are applied. After an exception none are, and in the end all are undone.
unsafe extern "C" fn on_table(context: *mut c_void, table: *const c_char) -> c_int {
    // SAFETY: registered with an `Application`; the name ends in a NUL.
    let application = unsafe { &*context.cast::<Application<'_>>() };
    if application.raised.get().is_some() {
        return 0;
    }
    let encode = |out: &mut Encoder| {
        out.array(1)?;
        // SAFETY: as above.
        unsafe { encode_text(table, out) }
    };
    let kind = abi::CALLBACK_FILTER;
    application.ask("filter", kind, application.filter, encode) & 1
}

/// What to do with a change that does not fit: `SQLITE_CHANGESET_OMIT`, `_REPLACE` or `_ABORT`.
unsafe extern "C" fn on_conflict(
    context: *mut c_void,
    conflict: c_int,
    change: *mut ffi::sqlite3_changeset_iter,
) -> c_int {
    // SAFETY: registered with an `Application`.
    let application = unsafe { &*context.cast::<Application<'_>>() };
    // SAFETY: SQLite passes the change that does not fit.
    let change = unsafe { Change::of(change, conflict) };
    if application.raised.get().is_some() || application.watch.is_cancelled() {
        return ffi::SQLITE_CHANGESET_ABORT;
    }
    let answer = match application.conflict {
        0 => ffi::SQLITE_CHANGESET_ABORT,
        handle => {
            let encode = |out: &mut Encoder| change.encode(out);
            application.ask("conflict handler", abi::CALLBACK_CONFLICT, handle, encode)
        }
    };
    if application.watch.is_cancelled() {
        return ffi::SQLITE_CHANGESET_ABORT;
    }
    if answer == ffi::SQLITE_CHANGESET_ABORT {
        application.refused.replace(change.refusal());
    }
    answer
}
