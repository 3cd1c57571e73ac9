//! SQLite's callbacks while a statement is prepared or runs: interrupts, step limit, busy locks, kind of
//! statement.
//!
//! <https://sqlite.org/c3ref/progress_handler.html>, <https://sqlite.org/c3ref/busy_handler.html>

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::AtomicU32;
use std::rc::Rc;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::callbacks::{Callbacks, Handle, hooks};
use crate::connection::busy_timeout::BusyTimeout;
use crate::deferral::policy::Policy;
use crate::error::{Error, Result};
use crate::host;
use crate::sqlite::statement::{Step, bytes_of, is_complete, note_compilation};
use crate::vfs;

/// VDBE steps between two checks of the request's cancel word: well under a millisecond of work.
const STEPS_PER_CHECK: c_int = 1000;
/// What the parser reports of expressions alone.
const OF_EXPRESSIONS: [c_int; 3] = [
    ffi::SQLITE_SELECT,
    ffi::SQLITE_FUNCTION,
    ffi::SQLITE_RECURSIVE,
];

/// What the callbacks check and record; SQLite stores its address.
pub struct Watch {
    steps_left: Cell<u64>,
    step_limit: u64,
    limit_reached: Cell<bool>,
    /// What the parser saw in the statement being prepared.
    changes_data: Cell<bool>,
    changes_schema: Cell<bool>,
    step: Cell<Step>,
    /// Anything but functions and expressions.
    uses_database: Cell<bool>,
    attaches: Cell<bool>,
    /// PRAGMA, ATTACH or DETACH, or a statement that begins or ends a transaction, but no savepoint.
    stands_apart: Cell<bool>,
    /// VDBE steps between two calls of `on_progress`.
    period: Cell<c_int>,
    db: Cell<*mut ffi::sqlite3>,
    busy_timeout: BusyTimeout,
    /// The user's callbacks.
    pub callbacks: Callbacks,
    /// Which of their calls are deferred.
    pub deferral: Rc<Policy>,
}

impl Watch {
    /// `step_limit`: VDBE steps that one request may take, 0 for no limit.
    pub fn new(step_limit: u64) -> Box<Self> {
        let deferral = Rc::<Policy>::default();
        Box::new(Self {
            steps_left: Cell::new(0),
            step_limit,
            limit_reached: Cell::new(false),
            changes_data: Cell::new(false),
            changes_schema: Cell::new(false),
            step: Cell::new(Step::None),
            uses_database: Cell::new(false),
            attaches: Cell::new(false),
            stands_apart: Cell::new(false),
            period: Cell::new(STEPS_PER_CHECK),
            db: Cell::new(ptr::null_mut()),
            busy_timeout: BusyTimeout::default(),
            callbacks: Callbacks::new(deferral.clone()),
            deferral,
        })
    }

    /// Registers the callbacks. Repeated, it makes SQLite re-prepare every statement, as setting an authorizer
    /// does: a DELETE of all rows that was prepared without a preupdate hook does not visit the rows.
    ///
    /// # Safety
    /// `db` is open, and closed before `self` is dropped or moved.
    pub unsafe fn install(&self, db: *mut ffi::sqlite3) -> Result<()> {
        let context = ptr::from_ref(self).cast_mut().cast::<c_void>();
        self.db.set(db);
        // SAFETY: the caller's promise.
        unsafe {
            ffi::sqlite3_progress_handler(db, self.period.get(), Some(on_progress), context);
            let busy = ffi::sqlite3_busy_handler(db, Some(on_busy), context);
            let authorizer = ffi::sqlite3_set_authorizer(db, Some(on_prepare), context);
            if busy != ffi::SQLITE_OK || authorizer != ffi::SQLITE_OK {
                return Err(Error::last(db));
            }
            hooks::watch_commits(db, &self.callbacks);
        }
        Ok(())
    }

    /// Called after a statement was compiled, which may have been `PRAGMA busy_timeout`: our handler waits for
    /// locks again, with the timeout that the pragma has set. As in SQLite, setting the timeout removes a user's
    /// busy handler.
    pub fn apply_busy_timeout(&self) {
        if !self.busy_timeout.is_due() {
            return;
        }
        let db = self.db.get();
        // SAFETY: `db` is open, because a statement of it was compiled since the last call.
        let apply = || unsafe { self.busy_timeout.apply(db) };
        if self.callbacks.without_hooks(apply) {
            drop(self.callbacks.replace(abi::CALLBACK_BUSY, None));
        }
        let context = ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: as above; the handler was registered with the same context before.
        unsafe { ffi::sqlite3_busy_handler(db, Some(on_busy), context) };
    }

    /// Lets `cancel` interrupt the running request, and restarts the limit on steps, until `end_request`.
    pub fn begin_request(&self, cancel: *const AtomicU32) {
        self.callbacks.set_cancel(cancel);
        self.steps_left.set(self.step_limit);
        self.limit_reached.set(false);
        self.callbacks.forget_failure();
    }

    /// Sets one of the user's hooks, `None` to remove it; `number` is the steps between two calls of a progress
    /// handler.
    ///
    /// # Safety
    /// As `install`.
    pub unsafe fn set_hook(
        &self,
        db: *mut ffi::sqlite3,
        kind: c_int,
        handle: Option<Handle>,
        number: c_int,
    ) -> Result<()> {
        if kind == abi::CALLBACK_PROGRESS {
            let user = handle.is_some().then_some(number);
            // Often enough for both the user's handler and interrupts.
            self.period
                .set(user.map_or(STEPS_PER_CHECK, |steps| steps.clamp(1, STEPS_PER_CHECK)));
            self.callbacks.set_progress_steps(number);
        }
        self.callbacks.replace(kind, handle)?;
        // SAFETY: the caller's promise.
        unsafe {
            hooks::install(db, &self.callbacks, kind);
            match kind {
                abi::CALLBACK_PROGRESS | abi::CALLBACK_AUTHORIZER | abi::CALLBACK_PREUPDATE => {
                    self.install(db)
                }
                _ => Ok(()),
            }
        }
    }

    /// The request is answered: its cancel word is not read any more.
    pub fn end_request(&self) {
        self.callbacks.set_cancel(ptr::null());
    }

    pub fn is_cancelled(&self) -> bool {
        self.callbacks.is_cancelled()
    }

    /// Subtracts `steps` from what is left; `false` once nothing is left.
    fn spend(&self, steps: u64) -> bool {
        if self.step_limit == 0 {
            return true;
        }
        let left = self.steps_left.get().saturating_sub(steps);
        self.steps_left.set(left);
        self.limit_reached.set(left == 0);
        left > 0
    }

    /// Called before a statement is prepared: nothing seen yet.
    pub fn forget_kind(&self) {
        self.changes_data.set(false);
        self.changes_schema.set(false);
        self.step.set(Step::None);
        self.uses_database.set(false);
        self.attaches.set(false);
        self.stands_apart.set(false);
    }

    pub fn saw_attach(&self) -> bool {
        self.attaches.get()
    }

    /// What the parser saw of BEGIN, COMMIT and similar statements.
    pub fn saw_step(&self) -> Step {
        self.step.get()
    }

    /// Runs something that always completes: no cancellation is seen meanwhile.
    pub fn without_interrupts<R>(&self, act: impl FnOnce() -> R) -> R {
        let cancel = self.callbacks.set_cancel(ptr::null());
        let result = act();
        self.callbacks.set_cancel(cancel);
        result
    }

    /// Runs what SQLite must not interrupt halfway: the progress handler is not called, by which cancellations, limits
    /// and the user's handler interrupt. It is short.
    pub fn without_progress<R>(&self, act: impl FnOnce() -> R) -> R {
        let context = ptr::from_ref(self).cast_mut().cast::<c_void>();
        let db = self.db.get();
        // SAFETY: `db` is open, and the handler was registered with the same context before.
        unsafe {
            ffi::sqlite3_progress_handler(db, 0, None, ptr::null_mut());
            let result = act();
            ffi::sqlite3_progress_handler(db, self.period.get(), Some(on_progress), context);
            result
        }
    }

    /// Whether the statement may need a lock, according to the parser.
    pub fn saw_use_of_database(&self) -> bool {
        self.uses_database.get()
    }

    /// Whether the statement belongs in a transaction, according to the parser.
    pub fn saw_work_of_transaction(&self) -> bool {
        self.uses_database.get() && !self.stands_apart.get()
    }

    /// Whether the parser saw a change of data that is not part of a schema change.
    pub fn saw_change_of_data(&self) -> bool {
        self.changes_data.get() && !self.changes_schema.get()
    }

    /// Adds what SQLite could not know: why the progress or the busy handler gave up, or that a commit failed a
    /// constraint.
    pub fn explained(&self, error: Error) -> Error {
        let explanation = match error.code & 0xff {
            ffi::SQLITE_CONSTRAINT if error.code == ffi::SQLITE_CONSTRAINT_COMMITHOOK => {
                let message = "the commit hook refused the commit, which was rolled back";
                Error::new(abi::ERROR_SQLITE, error.code, message)
            }
            ffi::SQLITE_INTERRUPT if self.limit_reached.get() => {
                let message = format!("the statement took more than {} steps", self.step_limit);
                Error::limit(ffi::SQLITE_INTERRUPT, message)
            }
            // A cancelled wait for a lock or for the WAL index.
            ffi::SQLITE_BUSY | ffi::SQLITE_PROTOCOL if self.is_cancelled() => Error::interrupted(),
            _ => return error,
        };
        Error {
            row: error.row,
            ..explanation
        }
    }
}

/// # Safety
/// SQLite passes the pointer that was registered with the callback: a `Watch`.
unsafe fn watch<'a>(context: *mut c_void) -> &'a Watch {
    // SAFETY: the caller's promise.
    unsafe { &*context.cast::<Watch>() }
}

/// Not 0 interrupts the running statement, but never one that is complete: it would be reported as undone.
unsafe extern "C" fn on_progress(context: *mut c_void) -> c_int {
    // SAFETY: registered with a `Watch`.
    let watch = unsafe { watch(context) };
    vfs::give_back_locks();
    let period = watch.period.get();
    let is_unwanted = watch.is_cancelled()
        || !watch.spend(period as u64)
        || watch.callbacks.has_failed()
        || watch.callbacks.progress(period);
    c_int::from(is_unwanted && !is_complete())
}

/// Not 0 tries the lock again.
unsafe extern "C" fn on_busy(context: *mut c_void, attempt: c_int) -> c_int {
    // SAFETY: registered with a `Watch`.
    let watch = unsafe { watch(context) };
    vfs::give_back_locks();
    let wait = || {
        let asked = watch.callbacks.busy(attempt);
        asked.unwrap_or_else(|| host::busy(attempt))
    };
    c_int::from(!watch.is_cancelled() && wait() && !watch.is_cancelled())
}

/// Records the kind of the statement being parsed; the user's authorizer decides what is allowed.
unsafe extern "C" fn on_prepare(
    context: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    trigger: *const c_char,
) -> c_int {
    note_compilation();
    // SAFETY: registered with a `Watch`.
    let watch = unsafe { watch(context) };
    if !OF_EXPRESSIONS.contains(&action) {
        watch.uses_database.set(true);
    }
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
        ffi::SQLITE_ATTACH => {
            watch.attaches.set(true);
            watch.stands_apart.set(true);
        }
        ffi::SQLITE_DETACH | ffi::SQLITE_PRAGMA => watch.stands_apart.set(true),
        ffi::SQLITE_TRANSACTION | ffi::SQLITE_SAVEPOINT => {
            // SAFETY: SQLite passes the operation's name, which ends in a NUL.
            let step = match unsafe { bytes_of(first) } {
                b"BEGIN" => Step::Begin,
                b"COMMIT" => Step::Commit,
                _ => Step::Undo,
            };
            watch.step.set(step);
            let is_savepoint = action == ffi::SQLITE_SAVEPOINT && step == Step::Begin;
            watch.stands_apart.set(!is_savepoint);
        }
        _ => {}
    }
    let callbacks = &watch.callbacks;
    // SAFETY: SQLite passes NULL or text that ends in a NUL.
    let answer = unsafe { callbacks.authorize(action, [first, second, database, trigger]) };
    if action == ffi::SQLITE_PRAGMA && answer == ffi::SQLITE_OK {
        let by_callback = callbacks.has(abi::CALLBACK_BUSY);
        // SAFETY: as above, and the database is open while it compiles.
        unsafe {
            watch
                .busy_timeout
                .begin(watch.db.get(), first, second, by_callback)
        };
    }
    answer
}
