//! Owns `sqlite3_blob*`: reads and writes one value in place. <https://sqlite.org/c3ref/blob_open.html>

use core::ffi::c_int;
use core::ptr;

use libsqlite3_sys as ffi;

use crate::answer::Answer;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::objects::Object;
use crate::ring::request::Request;
use crate::sql::c_string;
use crate::wire::params::{Reader, Value};

pub struct Blob {
    raw: *mut ffi::sqlite3_blob,
    /// The connection's handle, where errors are told.
    db: *mut ffi::sqlite3,
}

/// `BLOB_OPEN`: a handle; the body is the length in bytes.
pub fn open(executor: &mut Executor, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let [schema, table, column] = [reader.text()?, reader.text()?, reader.text()?];
    let [schema, table, column] = [c_string(schema)?, c_string(table)?, c_string(column)?];
    let (row, writable) = (reader.integer()?, reader.integer()?);
    let mut blob = Blob {
        raw: ptr::null_mut(),
        db: executor.connection.db(),
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
    let handle = executor.objects.hold(Object::Blob(blob));
    Ok(Answer {
        handle,
        ..Answer::value()
    })
}

/// `BLOB_READ`: `b` bytes from the offset in the parameters.
pub fn read(executor: &mut Executor, request: &Request<'_>, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let offset = c_integer(reader.integer()?)?;
    let len = c_integer(request.b.into())?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len as usize)
        .map_err(|_| Error::out_of_memory())?;
    bytes.resize(len as usize, 0);
    let blob = executor.objects.blob(request.a)?;
    // SAFETY: the blob is open, and `bytes` has room for `len`.
    let code = unsafe { ffi::sqlite3_blob_read(blob.raw, bytes.as_mut_ptr().cast(), len, offset) };
    blob.check(code)?;
    executor.output.value.blob(&bytes)?;
    Ok(Answer::value())
}

/// `BLOB_WRITE`: the bytes in the parameters, at offset `b`.
pub fn write(executor: &mut Executor, request: &Request<'_>, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let Value::Blob(bytes) = reader.value()? else {
        return Err(Error::internal("what is written to a blob is bytes"));
    };
    let (len, offset) = (c_integer(bytes.len() as i64)?, c_integer(request.b.into())?);
    let blob = executor.objects.blob(request.a)?;
    // SAFETY: the blob is open, and `bytes` holds `len`.
    let code = unsafe { ffi::sqlite3_blob_write(blob.raw, bytes.as_ptr().cast(), len, offset) };
    blob.check(code)?;
    Ok(Answer::nothing())
}

impl Blob {
    fn check(&self, code: c_int) -> Result<()> {
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(Error::of_code(self.db, code)),
        }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        // SAFETY: null, or open and used for the last time. An error of the closing was told when it happened.
        unsafe { ffi::sqlite3_blob_close(self.raw) };
    }
}

fn c_integer(value: i64) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| Error::internal("an offset or length is out of range"))
}
