//! Hooks implemented by the host: trace, update, commit, rollback, WAL; and storage for the hooks' handles.
//! <https://sqlite.org/c3ref/update_hook.html>, <https://sqlite.org/c3ref/commit_hook.html>,
//! <https://sqlite.org/c3ref/wal_hook.html>, <https://sqlite.org/c3ref/trace_v2.html>

use core::ffi::{c_char, c_int, c_uint, c_void};
use core::ptr;

use libsqlite3_sys as ffi;

use super::preupdate;
use super::{Callbacks, Callee, Failed, Handle, callbacks_of, encode_text, integer};
use crate::abi;
use crate::error::{Error, Result};
use crate::sqlite::statement::bytes_of;
use crate::wire::params::Value;
use crate::wire::rows::Encoder;

impl Callbacks {
    /// Replaces a hook, and returns the previous one.
    pub fn replace(&self, kind: c_int, handle: Option<Handle>) -> Result<()> {
        let slot = usize::try_from(kind).ok().and_then(|at| self.hooks.get(at));
        let slot = slot.ok_or_else(|| Error::internal(format!("unknown kind of hook {kind}")))?;
        if kind == abi::CALLBACK_PREUPDATE && handle.is_some() && self.sessions.get() > 0 {
            return Err(Error::programming(
                "a preupdate hook cannot be set while a session is open: close the session first",
            ));
        }
        drop(slot.replace(handle));
        Ok(())
    }

    /// Whether the user has set such a hook.
    pub fn has(&self, kind: c_int) -> bool {
        self.handle_of(kind).is_some()
    }

    pub(super) fn handle_of(&self, kind: c_int) -> Option<u32> {
        let slot = &self.hooks[kind as usize];
        let handle = slot.take();
        let number = handle.as_ref().map(Handle::number);
        slot.set(handle);
        number
    }

    /// Calls a hook, if there is one.
    pub(super) fn ask<R>(
        &self,
        kind: c_int,
        encode: impl FnOnce(&mut Encoder) -> Result<()>,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> Option<core::result::Result<R, Failed>> {
        if self.without_hooks.get() && kind != abi::CALLBACK_BUSY {
            return None;
        }
        let callee = Callee::new(kind, self.handle_of(kind)?);
        Some(self.call(callee, encode, receive))
    }

    /// Calls a hook whose exception does not affect the request.
    fn observe(&self, kind: c_int, encode: impl FnOnce(&mut Encoder) -> Result<()>) {
        let failure = self.failure.get();
        if let Some(Err(_)) = self.ask(kind, encode, |_| ()) {
            self.failure.set(failure);
        }
    }
}

/// Checks every commit, not only for the user's hook but also for changes that must not be committed.
///
/// # Safety
/// As `install`.
pub unsafe fn watch_commits(db: *mut ffi::sqlite3, callbacks: &Callbacks) {
    let context = ptr::from_ref(callbacks).cast_mut().cast::<c_void>();
    // SAFETY: the caller's promise.
    unsafe { ffi::sqlite3_commit_hook(db, Some(on_commit), context) };
}

/// Registers with SQLite what the kind needs, or nothing if the user has no such hook any more.
///
/// # Safety
/// `callbacks` lives, where it is, until `db` is closed.
pub unsafe fn install(db: *mut ffi::sqlite3, callbacks: &Callbacks, kind: c_int) {
    callbacks.db.set(db);
    let is_set = callbacks.handle_of(kind).is_some();
    let context = ptr::from_ref(callbacks).cast_mut().cast::<c_void>();
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            abi::CALLBACK_TRACE => {
                let mask = if is_set { ffi::SQLITE_TRACE_STMT } else { 0 };
                let callback = is_set.then_some(on_trace as TraceCallback);
                ffi::sqlite3_trace_v2(db, mask, callback, context);
            }
            abi::CALLBACK_UPDATE => {
                ffi::sqlite3_update_hook(
                    db,
                    is_set.then_some(on_update as UpdateCallback),
                    context,
                );
            }
            abi::CALLBACK_ROLLBACK => {
                ffi::sqlite3_rollback_hook(
                    db,
                    is_set.then_some(on_rollback as RollbackCallback),
                    context,
                );
            }
            abi::CALLBACK_WAL => install_wal(db, callbacks, is_set),
            abi::CALLBACK_PREUPDATE => preupdate::install(db, callbacks, is_set),
            _ => {}
        }
    }
}

type TraceCallback = unsafe extern "C" fn(c_uint, *mut c_void, *mut c_void, *mut c_void) -> c_int;
type UpdateCallback =
    unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *const c_char, ffi::sqlite3_int64);
type RollbackCallback = unsafe extern "C" fn(*mut c_void);

/// SQLite implements automatic checkpoints with a WAL hook: ours takes over their page count.
///
/// # Safety
/// As `install`.
unsafe fn install_wal(db: *mut ffi::sqlite3, callbacks: &Callbacks, is_set: bool) {
    let context = ptr::from_ref(callbacks).cast_mut().cast::<c_void>();
    // SAFETY: the caller's promise; the previous hook's argument is returned, a number for SQLite's own.
    unsafe {
        let before = ffi::sqlite3_wal_hook(db, Some(on_wal), context);
        if before != context {
            callbacks.checkpoint_pages.set(before as usize as c_int);
        }
        if !is_set {
            ffi::sqlite3_wal_autocheckpoint(db, callbacks.checkpoint_pages.get());
        }
    }
}

/// A statement, or one within a trigger, begins.
unsafe extern "C" fn on_trace(
    _: c_uint,
    context: *mut c_void,
    statement: *mut c_void,
    text: *mut c_void,
) -> c_int {
    // SAFETY: registered with `Callbacks`; SQLite passes a statement and its text, and what it makes of the
    // two is ours to free.
    unsafe {
        let text = text.cast_const().cast::<c_char>();
        // In a trigger the text is a comment, and the statement is the one that fired it. A user's statement may
        // begin with a comment too, but then its own text is passed.
        let is_whole = ptr::eq(text, ffi::sqlite3_sql(statement.cast()));
        let expanded = match bytes_of(text) {
            [b'-', b'-', ..] if !is_whole => ptr::null_mut(),
            _ => ffi::sqlite3_expanded_sql(statement.cast()),
        };
        let told = if expanded.is_null() { text } else { expanded };
        let encode = |out: &mut Encoder| {
            out.array(1)?;
            encode_text(told, out)
        };
        // The host logs an exception: a trace does not affect the statement.
        callbacks_of(context).observe(abi::CALLBACK_TRACE, encode);
        ffi::sqlite3_free(expanded.cast());
    }
    0
}

unsafe extern "C" fn on_update(
    context: *mut c_void,
    action: c_int,
    database: *const c_char,
    table: *const c_char,
    rowid: ffi::sqlite3_int64,
) {
    // SAFETY: registered with `Callbacks`; the names end in a NUL.
    let callbacks = unsafe { callbacks_of(context) };
    let encode = |out: &mut Encoder| {
        out.array(4)?;
        out.integer(action.into())?;
        // SAFETY: as above.
        unsafe {
            encode_text(database, out)?;
            encode_text(table, out)?;
        }
        out.integer(rowid)
    };
    if callbacks.has_failed() {
        return;
    }
    if let Some(Err(_)) = callbacks.ask(abi::CALLBACK_UPDATE, encode, |_| ()) {
        callbacks.fail_and_roll_back("update hook", callbacks.db.get());
    }
}

/// Not 0 makes the commit a rollback.
unsafe extern "C" fn on_commit(context: *mut c_void) -> c_int {
    // SAFETY: registered with `Callbacks`.
    let callbacks = unsafe { callbacks_of(context) };
    if callbacks.refuses_commit() {
        return 1;
    }
    let asked = callbacks.ask(abi::CALLBACK_COMMIT, |out| out.array(0), integer);
    asked.map_or(0, |answer| answer.unwrap_or(1))
}

unsafe extern "C" fn on_rollback(context: *mut c_void) {
    // SAFETY: registered with `Callbacks`.
    let callbacks = unsafe { callbacks_of(context) };
    callbacks.observe(abi::CALLBACK_ROLLBACK, |out| out.array(0));
}

/// After a commit; an exception fails the statement, although it is committed.
unsafe extern "C" fn on_wal(
    context: *mut c_void,
    db: *mut ffi::sqlite3,
    database: *const c_char,
    pages: c_int,
) -> c_int {
    // SAFETY: registered with `Callbacks`; the name ends in a NUL.
    let callbacks = unsafe { callbacks_of(context) };
    let encode = |out: &mut Encoder| {
        out.array(2)?;
        // SAFETY: as above.
        unsafe { encode_text(database, out)? };
        out.integer(pages.into())
    };
    let asked = callbacks.ask(abi::CALLBACK_WAL, encode, |_| ());
    let enough = callbacks.checkpoint_pages.get();
    if enough > 0 && pages >= enough {
        // SAFETY: `db` is open. As in SQLite's own hook, a checkpoint that is not possible now is made later.
        unsafe { ffi::sqlite3_wal_checkpoint(db, database) };
    }
    if let Some(Err(_)) = asked {
        callbacks.fail("WAL hook");
    }
    ffi::SQLITE_OK
}
