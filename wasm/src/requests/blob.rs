//! Owns `sqlite3_blob*`: reads and writes one value in place. <https://sqlite.org/c3ref/blob_open.html>

use core::ffi::c_int;
use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::c_string;
use crate::buffers::zeroed;
use crate::callbacks::Callbacks;
use crate::error::{Error, Result};
use crate::requests::answer::{Answer, Content};
use crate::requests::executor::Executor;
use crate::requests::objects::Object;
use crate::requests::replies::Replies;
use crate::ring::reply::ReplyHeader;
use crate::ring::request::Request;
use crate::wire::params::{Reader, Value};

/// How much of a value one reply carries.
const PIECE_BYTES: u32 = 1 << 20;

pub struct Blob {
    raw: *mut ffi::sqlite3_blob,
    /// The connection's handle, where errors are reported.
    db: *mut ffi::sqlite3,
    /// The last access failed; SQLite repeats its error when the blob is closed.
    has_failed: bool,
}

/// `BLOB_OPEN`: a handle; the body is the length in bytes.
pub fn open(executor: &mut Executor, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let [schema, table, column] = [reader.text()?, reader.text()?, reader.text()?];
    let [schema, table, column] = [c_string(schema)?, c_string(table)?, c_string(column)?];
    let (row, writable) = (reader.integer()?, reader.integer()?);
    if writable != 0 {
        executor.connection.blocks.check()?;
    }
    let mut blob = Blob {
        raw: ptr::null_mut(),
        db: executor.connection.db(),
        has_failed: false,
    };
    // SAFETY: `db` is open, and the names end in a NUL.
    let (code, len) = unsafe {
        let code = ffi::sqlite3_blob_open(
            blob.db,
            schema.as_ptr(),
            table.as_ptr(),
            column.as_ptr(),
            row,
            c_int::from(writable != 0),
            &mut blob.raw,
        );
        (code, ffi::sqlite3_blob_bytes(blob.raw))
    };
    if code != ffi::SQLITE_OK {
        return Err(Error::of_code(blob.db, code));
    }
    executor.output.value.integer(len.into())?;
    let handle = executor.objects.hold(blob)?;
    Ok(Answer {
        handle,
        ..Answer::value()
    })
}

/// `BLOB_READ`: `b` bytes from the offset in the parameters, in as many replies as needed. No other request runs
/// in between, so they all show one state.
pub fn read(
    executor: &mut Executor,
    request: &Request<'_>,
    params: &[u8],
    replies: &mut Replies<'_>,
) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let mut offset = reader.integer()?;
    let mut left = request.argument;
    let mut piece = zeroed(left.min(PIECE_BYTES) as usize)?;
    loop {
        if executor.connection.watch.is_cancelled() {
            return Err(Error::interrupted());
        }
        piece.truncate(left as usize);
        let blob = executor.objects.get::<Blob>(request.target);
        let blob = blob.ok_or_else(closed)?;
        blob.read_into(&mut piece, offset)?;
        executor.output.value.blob(&piece)?;
        offset += piece.len() as i64;
        left -= piece.len() as u32;
        if left == 0 {
            return Ok(Answer::value());
        }
        let header = ReplyHeader {
            row_count: 1,
            ..Answer::value().header(request.id, abi::REPLY_BATCH, &executor.connection, 0)
        };
        replies.send_batch(header, executor.output.body(Content::Value))?;
        executor.output.restart()?;
    }
}

/// `BLOB_WRITE`: the bytes in the parameters, the first at offset `b` and each `step` after the previous one.
pub fn write(executor: &mut Executor, request: &Request<'_>, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let Value::Blob(bytes) = reader.value()? else {
        return Err(Error::internal("data written to a blob must be bytes"));
    };
    let (step, offset) = (c_integer(reader.integer()?)?, request.argument.into());
    let blob = executor.objects.get::<Blob>(request.target);
    let blob = blob.ok_or_else(closed)?;
    let callbacks = &executor.connection.watch.callbacks;
    if step <= 1 || bytes.len() < 2 {
        blob.write_from(bytes, offset, callbacks)?;
        return Ok(Answer::nothing());
    }
    let extent = (step as usize)
        .saturating_mul(bytes.len() - 1)
        .saturating_add(1);
    let mut around = zeroed(extent)?;
    blob.read_into(&mut around, offset)?;
    for (target, byte) in around.iter_mut().step_by(step as usize).zip(bytes) {
        *target = *byte;
    }
    blob.write_from(&around, offset, callbacks)?;
    Ok(Answer::nothing())
}

impl Blob {
    fn read_into(&mut self, bytes: &mut [u8], offset: i64) -> Result<()> {
        let (len, offset) = (c_integer(bytes.len() as i64)?, c_integer(offset)?);
        // SAFETY: the blob is open, and `bytes` has room for `len`.
        let code =
            unsafe { ffi::sqlite3_blob_read(self.raw, bytes.as_mut_ptr().cast(), len, offset) };
        self.checked(code)
    }

    fn write_from(&mut self, bytes: &[u8], offset: i64, callbacks: &Callbacks) -> Result<()> {
        let (len, offset) = (c_integer(bytes.len() as i64)?, c_integer(offset)?);
        // SAFETY: the blob is open, and `bytes` holds `len`.
        let code = unsafe { ffi::sqlite3_blob_write(self.raw, bytes.as_ptr().cast(), len, offset) };
        self.checked(code)?;
        // It will not be committed, which is reported now.
        self.has_failed = callbacks.has_failed();
        callbacks.check()
    }

    fn checked(&mut self, code: c_int) -> Result<()> {
        self.has_failed = code != ffi::SQLITE_OK;
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(Error::of_code(self.db, code)),
        }
    }
}

impl Object for Blob {
    /// An open blob counts as a running statement.
    fn runs(&self) -> bool {
        true
    }

    /// Outside a transaction this commits what was written, which may fail.
    fn close(mut self: Box<Self>) -> Result<()> {
        let raw = core::mem::replace(&mut self.raw, ptr::null_mut());
        // SAFETY: open, and used for the last time.
        match unsafe { ffi::sqlite3_blob_close(raw) } {
            code if code != ffi::SQLITE_OK && !self.has_failed => {
                Err(Error::of_code(self.db, code))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        // SAFETY: null, or open and used for the last time. There is no caller to report an error to.
        unsafe { ffi::sqlite3_blob_close(self.raw) };
    }
}

fn closed() -> Error {
    Error::programming("Cannot operate on a closed blob.")
}

fn c_integer(value: i64) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| Error::internal("an offset or length is out of range"))
}
