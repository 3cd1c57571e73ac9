//! Reads the program of a statement, also of one that runs: <https://sqlite.org/bytecodevtab.html>.
//!
//! EXPLAIN would prepare the statement anew, and what it lists need not be what runs: plans depend on what is bound.

use core::ffi::{c_int, c_void};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use crate::buffers::{copied, push};
use crate::deferral::program::{self, DeferralPlan, Instruction};
use crate::error::{Error, Result};
use crate::sqlite::statement::{Statement, prepare};

/// Of "temp": a table of that name in the database would stand before SQLite's own.
const LISTING: &[u8] = b"SELECT opcode, p1, p2, p3, p4, p5 FROM temp.bytecode(?)";

/// What was found in a statement's program, and of which preparation.
struct Known {
    preparation: c_int,
    plan: Option<Rc<DeferralPlan>>,
}

/// What can be put off while `statement` runs, of functions that `is_ours` knows; `None` if there is nothing.
///
/// Reads the program if that `is_worth_it`, once for each preparation; until then the answer is `None`.
pub fn plan(
    statement: &Statement,
    is_worth_it: bool,
    is_ours: impl Fn(&[u8]) -> bool,
) -> Option<Rc<DeferralPlan>> {
    let status = ffi::SQLITE_STMTSTATUS_REPREPARE;
    // SAFETY: the statement is prepared; nothing is reset.
    let preparation = unsafe { ffi::sqlite3_stmt_status(statement.raw(), status, 0) };
    if let Some(known) = &*statement.annotation.borrow()
        && let Some(known) = known.downcast_ref::<Known>()
        && known.preparation == preparation
    {
        return known.plan.clone();
    }
    if !is_worth_it {
        return None;
    }
    // SAFETY: the statement is prepared.
    let plan = unsafe { new_plan(statement.raw(), is_ours) }.map(Rc::new);
    let known = Known {
        preparation,
        plan: plan.clone(),
    };
    statement.annotation.replace(Some(Box::new(known)));
    plan
}

/// None also where the program cannot be had: then each call is made by itself.
///
/// # Safety
/// `statement` is prepared.
unsafe fn new_plan(
    statement: *mut ffi::sqlite3_stmt,
    is_ours: impl Fn(&[u8]) -> bool,
) -> Option<DeferralPlan> {
    // SAFETY: the caller's promise.
    unsafe {
        if ffi::sqlite3_stmt_readonly(statement) == 0 {
            return None;
        }
        let db = ffi::sqlite3_db_handle(statement);
        program::plan(&program_of(db, statement).ok()?, is_ours)
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
    let mut listing =
        listing.ok_or_else(|| Error::internal("the bytecode table function is missing"))?;
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
