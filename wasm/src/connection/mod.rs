//! Owns `sqlite3*`: open, configure, prepare through the cache, close.
//! <https://sqlite.org/c3ref/open.html>

#[cfg(target_arch = "wasm32")]
pub mod blocks;
#[cfg(target_arch = "wasm32")]
pub mod busy_timeout;
#[cfg(target_arch = "wasm32")]
pub mod progress;
#[cfg(target_arch = "wasm32")]
pub mod snapshot;

use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::c_string;
use crate::connection::blocks::Blocks;
use crate::connection::progress::Watch;
use crate::error::{Error, Result};
use crate::sqlite::options::Options;
use crate::sqlite::statement;
use crate::sqlite::statement::{Statement, Step};
use crate::sqlite::statement_cache::Cache;
use crate::sqlite::text;
use crate::vfs::kept_locks::Needs;

/// The BEGIN statements, by the kind in a request; the wording is Python's sqlite3's.
const BEGINS: [&[u8]; 4] = [
    b"BEGIN ",
    b"BEGIN DEFERRED",
    b"BEGIN IMMEDIATE",
    b"BEGIN EXCLUSIVE",
];

pub struct Connection {
    db: *mut ffi::sqlite3,
    cache: Cache<Statement>,
    pub watch: Box<Watch>,
    pub blocks: Blocks,
    /// One statement per kind of BEGIN, prepared when first needed.
    begins: [Option<Statement>; BEGINS.len()],
    pub options: Options,
    pub hits: u64,
    pub misses: u64,
}

impl Connection {
    pub fn open(name: &[u8], options: Options) -> Result<Self> {
        let name = c_string(name)?;
        let mut db = ptr::null_mut();
        // Without SQLITE_OPEN_EXRESCODE: R*Tree's check compares with SQLITE_CORRUPT. `Error::last` reads the
        // extended code. SAFETY: `name` ends in a NUL, and a null VFS name means the default one.
        let code =
            unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &mut db, options.flags, ptr::null()) };
        if db.is_null() {
            return Err(Error::out_of_memory());
        }
        let watch = Watch::new(options.statement_steps);
        let cache = Cache::new(options.cached_statements);
        let connection = Self {
            db,
            cache,
            watch,
            blocks: Blocks::default(),
            begins: [const { None }; BEGINS.len()],
            options,
            hits: 0,
            misses: 0,
        };
        if code != ffi::SQLITE_OK {
            return Err(Error::last(db));
        }
        // SAFETY: `db` is closed in `drop`, before the box goes.
        unsafe { connection.watch.install(db)? };
        connection.remove_tokenizer_functions()?;
        Ok(connection)
    }

    /// Removes fts3_tokenizer(), which returns addresses and calls through them. SQLite's own switch for it,
    /// SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, does not cover bound parameters.
    /// <https://sqlite.org/fts3.html#custom_application_defined_tokenizers>
    fn remove_tokenizer_functions(&self) -> Result<()> {
        for argument_count in [1, 2] {
            // SAFETY: `db` is open and the name ends in a NUL; without methods, the function is removed.
            let code = unsafe {
                ffi::sqlite3_create_function_v2(
                    self.db,
                    c"fts3_tokenizer".as_ptr(),
                    argument_count,
                    ffi::SQLITE_UTF8,
                    ptr::null_mut(),
                    None,
                    None,
                    None,
                    None,
                )
            };
            if code != ffi::SQLITE_OK {
                return Err(Error::last(self.db));
            }
        }
        Ok(())
    }

    pub fn db(&self) -> *mut ffi::sqlite3 {
        self.db
    }

    /// A statement for `sql`, from the cache or newly prepared; `None` if `sql` contains none.
    pub fn checkout(&mut self, sql: &[u8]) -> Result<Option<Statement>> {
        if let Some(statement) = self.cache.take(sql) {
            self.hits += 1;
            return Ok(Some(statement));
        }
        self.misses += 1;
        self.prepare(sql)
    }

    /// Prepares the single statement in `sql`, if there is one.
    pub fn prepare(&self, sql: &[u8]) -> Result<Option<Statement>> {
        text::refuse_nul(sql)?;
        self.watch.forget_kind();
        let mut start = 0;
        loop {
            let (statement, taken) =
                statement::prepare(self.db, &sql[start..], ffi::SQLITE_PREPARE_PERSISTENT)
                    .map_err(|error| error.shifted_by(start))?;
            let rest = &sql[start + taken..];
            match statement {
                Some(mut statement) => {
                    if !text::is_blank(rest) {
                        return Err(Error::programming(
                            "You can only execute one statement at a time.",
                        ));
                    }
                    statement.set_key(sql)?;
                    statement.attaches = self.watch.saw_attach();
                    statement.transaction = self.watch.saw_step();
                    statement.changes_data = self.watch.saw_change_of_data()
                        && !statement.is_readonly()
                        && !statement.is_explain();
                    statement.belongs_to_transaction = self.watch.saw_work_of_transaction();
                    statement.needs = match self.watch.saw_use_of_database() {
                        false => Needs::Nothing,
                        true if statement.is_readonly() => Needs::Reads,
                        true => Needs::Writes,
                    };
                    return Ok(Some(statement));
                }
                None if taken == 0 || rest.is_empty() => return Ok(None),
                // Semicolons and comments before the statement.
                None => start += taken,
            }
        }
    }

    /// Checks an ATTACH, with its bound values, before it runs.
    pub fn check_attach(&self, statement: &Statement) -> Result<()> {
        if self.options.flags & ffi::SQLITE_OPEN_URI == 0 {
            return Ok(());
        }
        statement.refuse_shared_memory()
    }

    /// Takes back a finished statement; it must be reset and hold no bindings.
    pub fn checkin(&mut self, mut statement: Statement) {
        statement.clear();
        drop(self.cache.put(statement));
    }

    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Fails in a block whose transaction is lost, if `statement` changes anything or begins a transaction.
    pub fn refuse_if_lost(&self, statement: &Statement) -> Result<()> {
        let begins = matches!(statement.transaction, Step::Begin | Step::Commit);
        if self.blocks.is_lost() && (begins || !statement.is_readonly()) {
            return self.blocks.check();
        }
        Ok(())
    }

    /// Opens the transaction that `format` requests, if `statement` is one that it requests it for.
    pub fn begin_for(&mut self, statement: &Statement, format: u16) -> Result<()> {
        let is_change = !statement.is_readonly() || statement.transaction == Step::Begin;
        let is_asked_for = format & abi::FORMAT_BEGIN_FOR_READS != 0
            || is_change && format & abi::FORMAT_BEGIN_FOR_CHANGES != 0;
        if !(statement.changes_data || is_asked_for && statement.belongs_to_transaction) {
            return Ok(());
        }
        self.begin((format & abi::FORMAT_BEGIN_MASK) >> abi::FORMAT_BEGIN_SHIFT)
    }

    /// Opens a transaction unless one is open; `kind` is one of `BEGINS`, counted from 1, or 0 for none.
    fn begin(&mut self, kind: u16) -> Result<()> {
        if kind == 0 || self.in_transaction() {
            return Ok(());
        }
        let slot = usize::from(kind - 1);
        if slot >= BEGINS.len() {
            return Err(Error::internal(format!("unknown kind of BEGIN: {kind}")));
        }
        let mut statement = match self.begins[slot].take() {
            Some(statement) => statement,
            None => self.prepare(BEGINS[slot])?.expect("BEGIN is a statement"),
        };
        let result = statement.run();
        statement.reset();
        self.begins[slot] = Some(statement);
        result
    }

    /// Rolls back the changes of a statement whose callback raised without being able to fail it.
    pub fn roll_back_failed(&self) {
        let callbacks = &self.watch.callbacks;
        if !callbacks.is_rollback_pending() {
            return;
        }
        callbacks.forget_failed();
        if self.in_transaction()
            && let Ok((Some(mut rollback), _)) = statement::prepare(self.db, b"ROLLBACK", 0)
        {
            // If it fails, for example because the user's authorizer refuses it, the next request tries again.
            drop(rollback.run());
        }
        if !self.in_transaction() {
            callbacks.forget_pending_rollback(self.db);
        }
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
        self.begins = [const { None }; BEGINS.len()];
        // SAFETY: `db` is open, and this is its last use. An open transaction is rolled back.
        let code = unsafe { ffi::sqlite3_close(self.db) };
        assert_eq!(code, ffi::SQLITE_OK, "a statement outlived its connection");
    }
}
