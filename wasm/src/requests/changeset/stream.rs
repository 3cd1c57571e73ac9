//! One end of a changeset: when SQLite requests or produces a piece, the host is called.
//! <https://sqlite.org/session/sqlite3changegroup_add_strm.html>

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::{ptr, slice};

use libsqlite3_sys as ffi;

use crate::abi;
use crate::callbacks::Callee;
use crate::callbacks::argument_block::Arguments;
use crate::connection::progress::Watch;
use crate::error::{Error, Result};
use crate::wire::params::{Reader, Value};

/// One end of a changeset, at the host.
pub struct Stream<'a> {
    watch: &'a Watch,
    handle: u32,
    raised: Cell<bool>,
}

/// A handle that the host holds for the duration of the request.
pub fn handle(reader: &mut Reader<'_>) -> Result<u32> {
    u32::try_from(reader.integer()?).map_err(|_| Error::internal("a handle is out of range"))
}

impl<'a> Stream<'a> {
    pub fn new(watch: &'a Watch, handle: u32) -> Self {
        Self {
            watch,
            handle,
            raised: Cell::new(false),
        }
    }

    pub fn context(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// Checks the result of a call that was given this stream.
    pub fn check(&self, code: c_int, db: *mut ffi::sqlite3) -> Result<()> {
        if self.watch.is_cancelled() && code != ffi::SQLITE_OK {
            return Err(Error::interrupted());
        }
        match code {
            ffi::SQLITE_OK => Ok(()),
            code if self.raised.get() => Err(Error::new(
                abi::ERROR_SQLITE,
                code,
                "reading or writing the changeset raised exception",
            )),
            code => Err(Error::of_code(db, code)),
        }
    }

    /// Marks the stream as the one that failed.
    fn fail(&self) -> c_int {
        self.raised.set(true);
        ffi::SQLITE_IOERR
    }
}

/// SQLite requests at most `*len` bytes; none means the end.
pub unsafe extern "C" fn input(context: *mut c_void, data: *mut c_void, len: *mut c_int) -> c_int {
    // SAFETY: registered with a `Stream`; SQLite passes room for `*len` bytes.
    let (stream, room) = unsafe {
        let room = slice::from_raw_parts_mut(data.cast::<u8>(), *len as usize);
        (&*context.cast::<Stream<'_>>(), room)
    };
    if stream.watch.is_cancelled() {
        return ffi::SQLITE_INTERRUPT;
    }
    let wanted = Arguments::One(Value::Integer(room.len() as i64));
    let read = |value: Value<'_>| match value {
        Value::Blob(bytes) if bytes.len() <= room.len() => {
            room[..bytes.len()].copy_from_slice(bytes);
            Some(bytes.len())
        }
        _ => None,
    };
    let callbacks = &stream.watch.callbacks;
    match callbacks.call_with(
        Callee::new(abi::CALLBACK_INPUT, stream.handle),
        wanted,
        read,
    ) {
        Ok(Some(count)) => {
            // SAFETY: SQLite reads the number of bytes there.
            unsafe { *len = count as c_int };
            ffi::SQLITE_OK
        }
        _ => stream.fail(),
    }
}

/// SQLite produces bytes.
pub unsafe extern "C" fn output(context: *mut c_void, data: *const c_void, len: c_int) -> c_int {
    // SAFETY: registered with a `Stream`; SQLite passes `len` bytes.
    let (stream, bytes) = unsafe {
        let bytes = slice::from_raw_parts(data.cast::<u8>(), len as usize);
        (&*context.cast::<Stream<'_>>(), bytes)
    };
    if stream.watch.is_cancelled() {
        return ffi::SQLITE_INTERRUPT;
    }
    let piece = Arguments::One(Value::Blob(bytes));
    let callbacks = &stream.watch.callbacks;
    match callbacks.call_with(
        Callee::new(abi::CALLBACK_OUTPUT, stream.handle),
        piece,
        |_| (),
    ) {
        Ok(()) => ffi::SQLITE_OK,
        Err(_) => stream.fail(),
    }
}
