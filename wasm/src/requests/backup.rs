//! Owns `sqlite3_backup*`: copies a database of this connection to an image file, or an image file over it.
//!
//! Two connections never share a guest, so pages travel between them as an image: a file that the host creates for
//! this purpose and lets both guests open, one after the other. <https://sqlite.org/c3ref/backup_finish.html>

use core::ffi::c_int;
use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::{c_string, joined, push};
use crate::connection::Connection;
use crate::connection::snapshot::{Pin, pinned};
use crate::error::{Error, Result};
use crate::requests::answer::Answer;
use crate::requests::executor::{Executor, Input};
use crate::requests::objects::Object;
use crate::ring::request::Request;
use crate::wire::params::Reader;

/// Pages copied between two checks of the request's cancel word.
const PAGES_PER_CHECK: u32 = 64;

/// The image needs no journal: it is discarded if the copy does not succeed.
const IMAGE_SETTINGS: &core::ffi::CStr = c"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF";

pub struct Backup {
    raw: *mut ffi::sqlite3_backup,
    image: *mut ffi::sqlite3,
    /// Where errors are reported: the destination's handle.
    told_at: *mut ffi::sqlite3,
    /// Reads the source's schema and so pins its snapshot; none if the image is the source.
    pin: Option<Vec<u8>>,
}

/// The result of one step.
#[derive(Clone, Copy)]
struct Progress {
    code: c_int,
    remaining: c_int,
    page_count: c_int,
}

/// `BACKUP_OPEN`: the handle of a backup; nothing is copied yet.
pub fn open(executor: &mut Executor, request: &Request<'_>, input: Input<'_>) -> Result<Answer> {
    let mut reader = Reader::new(input.params);
    reader.array()?;
    let schema = reader.text()?;
    let backup = Backup::open(&executor.connection, input.sql, schema, request.target)?;
    let handle = executor.objects.hold(backup)?;
    Ok(Answer {
        handle,
        ..Answer::nothing()
    })
}

/// `BACKUP_STEP`: copies pages; the body is `[code, remaining, page count]`. After `SQLITE_DONE` the handle is
/// gone.
pub fn step(executor: &mut Executor, request: &Request<'_>) -> Result<Answer> {
    let backup = executor.objects.get::<Backup>(request.target);
    let backup = backup.ok_or_else(|| Error::programming("the backup has ended"))?;
    let result = backup.step(&executor.connection, request.argument);
    let goes_on = matches!(&result, Ok(progress) if progress.code != ffi::SQLITE_DONE);
    let finished = if goes_on {
        Ok(())
    } else {
        let ended = executor.objects.take::<Backup>(request.target);
        ended.map_or(Ok(()), |backup| backup.finish())
    };
    // The first error is the one reported.
    let progress = result?;
    finished?;
    let value = &mut executor.output.value;
    value.array(3)?;
    value.integer(progress.code.into())?;
    value.integer(progress.remaining.into())?;
    value.integer(progress.page_count.into())?;
    Ok(Answer::value())
}

impl Object for Backup {}

impl Backup {
    fn open(connection: &Connection, path: &[u8], schema: &[u8], direction: u32) -> Result<Self> {
        let path = c_string(path)?;
        let schema_name = c_string(schema)?;
        let mut image = ptr::null_mut();
        let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
        // SAFETY: `path` ends in a NUL, and a null VFS name means the default one.
        let code = unsafe { ffi::sqlite3_open_v2(path.as_ptr(), &mut image, flags, ptr::null()) };
        if image.is_null() {
            return Err(Error::out_of_memory());
        }
        let mut backup = Self {
            raw: ptr::null_mut(),
            image,
            told_at: image,
            pin: None,
        };
        if code != ffi::SQLITE_OK {
            return Err(Error::last(image));
        }
        let (db, main) = (connection.db(), c"main".as_ptr());
        // SAFETY: both handles are open, and all names end in a NUL.
        backup.raw = unsafe {
            if direction == abi::BACKUP_TO_IMAGE {
                ffi::sqlite3_exec(
                    image,
                    IMAGE_SETTINGS.as_ptr(),
                    None,
                    ptr::null_mut(),
                    ptr::null_mut(),
                );
                ffi::sqlite3_backup_init(image, main, db, schema_name.as_ptr())
            } else {
                backup.told_at = db;
                ffi::sqlite3_backup_init(db, schema_name.as_ptr(), image, main)
            }
        };
        if backup.raw.is_null() {
            return Err(Error::last(backup.told_at));
        }
        if direction == abi::BACKUP_TO_IMAGE {
            backup.pin = Some(pinning(schema)?);
        }
        Ok(backup)
    }

    /// Copies `page_count` pages, 0 for all.
    fn step(&mut self, connection: &Connection, page_count: u32) -> Result<Progress> {
        let mut left = if page_count == 0 {
            u32::MAX
        } else {
            page_count
        };
        // A copy in one step is of one snapshot, even if other connections write between two checks.
        let pin = match &self.pin {
            Some(sql) if page_count == 0 => pinned(connection, sql)?,
            _ => Pin::NotNeeded,
        };
        let mut code = ffi::SQLITE_BUSY;
        while left > 0 && !matches!(pin, Pin::Refused) {
            if connection.watch.is_cancelled() {
                return Err(Error::interrupted());
            }
            let slice = left.min(PAGES_PER_CHECK);
            // SAFETY: `raw` is valid until `finish` or `drop`.
            code = unsafe { ffi::sqlite3_backup_step(self.raw, slice as c_int) };
            if code != ffi::SQLITE_OK {
                break;
            }
            if page_count != 0 {
                left -= slice;
            }
        }
        match code & 0xff {
            ffi::SQLITE_OK | ffi::SQLITE_DONE | ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => {}
            _ => return Err(Error::of_code(self.told_at, code)),
        }
        // SAFETY: as above.
        let (remaining, page_count) = unsafe {
            (
                ffi::sqlite3_backup_remaining(self.raw),
                ffi::sqlite3_backup_pagecount(self.raw),
            )
        };
        Ok(Progress {
            code: code & 0xff,
            remaining,
            page_count,
        })
    }

    /// Ends the backup; unless it reached `SQLITE_DONE`, the destination is unchanged.
    fn finish(mut self) -> Result<()> {
        let raw = core::mem::replace(&mut self.raw, ptr::null_mut());
        // SAFETY: `raw` came from `sqlite3_backup_init`, and this is its last use.
        match unsafe { ffi::sqlite3_backup_finish(raw) } {
            ffi::SQLITE_OK => Ok(()),
            code => Err(Error::of_code(self.told_at, code)),
        }
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // SAFETY: both calls take null, or a valid handle for the last time. None of the image's statements are
        // left.
        unsafe {
            ffi::sqlite3_backup_finish(self.raw);
            ffi::sqlite3_close(self.image);
        }
    }
}

/// A statement that reads the schema of this database.
fn pinning(schema: &[u8]) -> Result<Vec<u8>> {
    let mut sql = joined(&[b"SELECT (SELECT 1 FROM \""])?;
    for byte in schema {
        push(&mut sql, *byte)?;
        if *byte == b'"' {
            push(&mut sql, b'"')?;
        }
    }
    joined(&[&sql, b"\".sqlite_schema)"])
}
