//! The hook that receives a row's values before it changes. <https://sqlite.org/c3ref/preupdate_blobwrite.html>

use core::ffi::{c_char, c_int, c_void};
use core::ptr;

use libsqlite3_sys as ffi;

use super::calls::value_of;
use super::{Callbacks, callbacks_of, encode_text};
use crate::abi;
use crate::callbacks::argument_block;
use crate::error::{Error, Result};
use crate::wire::rows::Encoder;

/// Registers the hook with SQLite, or removes it.
///
/// # Safety
/// `callbacks` lives, where it is, until `db` is closed; no session of `db` is open.
pub unsafe fn install(db: *mut ffi::sqlite3, callbacks: &Callbacks, is_set: bool) {
    let context = ptr::from_ref(callbacks).cast_mut().cast::<c_void>();
    // SAFETY: the caller's promise.
    unsafe { ffi::sqlite3_preupdate_hook(db, is_set.then_some(on_preupdate as Hook), context) };
}

type Hook = unsafe extern "C" fn(
    *mut c_void,
    *mut ffi::sqlite3,
    c_int,
    *const c_char,
    *const c_char,
    ffi::sqlite3_int64,
    ffi::sqlite3_int64,
);

unsafe extern "C" fn on_preupdate(
    context: *mut c_void,
    db: *mut ffi::sqlite3,
    action: c_int,
    database: *const c_char,
    table: *const c_char,
    old_rowid: ffi::sqlite3_int64,
    new_rowid: ffi::sqlite3_int64,
) {
    // SAFETY: registered with `Callbacks`.
    let callbacks = unsafe { callbacks_of(context) };
    if callbacks.has_failed() {
        return;
    }
    // SAFETY: `db` is open and calls this hook. SQLite reports writing to a blob as a DELETE whose row stays.
    let writes_blob = unsafe { ffi::sqlite3_preupdate_blobwrite(db) } >= 0;
    let is_insert = action == ffi::SQLITE_INSERT;
    let has_new = action != ffi::SQLITE_DELETE;
    let told = if writes_blob {
        ffi::SQLITE_UPDATE
    } else {
        action
    };
    let rowid = |is_there: bool, rowid: i64, out: &mut Encoder| {
        if is_there {
            out.integer(rowid)
        } else {
            out.null()
        }
    };
    let encode = |out: &mut Encoder| {
        out.array(7)?;
        out.integer(told.into())?;
        // SAFETY: the names end in a NUL; the rows are read inside the hook, each only if it exists.
        unsafe {
            encode_text(database, out)?;
            encode_text(table, out)?;
            rowid(!is_insert, old_rowid, out)?;
            rowid(has_new || writes_blob, new_rowid, out)?;
            encode_row(db, ffi::sqlite3_preupdate_old, !is_insert, out)?;
            encode_row(db, ffi::sqlite3_preupdate_new, has_new, out)
        }
    };
    if let Some(Err(_)) = callbacks.ask(abi::CALLBACK_PREUPDATE, encode, |_| ()) {
        callbacks.fail_and_roll_back("preupdate hook", db);
    }
}

type Column = unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

/// Writes an array of the row's values, or null if there is no row.
///
/// # Safety
/// Called within the hook of `db`; `column` may be called if `is_there`.
unsafe fn encode_row(
    db: *mut ffi::sqlite3,
    column: Column,
    is_there: bool,
    out: &mut Encoder,
) -> Result<()> {
    if !is_there {
        return out.null();
    }
    // SAFETY: the caller's promise.
    let count = unsafe { ffi::sqlite3_preupdate_count(db) };
    out.array(count as usize)?;
    for index in 0..count {
        let mut value = ptr::null_mut();
        // SAFETY: the index is below the count, and the value lives during the hook.
        unsafe {
            let code = column(db, index, &mut value);
            if code != ffi::SQLITE_OK || value.is_null() {
                return Err(Error::of_code(db, code));
            }
            argument_block::encode(&value_of(value)?, out)?;
        }
    }
    Ok(())
}
