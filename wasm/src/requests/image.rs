//! A database arriving as bytes: collected piece by piece, checked, and put in place of one of the connection's.
//!
//! <https://sqlite.org/c3ref/deserialize.html>

use core::ptr;
use std::ffi::CString;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::{c_string, shown};
use crate::connection::Connection;
use crate::error::{Error, Result, code};
use crate::requests::answer::Answer;
use crate::requests::executor::Executor;
use crate::requests::objects::Object;
use crate::ring::request::Request;
use crate::wire::params::{Reader, Value};

/// The header's format versions: 1 with a rollback journal, 2 with a WAL.
/// <https://sqlite.org/fileformat2.html#file_format_version_numbers>
const FORMAT_VERSIONS: core::ops::Range<usize> = 18..20;
const WITH_WAL: [u8; 2] = [2, 2];
const WITH_JOURNAL: [u8; 2] = [1, 1];

pub struct Image {
    /// From SQLite's allocator; SQLite takes it over at the end; null if there is nothing.
    data: *mut u8,
    len: usize,
    filled: usize,
    schema: CString,
}

/// `DESERIALIZE`, in the stage given by `b`.
pub fn deserialize(
    executor: &mut Executor,
    request: &Request<'_>,
    params: &[u8],
) -> Result<Answer> {
    let mut reader = Reader::new(params);
    match request.argument {
        abi::DESERIALIZE_BEGIN => {
            reader.array()?;
            let db = executor.connection.db();
            let image = Image::begin(db, reader.text()?, reader.integer()?)?;
            let handle = executor.objects.hold(image)?;
            Ok(Answer {
                handle,
                ..Answer::nothing()
            })
        }
        abi::DESERIALIZE_PIECE => {
            reader.array()?;
            let Value::Blob(piece) = reader.value()? else {
                return Err(Error::internal("a piece of an image must be bytes"));
            };
            let image = executor.objects.get::<Image>(request.target);
            image.ok_or_else(dropped)?.append(piece)?;
            Ok(Answer::nothing())
        }
        abi::DESERIALIZE_END => {
            let image = executor.objects.take::<Image>(request.target);
            image
                .ok_or_else(dropped)?
                .put_in_place(&executor.connection)?;
            Ok(Answer::nothing())
        }
        stage => Err(Error::internal(format!(
            "unknown stage {stage} of DESERIALIZE"
        ))),
    }
}

fn dropped() -> Error {
    Error::programming("the image has been dropped")
}

impl Object for Image {}

impl Image {
    fn begin(db: *mut ffi::sqlite3, schema: &[u8], len: i64) -> Result<Self> {
        let len = usize::try_from(len).map_err(|_| Error::out_of_memory())?;
        let schema = c_string(schema)?;
        // SAFETY: `db` is open, and the name ends in a NUL.
        if unsafe { ffi::sqlite3_db_readonly(db, schema.as_ptr()) } < 0 {
            let message = format!("unknown database {}", shown(schema.to_bytes()));
            return Err(Error::new(abi::ERROR_SQLITE, code::ERROR, message));
        }
        // SAFETY: any length may be requested.
        let data = unsafe { ffi::sqlite3_malloc64(len as u64) }.cast::<u8>();
        if data.is_null() && len > 0 {
            return Err(Error::out_of_memory());
        }
        Ok(Self {
            data,
            len,
            filled: 0,
            schema,
        })
    }

    fn append(&mut self, piece: &[u8]) -> Result<()> {
        if piece.len() > self.len - self.filled {
            return Err(Error::internal("an image is longer than announced"));
        }
        // SAFETY: `data` has `len` bytes, of which the piece's length is left, and nothing else points there.
        unsafe {
            ptr::copy_nonoverlapping(piece.as_ptr(), self.data.add(self.filled), piece.len())
        };
        self.filled += piece.len();
        Ok(())
    }

    /// Replaces the database. Bytes that are not a database are rejected first, so that the connection keeps what
    /// it has.
    fn put_in_place(mut self, connection: &Connection) -> Result<()> {
        if self.filled != self.len {
            return Err(Error::internal("an image is shorter than announced"));
        }
        self.leave_wal_mode();
        self.try_out()?;
        if is_cut_off(self.bytes_mut()) {
            let message = "database disk image is malformed: its end is missing";
            return Err(Error::new(abi::ERROR_SQLITE, ffi::SQLITE_CORRUPT, message));
        }
        let flags = ffi::SQLITE_DESERIALIZE_FREEONCLOSE | ffi::SQLITE_DESERIALIZE_RESIZEABLE;
        let data = core::mem::replace(&mut self.data, ptr::null_mut());
        let len = self.len as i64;
        let db = connection.db();
        // SAFETY: `db` is open; `data` is from SQLite's allocator and belongs to SQLite from here on, even after
        // an error.
        let deserialize = || unsafe {
            ffi::sqlite3_deserialize(db, self.schema.as_ptr(), data, len, len, flags as _)
        };
        // SQLite empties the database, in a statement, before it takes the bytes.
        match connection.watch.without_progress(deserialize) {
            ffi::SQLITE_OK => Ok(()),
            code => Err(Error::of_code(db, code)),
        }
    }

    /// The bytes, all of which have been written.
    fn bytes_mut(&mut self) -> &mut [u8] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: there are `len` of them, and nothing else points there.
        unsafe { core::slice::from_raw_parts_mut(self.data, self.len) }
    }

    /// An in-memory database has no WAL, and SQLite would not open one whose header says otherwise.
    fn leave_wal_mode(&mut self) {
        let bytes = self.bytes_mut();
        if bytes.len() >= FORMAT_VERSIONS.end && bytes[FORMAT_VERSIONS] == WITH_WAL {
            bytes[FORMAT_VERSIONS].copy_from_slice(&WITH_JOURNAL);
        }
    }

    /// Lets SQLite read header, length and schema of the image, in a separate connection.
    fn try_out(&self) -> Result<()> {
        let mut db = ptr::null_mut();
        // SAFETY: the name ends in a NUL. The image outlives `db`, which may only read it and does not free it.
        unsafe {
            let mut code = ffi::sqlite3_open(c":memory:".as_ptr(), &mut db);
            if code == ffi::SQLITE_OK {
                let len = self.len as i64;
                let flags = ffi::SQLITE_DESERIALIZE_READONLY;
                code =
                    ffi::sqlite3_deserialize(db, c"main".as_ptr(), self.data, len, len, flags as _);
            }
            if code == ffi::SQLITE_OK {
                let sql = c"SELECT count(*) FROM sqlite_schema";
                code = ffi::sqlite3_exec(db, sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut());
            }
            let result = match code {
                ffi::SQLITE_OK => Ok(()),
                _ if db.is_null() => Err(Error::out_of_memory()),
                code => Err(Error::of_code(db, code)),
            };
            ffi::sqlite3_close(db);
            result
        }
    }
}

/// Whether the last page is incomplete or missing: SQLite would read zeros for it.
/// <https://sqlite.org/fileformat2.html#the_database_header>
fn is_cut_off(image: &[u8]) -> bool {
    if image.len() < 100 {
        return false; // empty: SQLite has read what there is, and it is not a header
    }
    let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|offset| image[at + offset]));
    let (page, counter, pages, valid_for) = (word(16) >> 16, word(24), word(28), word(92));
    // 65536 does not fit the two bytes, and is stored as 1.
    let page_bytes = u64::from(if page == 1 { 65_536 } else { page });
    let len = image.len() as u64;
    // Programs from before 2010 do not update the page count, and leave the old number.
    if counter == valid_for && pages > 0 {
        return len < page_bytes * u64::from(pages);
    }
    page_bytes > 0 && !len.is_multiple_of(page_bytes)
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: null, or from SQLite's allocator and not handed over.
        unsafe { ffi::sqlite3_free(self.data.cast()) };
    }
}
