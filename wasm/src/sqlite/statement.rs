//! Owns `sqlite3_stmt*`: prepare, bind, step, reset. `columns` reads the row.

use core::any::Any;
use core::cell::{Cell, RefCell};
use core::ffi::{CStr, c_char, c_int};
use core::ptr::{self, NonNull};

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::{copied, shown, with_room};
use crate::error::{Error, Result};
use crate::sqlite::statement_cache::Keyed;
use crate::sqlite::text;
use crate::vfs::kept_locks::Needs;
use crate::wire::params::{Params, Reader, Value};

/// How long bound text and blobs stay valid in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the request is answered: SQLite reads them in place.
    Request,
    /// Not even that long: SQLite copies them.
    Call,
}

/// What a statement does to a transaction, according to the parser.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    None,
    /// BEGIN, SAVEPOINT.
    Begin,
    /// COMMIT, END.
    Commit,
    /// ROLLBACK, ROLLBACK TO, RELEASE.
    Undo,
}

pub struct Statement {
    stmt: NonNull<ffi::sqlite3_stmt>,
    sql: Box<[u8]>,
    pub parameter_count: usize,
    /// INSERT, UPDATE, DELETE or REPLACE, according to the parser.
    pub changes_data: bool,
    /// It reads or changes a database, or sets a savepoint: anything but PRAGMA, ATTACH, DETACH, VACUUM, and the other
    /// statements that begin or end transactions.
    pub belongs_to_transaction: bool,
    /// The locks it will request.
    pub needs: Needs,
    pub attaches: bool,
    /// What it does to a transaction, according to the parser.
    pub transaction: Step,
    /// For a higher layer's findings about it.
    pub annotation: RefCell<Option<Box<dyn Any>>>,
}

impl Keyed for Statement {
    fn key(&self) -> &[u8] {
        &self.sql
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: `stmt` was prepared and is finalized only here. The returned code is the last step's.
        unsafe { ffi::sqlite3_finalize(self.stmt.as_ptr()) };
    }
}

/// Prepares the first statement in `sql`; `None` if there is none. Also returns how much of `sql` it used.
pub fn prepare(
    db: *mut ffi::sqlite3,
    sql: &[u8],
    flags: u32,
) -> Result<(Option<Statement>, usize)> {
    let len = c_int::try_from(sql.len()).map_err(|_| too_long())?;
    let mut stmt = ptr::null_mut();
    let mut tail: *const c_char = ptr::null();
    // SAFETY: `db` is open, and SQLite reads at most `len` bytes of `sql`.
    let code = unsafe {
        ffi::sqlite3_prepare_v3(db, sql.as_ptr().cast(), len, flags, &mut stmt, &mut tail)
    };
    if code != ffi::SQLITE_OK {
        return Err(refusal(db, len));
    }
    // SAFETY: after success the tail points into `sql` or at its end.
    let taken = unsafe { tail.cast::<u8>().offset_from_unsigned(sql.as_ptr()) };
    let Some(stmt) = NonNull::new(stmt) else {
        return Ok((None, taken));
    };
    let mut statement = Statement {
        stmt,
        sql: Box::default(),
        // SAFETY: just prepared.
        parameter_count: unsafe { ffi::sqlite3_bind_parameter_count(stmt.as_ptr()) } as usize,
        changes_data: false,
        belongs_to_transaction: false,
        needs: Needs::default(),
        attaches: false,
        transaction: Step::None,
        annotation: RefCell::default(),
    };
    statement.sql = copied(&sql[..taken])?;
    Ok((Some(statement), taken))
}

/// The error for a statement of `len` bytes that SQLite did not prepare.
fn refusal(db: *mut ffi::sqlite3, len: c_int) -> Error {
    let error = Error::last(db);
    // SAFETY: `db` is open, and -1 changes nothing.
    let limit = unsafe { ffi::sqlite3_limit(db, ffi::SQLITE_LIMIT_SQL_LENGTH, -1) };
    if error.code == ffi::SQLITE_TOOBIG && len > limit {
        return too_long();
    }
    error
}

fn too_long() -> Error {
    Error::limit(ffi::SQLITE_TOOBIG, "query string is too large")
}

impl Statement {
    pub(crate) fn raw(&self) -> *mut ffi::sqlite3_stmt {
        self.stmt.as_ptr()
    }

    pub fn db(&self) -> *mut ffi::sqlite3 {
        // SAFETY: `stmt` is prepared, so it has a connection.
        unsafe { ffi::sqlite3_db_handle(self.raw()) }
    }

    fn error(&self) -> Error {
        Error::last(self.db())
    }

    /// The cache key: the whole text from the caller, including what follows the statement.
    pub fn set_key(&mut self, sql: &[u8]) -> Result<()> {
        if sql.len() != self.sql.len() {
            self.sql = copied(sql)?;
        }
        Ok(())
    }

    /// An ATTACH of a shared in-memory database would silently create a private one, because an instance has one
    /// connection.
    pub fn refuse_shared_memory(&self) -> Result<()> {
        // SAFETY: `stmt` is prepared; what SQLite makes of it ends in a NUL, if there is room, and is freed once.
        let is_shared = unsafe {
            let text = ffi::sqlite3_expanded_sql(self.raw());
            let is_shared = !text.is_null() && text::shares_memory(bytes_of(text));
            ffi::sqlite3_free(text.cast());
            is_shared
        };
        if !is_shared {
            return Ok(());
        }
        let message = "a database in memory that connections share cannot be attached by its URI: \
            attach the file that PRAGMA database_list names in a connection that has opened it";
        Err(Error::new(abi::ERROR_SQLITE, ffi::SQLITE_CANTOPEN, message))
    }

    pub fn is_readonly(&self) -> bool {
        // SAFETY: `stmt` is prepared.
        unsafe { ffi::sqlite3_stmt_readonly(self.raw()) != 0 }
    }

    pub fn is_explain(&self) -> bool {
        // SAFETY: `stmt` is prepared.
        unsafe { ffi::sqlite3_stmt_isexplain(self.raw()) != 0 }
    }

    pub fn column_count(&self) -> usize {
        // SAFETY: `stmt` is prepared.
        unsafe { ffi::sqlite3_column_count(self.raw()) as usize }
    }

    /// Binds all parameters.
    ///
    /// # Safety
    /// With `Lifetime::Request`, `clear` is called before the bytes behind `params` become invalid.
    pub unsafe fn bind(&mut self, params: &Params<'_>, lifetime: Lifetime) -> Result<()> {
        match params {
            Params::ByPosition { count, values } => {
                self.bind_positions(*count, &mut values.clone(), lifetime)
            }
            Params::ByName { count, entries } => self.bind_names(*count, entries.clone(), lifetime),
        }
    }

    /// Binds the next of many sets and advances past it; after an error `sets` is somewhere inside it.
    ///
    /// # Safety
    /// As `bind`, for the bytes behind `sets`.
    pub unsafe fn bind_next(&mut self, sets: &mut Reader<'_>, lifetime: Lifetime) -> Result<()> {
        if sets.at_map() {
            let params = sets.params()?;
            // SAFETY: the caller's promise.
            return unsafe { self.bind(&params, lifetime) };
        }
        // `Reader::params` would read every value an extra time to find the end of the set.
        let count = sets.array()?;
        self.bind_positions(count, sets, lifetime)
    }

    fn bind_positions(
        &mut self,
        count: usize,
        values: &mut Reader<'_>,
        lifetime: Lifetime,
    ) -> Result<()> {
        if count != self.parameter_count {
            return Err(Error::binding_count(self.parameter_count, count));
        }
        for index in 1..=count {
            let value = values.value()?;
            self.bind_value(index, value, lifetime)?;
        }
        Ok(())
    }

    fn bind_names(
        &mut self,
        count: usize,
        mut entries: Reader<'_>,
        lifetime: Lifetime,
    ) -> Result<()> {
        let mut supplied = with_room(count)?;
        for _ in 0..count {
            supplied.push((entries.text()?, entries.value()?));
        }
        let mut sorted = false;
        for index in 1..=self.parameter_count {
            let name = self.parameter_name(index)?;
            // Most callers pass them in the statement's order.
            let value = match supplied.get(index - 1) {
                Some((key, value)) if !sorted && *key == name => *value,
                _ => {
                    if !sorted {
                        supplied.sort_unstable_by_key(|(key, _)| *key);
                        sorted = true;
                    }
                    let found = supplied.binary_search_by_key(&name, |(key, _)| *key);
                    supplied[found.map_err(|_| no_value_for(name))?].1
                }
            };
            self.bind_value(index, value, lifetime)?;
        }
        Ok(())
    }

    #[inline]
    fn bind_value(&mut self, index: usize, value: Value<'_>, lifetime: Lifetime) -> Result<()> {
        let (stmt, position) = (self.raw(), index as c_int);
        let keep = match lifetime {
            Lifetime::Request => ffi::SQLITE_STATIC(),
            Lifetime::Call => ffi::SQLITE_TRANSIENT(),
        };
        // SAFETY: `stmt` is prepared; lengths are the slices' own, their lifetime is `bind`'s contract.
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(stmt, position),
                Value::Integer(value) => ffi::sqlite3_bind_int64(stmt, position, value),
                Value::Float(value) => ffi::sqlite3_bind_double(stmt, position, value),
                Value::Text(text) => ffi::sqlite3_bind_text64(
                    stmt,
                    position,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    keep,
                    ffi::SQLITE_UTF8 as u8,
                ),
                Value::Blob(blob) => ffi::sqlite3_bind_blob64(
                    stmt,
                    position,
                    blob.as_ptr().cast(),
                    blob.len() as u64,
                    keep,
                ),
                Value::TooLarge => return Err(too_large()),
                Value::Unsupported(kind) => return Err(unsupported(index, kind)),
            }
        };
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(self.error())
        }
    }

    /// Moves to the next row; `Ok(false)` once finished. After an error, reset the statement.
    /// <https://sqlite.org/c3ref/step.html>
    #[inline]
    pub fn step(&mut self) -> Result<bool> {
        RUNNING.statement.set(self.raw());
        RUNNING.runs.set(-1);
        // SAFETY: `stmt` is valid from `prepare` until `drop`, and an instance runs on one thread.
        let code = unsafe { ffi::sqlite3_step(self.raw()) };
        RUNNING.statement.set(ptr::null_mut());
        match code {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            _ => Err(self.error()),
        }
    }

    /// Steps to the end and discards any rows.
    pub fn run(&mut self) -> Result<()> {
        while self.step()? {}
        Ok(())
    }

    /// Makes it ready to be bound and stepped again; its locks are released.
    pub fn reset(&mut self) {
        // SAFETY: `stmt` is prepared. The code is the last step's, which was already reported.
        unsafe { ffi::sqlite3_reset(self.raw()) };
    }

    /// Resets, and clears all bindings.
    pub fn clear(&mut self) {
        self.reset();
        if self.parameter_count > 0 {
            // SAFETY: `stmt` is prepared and not running.
            unsafe { ffi::sqlite3_clear_bindings(self.raw()) };
        }
    }
}

/// What `step` runs. Not atomic: every atomic store of WebAssembly is a full fence, and three cost a row as much as
/// reading a column.
struct Running {
    /// Null outside of `step`.
    statement: Cell<*mut ffi::sqlite3_stmt>,
    /// How often it had run when it was compiled again within this step, which a change of the schema requires; else -1.
    runs: Cell<c_int>,
}

// SAFETY: an instance runs on one thread.
unsafe impl Sync for Running {}

static RUNNING: Running = Running {
    statement: Cell::new(ptr::null_mut()),
    runs: Cell::new(-1),
};

/// Whether the statement in `step` is complete, and its changes are committed if it commits by itself. SQLite calls the
/// progress handler once more before it returns, but also while it compiles a statement again.
/// <https://sqlite.org/c3ref/stmt_busy.html>, <https://sqlite.org/c3ref/c_stmtstatus_counter.html>
pub fn is_complete() -> bool {
    runs_of_idle().is_some_and(|runs| runs != RUNNING.runs.get())
}

/// A statement is being compiled, perhaps the one in `step`.
pub fn note_compilation() {
    if let Some(runs) = runs_of_idle() {
        RUNNING.runs.set(runs);
    }
}

/// How often the statement in `step` has run, unless it is running now.
fn runs_of_idle() -> Option<c_int> {
    let stepped = RUNNING.statement.get();
    // SAFETY: while `step` runs, its statement is valid.
    unsafe {
        (!stepped.is_null() && ffi::sqlite3_stmt_busy(stepped) == 0)
            .then(|| ffi::sqlite3_stmt_status(stepped, ffi::SQLITE_STMTSTATUS_RUN, 0))
    }
}

#[cold]
fn no_value_for(name: &[u8]) -> Error {
    Error::programming(format!(
        "You did not supply a value for binding parameter :{}.",
        shown(name)
    ))
}

#[cold]
fn too_large() -> Error {
    let message = "Python int too large to convert to SQLite INTEGER";
    Error::new(abi::ERROR_OVERFLOW, ffi::SQLITE_MISMATCH, message)
}

#[cold]
fn unsupported(index: usize, kind: &[u8]) -> Error {
    let message = format!(
        "Error binding parameter {index}: type '{}' is not supported",
        shown(kind)
    );
    Error::new(abi::ERROR_UNSUPPORTED, ffi::SQLITE_MISMATCH, message)
}

/// # Safety
/// `text` ends in a NUL and lives during `'a`.
pub unsafe fn bytes_of<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}
