//! Changesets in pieces: applied, inverted, combined.
//!
//! A changeset is never in the guest's memory as a whole, except when several are combined.
//! <https://sqlite.org/session/sqlite3changeset_apply.html>

mod apply;
mod conflict;
mod stream;

use core::ptr;

use libsqlite3_sys as ffi;

use crate::error::Result;
use crate::requests::answer::Answer;
pub use crate::requests::changeset::apply::apply;
use crate::requests::changeset::stream::input;
pub use crate::requests::changeset::stream::{Stream, handle, output};
use crate::requests::executor::Executor;
use crate::wire::params::Reader;

/// `INVERT`: `[input, output]`.
pub fn invert(executor: &mut Executor, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    reader.array()?;
    let watch = &executor.connection.watch;
    let source = Stream::new(watch, handle(&mut reader)?);
    let target = Stream::new(watch, handle(&mut reader)?);
    // SAFETY: the streams outlive the call.
    let code = unsafe {
        ffi::sqlite3changeset_invert_strm(
            Some(input),
            source.context(),
            Some(output),
            target.context(),
        )
    };
    source.check(code, executor.connection.db())?;
    Ok(Answer::nothing())
}

/// Changes of several changesets merged into one.
struct Group(*mut ffi::sqlite3_changegroup);

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: null, or used for the last time.
        unsafe { ffi::sqlite3changegroup_delete(self.0) };
    }
}

/// `COMBINE`: `[output, input, …]`.
pub fn combine(executor: &mut Executor, params: &[u8]) -> Result<Answer> {
    let mut reader = Reader::new(params);
    let count = reader.array()?;
    let (watch, db) = (&executor.connection.watch, executor.connection.db());
    let target = Stream::new(watch, handle(&mut reader)?);
    let mut group = Group(ptr::null_mut());
    // SAFETY: the streams outlive the calls they are given to.
    unsafe {
        let code = ffi::sqlite3changegroup_new(&mut group.0);
        target.check(code, db)?;
        for _ in 1..count {
            let source = Stream::new(watch, handle(&mut reader)?);
            let code = ffi::sqlite3changegroup_add_strm(group.0, Some(input), source.context());
            source.check(code, db)?;
        }
        let code = ffi::sqlite3changegroup_output_strm(group.0, Some(output), target.context());
        target.check(code, db)?;
    }
    Ok(Answer::nothing())
}
