//! Collations whose comparisons the host makes.
//! <https://sqlite.org/c3ref/create_collation.html>

use core::ffi::{c_int, c_void};
use core::ptr;
use core::slice;

use libsqlite3_sys as ffi;

use super::{Callbacks, Handle, integer};
use crate::abi;
use crate::buffers::c_string;
use crate::error::{Error, Result};

/// SQLite passes this with every call, and drops it when the collation is removed.
struct Collation {
    handle: Handle,
    callbacks: *const Callbacks,
    db: *mut ffi::sqlite3,
}

/// Defines a collation, or removes it without a handle.
///
/// # Safety
/// `callbacks` lives, where it is, until `db` is closed.
pub unsafe fn define(
    db: *mut ffi::sqlite3,
    callbacks: &Callbacks,
    handle: Option<Handle>,
    name: &[u8],
) -> Result<()> {
    let name = c_string(name)?;
    let Some(handle) = handle else {
        // SAFETY: `db` is open, and no function means removal.
        let code = unsafe {
            ffi::sqlite3_create_collation_v2(
                db,
                name.as_ptr(),
                ffi::SQLITE_UTF8,
                ptr::null_mut(),
                None,
                None,
            )
        };
        return check(db, code);
    };
    let collation = Box::new(Collation {
        handle,
        callbacks,
        db,
    });
    let context = Box::into_raw(collation);
    // SAFETY: SQLite owns `context` from here on if it accepts it.
    let code = unsafe {
        ffi::sqlite3_create_collation_v2(
            db,
            name.as_ptr(),
            ffi::SQLITE_UTF8,
            context.cast(),
            Some(compare),
            Some(forget),
        )
    };
    if code != ffi::SQLITE_OK {
        // SAFETY: after a rejected collation it is still ours, unlike after a rejected function.
        drop(unsafe { Box::from_raw(context) });
    }
    check(db, code)
}

fn check(db: *mut ffi::sqlite3, code: c_int) -> Result<()> {
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(Error::last(db))
    }
}

/// # Safety
/// SQLite calls it once, with the context of a collation that it does not use any more.
unsafe extern "C" fn forget(context: *mut c_void) {
    // SAFETY: made by `define` of a box.
    drop(unsafe { Box::from_raw(context.cast::<Collation>()) });
}

unsafe extern "C" fn compare(
    context: *mut c_void,
    left_length: c_int,
    left: *const c_void,
    right_length: c_int,
    right: *const c_void,
) -> c_int {
    // SAFETY: registered with a `Collation`, whose callbacks live as long as the connection.
    let collation = unsafe { &*context.cast::<Collation>() };
    // SAFETY: as above.
    let callbacks = unsafe { &*collation.callbacks };
    if callbacks.has_failed() {
        return 0;
    }
    // SAFETY: SQLite passes two texts with their lengths.
    let (left, right) = unsafe { (text(left, left_length), text(right, right_length)) };
    let order = callbacks.call(
        collation.handle.callee(abi::CALLBACK_COLLATION),
        |out| {
            out.array(2)?;
            out.text(left)?;
            out.text(right)
        },
        integer,
    );
    order.unwrap_or_else(|_| {
        // A collation cannot fail, so nothing made from its answers may be kept.
        callbacks.fail_and_roll_back("collation", collation.db);
        0
    })
}

/// # Safety
/// `start` has `length` bytes that live during `'a`; without any it may be NULL.
unsafe fn text<'a>(start: *const c_void, length: c_int) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start.cast(), length as usize) }
}
