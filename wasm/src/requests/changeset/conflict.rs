//! A change that does not fit the database it is applied to.
//! <https://sqlite.org/session/c_changeset_abort.html>

use core::ffi::{CStr, c_char, c_int};
use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::shown;
use crate::callbacks::argument_block;
use crate::callbacks::calls::value_of;
use crate::callbacks::encode_text;
use crate::error::{Error, Result};
use crate::wire::rows::Encoder;

/// One change that does not fit, while SQLite waits for a decision.
pub struct Change {
    iter: *mut ffi::sqlite3_changeset_iter,
    conflict: c_int,
    /// NULL for violated foreign keys, which belong to no single change.
    table: *const c_char,
    column_count: c_int,
    action: c_int,
    is_indirect: c_int,
}

type Column = unsafe extern "C" fn(
    *mut ffi::sqlite3_changeset_iter,
    c_int,
    *mut *mut ffi::sqlite3_value,
) -> c_int;

impl Change {
    /// # Safety
    /// `iter` and `conflict` are what SQLite passed to the conflict handler, and it has not returned.
    pub unsafe fn of(iter: *mut ffi::sqlite3_changeset_iter, conflict: c_int) -> Self {
        let mut change = Self {
            iter,
            conflict,
            table: ptr::null(),
            column_count: 0,
            action: 0,
            is_indirect: 0,
        };
        if conflict != ffi::SQLITE_CHANGESET_FOREIGN_KEY {
            // SAFETY: the caller's promise.
            unsafe {
                ffi::sqlite3changeset_op(
                    iter,
                    &mut change.table,
                    &mut change.column_count,
                    &mut change.action,
                    &mut change.is_indirect,
                )
            };
        }
        change
    }

    /// `[conflict, action, table, indirect, old, new, conflicting row, violations of foreign keys]`.
    pub fn encode(&self, out: &mut Encoder) -> Result<()> {
        let of_row = !self.table.is_null();
        let found = matches!(
            self.conflict,
            ffi::SQLITE_CHANGESET_DATA | ffi::SQLITE_CHANGESET_CONFLICT
        );
        let mut violations = 0;
        // SAFETY: a `Change` is used while SQLite waits; each row is read only if it exists.
        unsafe {
            if !of_row {
                ffi::sqlite3changeset_fk_conflicts(self.iter, &mut violations);
            }
            out.array(8)?;
            out.integer(self.conflict.into())?;
            out.integer(self.action.into())?;
            encode_text(self.table, out)?;
            out.boolean(self.is_indirect != 0)?;
            let has_old = of_row && self.action != ffi::SQLITE_INSERT;
            self.encode_row(ffi::sqlite3changeset_old, has_old, out)?;
            let has_new = of_row && self.action != ffi::SQLITE_DELETE;
            self.encode_row(ffi::sqlite3changeset_new, has_new, out)?;
            self.encode_row(ffi::sqlite3changeset_conflict, found, out)?;
        }
        out.integer(violations.into())
    }

    /// # Safety
    /// As `of`; `column` may be asked if `is_there`.
    unsafe fn encode_row(&self, column: Column, is_there: bool, out: &mut Encoder) -> Result<()> {
        if !is_there {
            return out.null();
        }
        out.array(self.column_count as usize)?;
        for index in 0..self.column_count {
            let mut value = ptr::null_mut();
            // SAFETY: the index is below the count; the value lives until the handler returns.
            unsafe {
                if column(self.iter, index, &mut value) != ffi::SQLITE_OK {
                    return Err(Error::out_of_memory());
                }
                if value.is_null() {
                    out.extension(abi::EXT_NO_CHANGE, &[])?;
                } else {
                    argument_block::encode(&value_of(value)?, out)?;
                }
            }
        }
        Ok(())
    }

    /// The message for the caller of `apply_changeset`; contains no values.
    pub fn refusal(&self) -> String {
        let why = match self.conflict {
            ffi::SQLITE_CHANGESET_DATA => {
                "the row's values differ from the old values in the change"
            }
            ffi::SQLITE_CHANGESET_NOTFOUND => "the row does not exist",
            ffi::SQLITE_CHANGESET_CONFLICT => "a row with this key exists",
            ffi::SQLITE_CHANGESET_CONSTRAINT => "a constraint fails",
            _ => return "the changeset violates foreign keys: nothing was applied".into(),
        };
        let action = match self.action {
            ffi::SQLITE_INSERT => "INSERT",
            ffi::SQLITE_UPDATE => "UPDATE",
            _ => "DELETE",
        };
        // SAFETY: not NULL, because the conflict is about one row; it ends in a NUL.
        let table = shown(unsafe { CStr::from_ptr(self.table) }.to_bytes());
        format!("the changeset conflicts at an {action} of {table} ({why}): nothing was applied")
    }
}
