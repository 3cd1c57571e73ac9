//! Owns `sqlite3*`: open, configure, prepare by way of the cache, close.

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use std::ffi::CString;

use libsqlite3_sys as ffi;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::statement::{self, Statement};
use crate::wire::params::Reader;
use crate::{host, sql};

/// VDBE steps between two looks at the request's cancel word: well under a millisecond of work.
const STEPS_PER_LOOK: c_int = 1000;

const DEFAULT_CACHED_STATEMENTS: i64 = 128;

/// The options of `OPEN` (docs/abi.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub flags: c_int,
    pub cached_statements: usize,
    /// Limits on one result; 0 is none.
    pub max_rows: u64,
    pub max_bytes: u64,
    pub statement_steps: u64,
}

impl Options {
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let mut flags = i64::from(ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE);
        let mut cached_statements = DEFAULT_CACHED_STATEMENTS;
        let [mut max_rows, mut max_bytes, mut statement_steps] = [0_i64; 3];
        let count = if bytes.is_empty() { 0 } else { reader.map()? };
        for _ in 0..count {
            let name = reader.text()?;
            *match name {
                b"flags" => &mut flags,
                b"cached_statements" => &mut cached_statements,
                b"max_rows" => &mut max_rows,
                b"max_bytes" => &mut max_bytes,
                b"statement_steps" => &mut statement_steps,
                _ => {
                    let name = String::from_utf8_lossy(name);
                    return Err(Error::internal(format!("unknown option of OPEN: {name}")));
                }
            } = reader.integer()?;
        }
        let negative = |_| Error::internal("an option of OPEN is out of range");
        Ok(Self {
            flags: c_int::try_from(flags).map_err(negative)?,
            cached_statements: usize::try_from(cached_statements).map_err(negative)?,
            max_rows: u64::try_from(max_rows).map_err(negative)?,
            max_bytes: u64::try_from(max_bytes).map_err(negative)?,
            statement_steps: u64::try_from(statement_steps).map_err(negative)?,
        })
    }
}

/// What SQLite's callbacks look at and note down; its address is fixed as long as the connection is open.
struct Watch {
    /// The running request's cancel word, or null.
    cancel: Cell<*const AtomicU32>,
    steps_left: Cell<u64>,
    step_limit: u64,
    limit_reached: Cell<bool>,
    /// What the parser saw in the statement being prepared.
    changes_data: Cell<bool>,
    changes_schema: Cell<bool>,
}

impl Watch {
    fn is_cancelled(&self) -> bool {
        let cancel = self.cancel.get();
        // SAFETY: not null only while the request's frame is in the ring.
        !cancel.is_null() && unsafe { (*cancel).load(Ordering::Relaxed) != 0 }
    }

    fn spend(&self, steps: u64) -> bool {
        if self.step_limit == 0 {
            return true;
        }
        let left = self.steps_left.get().saturating_sub(steps);
        self.steps_left.set(left);
        self.limit_reached.set(left == 0);
        left > 0
    }
}

pub struct Connection {
    db: *mut ffi::sqlite3,
    cache: Cache<Statement>,
    watch: Box<Watch>,
    /// One statement for each kind of BEGIN, prepared when first needed.
    begins: [Option<Statement>; 3],
    pub options: Options,
    pub hits: u64,
    pub misses: u64,
}

impl Connection {
    pub fn open(name: &[u8], options: Options) -> Result<Self> {
        let name = CString::new(name)
            .map_err(|_| Error::programming("the database's name contains a null character"))?;
        let mut db = ptr::null_mut();
        let flags = options.flags | ffi::SQLITE_OPEN_EXRESCODE;
        // SAFETY: `name` ends in a NUL, and a null VFS name means the default one.
        let code = unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &mut db, flags, ptr::null()) };
        if db.is_null() {
            return Err(Error::out_of_memory());
        }
        let watch = Box::new(Watch {
            cancel: Cell::new(ptr::null()),
            steps_left: Cell::new(0),
            step_limit: options.statement_steps,
            limit_reached: Cell::new(false),
            changes_data: Cell::new(false),
            changes_schema: Cell::new(false),
        });
        let cache = Cache::new(options.cached_statements);
        let connection = Self {
            db,
            cache,
            watch,
            begins: [const { None }; 3],
            options,
            hits: 0,
            misses: 0,
        };
        if code != ffi::SQLITE_OK {
            return Err(Error::last(db));
        }
        connection.watch_callbacks()?;
        Ok(connection)
    }

    fn watch_callbacks(&self) -> Result<()> {
        let watch = ptr::from_ref(&*self.watch).cast_mut().cast::<c_void>();
        // SAFETY: `db` is open, and the watch outlives it: `drop` closes first.
        unsafe {
            ffi::sqlite3_progress_handler(self.db, STEPS_PER_LOOK, Some(on_progress), watch);
            self.check(ffi::sqlite3_busy_handler(self.db, Some(on_busy), watch))?;
            self.check(ffi::sqlite3_set_authorizer(
                self.db,
                Some(on_prepare),
                watch,
            ))
        }
    }

    fn check(&self, code: c_int) -> Result<()> {
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(Error::last(self.db))
        }
    }

    pub fn db(&self) -> *mut ffi::sqlite3 {
        self.db
    }

    /// Lets `cancel` interrupt whatever runs, and the limit on steps start anew, until `leave`.
    pub fn enter(&self, cancel: *const AtomicU32) {
        self.watch.cancel.set(cancel);
        self.watch.steps_left.set(self.watch.step_limit);
        self.watch.limit_reached.set(false);
    }

    /// The request is answered: its cancel word is not looked at any more.
    pub fn leave(&self) {
        self.watch.cancel.set(ptr::null());
    }

    pub fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }

    /// Says what SQLite could not know: why the progress or the busy handler gave up.
    pub fn explained(&self, error: Error) -> Error {
        match error.code & 0xff {
            ffi::SQLITE_INTERRUPT if self.watch.limit_reached.get() => {
                let limit = self.watch.step_limit;
                let message = format!("the statement took more than {limit} steps");
                Error {
                    row: error.row,
                    ..Error::limit(ffi::SQLITE_INTERRUPT, message)
                }
            }
            ffi::SQLITE_BUSY if self.watch.is_cancelled() => Error {
                row: error.row,
                ..Error::interrupted()
            },
            _ => error,
        }
    }

    /// A statement for `sql`, from the cache or newly prepared; `None` if `sql` holds none.
    pub fn checkout(&mut self, sql: &[u8]) -> Result<Option<Statement>> {
        if let Some(statement) = self.cache.take(sql) {
            self.hits += 1;
            return Ok(Some(statement));
        }
        self.misses += 1;
        self.prepare(sql)
    }

    /// Prepares the one statement that `sql` may hold.
    pub fn prepare(&self, sql: &[u8]) -> Result<Option<Statement>> {
        sql::refuse_nul(sql)?;
        self.watch.changes_data.set(false);
        self.watch.changes_schema.set(false);
        let mut start = 0;
        loop {
            let (statement, taken) =
                statement::prepare(self.db, &sql[start..], ffi::SQLITE_PREPARE_PERSISTENT)
                    .map_err(|error| error.shifted_by(start))?;
            let rest = &sql[start + taken..];
            match statement {
                Some(mut statement) => {
                    if !sql::is_blank(rest) {
                        return Err(Error::programming(
                            "You can only execute one statement at a time.",
                        ));
                    }
                    statement.set_key(sql);
                    statement.changes_data = self.watch.changes_data.get()
                        && !self.watch.changes_schema.get()
                        && !statement.is_readonly()
                        && !statement.is_explain();
                    return Ok(Some(statement));
                }
                None if taken == 0 || rest.is_empty() => return Ok(None),
                // Semicolons and comments in front of the statement.
                None => start += taken,
            }
        }
    }

    /// Takes back a statement that is done with; it must be reset and hold no bindings.
    pub fn checkin(&mut self, mut statement: Statement) {
        statement.clear();
        drop(self.cache.put(statement));
    }

    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Opens a transaction unless one is open; `kind` is 1 DEFERRED, 2 IMMEDIATE, 3 EXCLUSIVE.
    pub fn begin(&mut self, kind: u16) -> Result<()> {
        if kind == 0 || self.in_transaction() {
            return Ok(());
        }
        let slot = usize::from(kind - 1);
        let mut statement = match self.begins[slot].take() {
            Some(statement) => statement,
            None => {
                let sql = [
                    &b"BEGIN DEFERRED"[..],
                    b"BEGIN IMMEDIATE",
                    b"BEGIN EXCLUSIVE",
                ][slot];
                self.prepare(sql)?.expect("BEGIN is a statement")
            }
        };
        let result = statement.run();
        statement.reset();
        self.begins[slot] = Some(statement);
        result
    }

    pub fn in_transaction(&self) -> bool {
        // SAFETY: `db` is open.
        unsafe { ffi::sqlite3_get_autocommit(self.db) == 0 }
    }

    pub fn changes(&self) -> i64 {
        // SAFETY: `db` is open.
        unsafe { ffi::sqlite3_changes64(self.db) }
    }

    pub fn total_changes(&self) -> i64 {
        // SAFETY: `db` is open.
        unsafe { ffi::sqlite3_total_changes64(self.db) }
    }

    pub fn last_insert_rowid(&self) -> i64 {
        // SAFETY: `db` is open.
        unsafe { ffi::sqlite3_last_insert_rowid(self.db) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.cache.clear();
        self.begins = [const { None }; 3];
        // SAFETY: `db` is open, and this is its last use. An open transaction is rolled back.
        let code = unsafe { ffi::sqlite3_close(self.db) };
        assert_eq!(code, ffi::SQLITE_OK, "a statement outlived its connection");
    }
}

/// # Safety
/// SQLite passes the pointer that was registered with the callback: a `Watch`.
unsafe fn watch<'a>(context: *mut c_void) -> &'a Watch {
    // SAFETY: the caller's promise.
    unsafe { &*context.cast::<Watch>() }
}

/// Not 0 interrupts the running statement.
unsafe extern "C" fn on_progress(context: *mut c_void) -> c_int {
    // SAFETY: registered with a `Watch`.
    let watch = unsafe { watch(context) };
    c_int::from(watch.is_cancelled() || !watch.spend(STEPS_PER_LOOK as u64))
}

/// Not 0 tries the lock again.
unsafe extern "C" fn on_busy(context: *mut c_void, attempt: c_int) -> c_int {
    // SAFETY: registered with a `Watch`.
    let watch = unsafe { watch(context) };
    c_int::from(!watch.is_cancelled() && host::busy(attempt) && !watch.is_cancelled())
}

/// Notes what kind of statement the parser is looking at; allows everything.
unsafe extern "C" fn on_prepare(
    context: *mut c_void,
    action: c_int,
    _: *const c_char,
    _: *const c_char,
    _: *const c_char,
    _: *const c_char,
) -> c_int {
    // SAFETY: registered with a `Watch`.
    let watch = unsafe { watch(context) };
    match action {
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => {
            watch.changes_data.set(true)
        }
        // CREATE and DROP write to the schema table and report that as INSERT, UPDATE and DELETE.
        ffi::SQLITE_CREATE_INDEX..=ffi::SQLITE_CREATE_VIEW
        | ffi::SQLITE_DROP_INDEX..=ffi::SQLITE_DROP_VIEW
        | ffi::SQLITE_ALTER_TABLE
        | ffi::SQLITE_REINDEX
        | ffi::SQLITE_ANALYZE
        | ffi::SQLITE_CREATE_VTABLE
        | ffi::SQLITE_DROP_VTABLE => watch.changes_schema.set(true),
        _ => {}
    }
    ffi::SQLITE_OK
}
