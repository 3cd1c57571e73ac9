//! Reads the bytecode of a statement, even while it runs: <https://sqlite.org/bytecodevtab.html>.
//!
//! EXPLAIN would prepare the statement again, and its listing need not be the running program: plans depend on
//! bound values.

use core::ffi::{c_int, c_void};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use crate::buffers::{copied, push};
use crate::deferral::program::{self, DeferralPlan, Instruction};
use crate::error::{Error, Result};
use crate::sqlite::statement::{Statement, prepare};

/// In "temp": a table of that name in the database would take precedence over SQLite's own.
const LISTING: &[u8] = b"SELECT opcode, p1, p2, p3, p4, p5 FROM temp.bytecode(?)";

/// The findings about a statement's bytecode, and the preparation they are for.
struct Known {
    preparation: c_int,
    plan: Option<Rc<DeferralPlan>>,
}

/// What can be deferred while `statement` runs, for functions selected by `is_ours`; `None` if nothing can. Reads
/// the bytecode if that `is_worth_it`, once per preparation; until then returns `None`.
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

/// Also none if the bytecode is not available: then each call is made on its own.
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

/// The bytecode of `statement`, followed by its triggers'.
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
    // SAFETY: the listing is prepared; it is dropped before `statement`, which is not stepped or dropped
    // meanwhile.
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
        // SAFETY: the listing is on a row with six columns.
        unsafe { ffi::sqlite3_column_int(listing.raw(), column) }
    };
    Ok(Instruction {
        opcode: copied(listing.text_at(0))?,
        operands: [number(1), number(2), number(3)],
        p4: copied(listing.text_at(4))?,
        p5: number(5),
    })
}
