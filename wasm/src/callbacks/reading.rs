//! Reads the program of a statement, also of one that runs: <https://sqlite.org/bytecodevtab.html>.
//!
//! EXPLAIN would prepare the statement anew, and what it lists need not be what runs: plans depend on what is bound.

use core::ffi::{c_int, c_void};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use super::Callbacks;
use crate::buffers::{copied, push};
use crate::error::{Error, Result};
use crate::program::{self, Instruction, Plan};
use crate::sqlite::statement::{Statement, prepare};

/// Of "temp": a table of that name in the database would stand before SQLite's own.
const LISTING: &[u8] = b"SELECT opcode, p1, p2, p3, p4, p5 FROM temp.bytecode(?)";

/// What can be put off while `statement` runs, if there is anything.
///
/// Looks at the program once it has called functions often enough. Not where the user is told of statements or of
/// their progress: that would come in between, and would tell of ours.
pub fn plan(statement: &Statement, callbacks: &Callbacks) -> Option<Rc<Plan>> {
    if callbacks.is_watched() {
        return None;
    }
    let status = ffi::SQLITE_STMTSTATUS_REPREPARE;
    // SAFETY: the statement is prepared; nothing is reset.
    let preparations = unsafe { ffi::sqlite3_stmt_status(statement.raw(), status, 0) };
    if let Some(known) = statement.known.plan(preparations) {
        return known;
    }
    if !callbacks.has_called_often() {
        return None;
    }
    // SAFETY: the statement is prepared.
    let plan = unsafe { new_plan(statement.raw(), callbacks) }.map(Rc::new);
    statement.known.keep(preparations, plan.clone());
    plan
}

/// None also where the program cannot be had: then each call is made by itself.
///
/// # Safety
/// `statement` is prepared.
unsafe fn new_plan(statement: *mut ffi::sqlite3_stmt, callbacks: &Callbacks) -> Option<Plan> {
    // SAFETY: the caller's promise.
    unsafe {
        if ffi::sqlite3_stmt_readonly(statement) == 0 {
            return None;
        }
        let db = ffi::sqlite3_db_handle(statement);
        let program = program_of(db, statement).ok()?;
        program::plan(&program, |function| callbacks.defines(function))
    }
}

/// The program of `statement`, followed by those of triggers.
///
/// # Safety
/// `statement` is prepared, of `db`.
unsafe fn program_of(
    db: *mut ffi::sqlite3,
    statement: *mut ffi::sqlite3_stmt,
) -> Result<Vec<Instruction>> {
    let (listing, _) = prepare(db, LISTING, 0)?;
    let mut listing = listing.ok_or_else(|| Error::internal("nothing lists programs"))?;
    let (listed, kind) = (statement.cast::<c_void>(), c"stmt-pointer".as_ptr());
    // SAFETY: the listing is prepared; it is dropped before `statement`, which nobody steps or drops meanwhile.
    let code = unsafe { ffi::sqlite3_bind_pointer(listing.raw(), 1, listed, kind, None) };
    if code != ffi::SQLITE_OK {
        return Err(Error::of_code(db, code));
    }
    let mut program = Vec::new();
    while listing.step()? {
        push(&mut program, instruction(&listing)?)?;
    }
    Ok(program)
}

fn instruction(listing: &Statement) -> Result<Instruction> {
    let number = |column: c_int| {
        // SAFETY: the listing stands on a row with six columns.
        unsafe { ffi::sqlite3_column_int(listing.raw(), column) }
    };
    Ok(Instruction {
        opcode: copied(listing.text_at(0))?,
        operands: [number(1), number(2), number(3)],
        p4: copied(listing.text_at(4))?,
        p5: number(5),
    })
}
