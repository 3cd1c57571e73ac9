//! Reads the program of a statement, also of one that runs: <https://sqlite.org/bytecodevtab.html>.
//!
//! EXPLAIN would prepare the statement anew, and what it lists need not be what runs: plans depend on what is bound.

use core::ffi::{c_int, c_void};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use super::{Instruction, Plan, plan};
use crate::buffers::push;
use crate::callbacks::Callbacks;
use crate::error::{Error, Result};
use crate::statement::{Statement, prepare};

/// Of "temp": a table of that name in the database would stand before SQLite's own.
const LISTING: &[u8] = b"SELECT opcode, p1, p2, p3, p4, p5 FROM temp.bytecode(?)";

impl Statement {
    /// What can be put off while this statement runs, if there is anything.
    ///
    /// Looks at the program once it has called functions often enough. Not where the user is told of statements or of
    /// their progress: that would come in between, and would tell of ours.
    pub fn plan(&mut self, callbacks: &Callbacks) -> Option<Rc<Plan>> {
        if !callbacks.has_called() || callbacks.is_watched() {
            return None;
        }
        // SAFETY: `stmt` is prepared; nothing is reset.
        let preparations =
            unsafe { ffi::sqlite3_stmt_status(self.raw(), ffi::SQLITE_STMTSTATUS_REPREPARE, 0) };
        match &self.known_plan {
            Some((of, plan)) if *of == preparations => return plan.clone(),
            _ if callbacks.has_called_often() => {}
            _ => return None,
        }
        let plan = self.new_plan(callbacks).map(Rc::new);
        self.known_plan = Some((preparations, plan.clone()));
        plan
    }

    /// None also where the program cannot be had: then each call is made by itself.
    fn new_plan(&self, callbacks: &Callbacks) -> Option<Plan> {
        if !self.is_readonly() {
            return None;
        }
        let program = program_of(self).ok()?;
        plan(&program, |function| callbacks.defines(function))
    }
}

/// The program of `statement`, followed by those of triggers.
fn program_of(statement: &Statement) -> Result<Vec<Instruction>> {
    // SAFETY: the statement is prepared, so it has a connection.
    let db = unsafe { ffi::sqlite3_db_handle(statement.raw()) };
    let (listing, _) = prepare(db, LISTING, 0)?;
    let mut listing = listing.ok_or_else(|| Error::internal("nothing lists programs"))?;
    let argument = statement.raw().cast::<c_void>();
    let kind = c"stmt-pointer".as_ptr();
    // SAFETY: the listing is prepared; it is dropped before `statement`, which nobody steps or drops meanwhile.
    let code = unsafe { ffi::sqlite3_bind_pointer(listing.raw(), 1, argument, kind, None) };
    if code != ffi::SQLITE_OK {
        return Err(Error::of_code(db, code));
    }
    let mut program = Vec::new();
    while listing.step()? {
        push(&mut program, instruction(&listing))?;
    }
    Ok(program)
}

fn instruction(listing: &Statement) -> Instruction {
    let number = |column: c_int| {
        // SAFETY: the listing stands on a row with six columns.
        unsafe { ffi::sqlite3_column_int(listing.raw(), column) }
    };
    Instruction {
        opcode: listing.text_at(0).into(),
        operands: [number(1), number(2), number(3)],
        p4: listing.text_at(4).into(),
        p5: number(5),
    }
}
