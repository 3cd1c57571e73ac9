//! `PRAGMA busy_timeout`: reads and sets the only timeout, which the host stores.
//!
//! SQLite runs this pragma while it compiles it, and then replaces our busy handler, which a cancellation wakes,
//! with its own, which just sleeps. So the authorizer, which is called before that, gives SQLite the current
//! timeout. Once the statement is compiled, the resulting timeout goes to the host and our handler is restored.
//! Every run compiles it again.
//!
//! <https://sqlite.org/pragma.html#pragma_busy_timeout>

use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int};
use core::ptr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::host;

/// What the authorizer has seen of the pragma since the last `apply`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nothing,
    Read,
    Write,
    /// Our own query.
    Question,
}

/// The state of the pragma in one connection.
#[derive(Default)]
pub struct BusyTimeout {
    seen: Cell<Seen>,
}

impl BusyTimeout {
    /// SQLite is about to run a pragma that is allowed. `by_callback`: a user's handler waits for locks, so there
    /// is no timeout.
    ///
    /// # Safety
    /// `db` is open; `name` and `value` are NULL or end in a NUL.
    pub unsafe fn begin(
        &self,
        db: *mut ffi::sqlite3,
        name: *const c_char,
        value: *const c_char,
        by_callback: bool,
    ) {
        // SAFETY: the caller's promise.
        let is_meant = !name.is_null()
            && unsafe { CStr::from_ptr(name) }
                .to_bytes()
                .eq_ignore_ascii_case(b"busy_timeout");
        if !is_meant || self.seen.get() == Seen::Question {
            return;
        }
        let writes = !value.is_null() || self.seen.get() == Seen::Write;
        self.seen.set(if writes { Seen::Write } else { Seen::Read });
        let milliseconds = if by_callback {
            0
        } else {
            host::busy_timeout(abi::BUSY_TIMEOUT_KEEP)
        };
        // SAFETY: the caller's promise.
        unsafe { ffi::sqlite3_busy_timeout(db, milliseconds) };
    }

    /// Whether there is anything to apply.
    pub fn is_due(&self) -> bool {
        self.seen.get() != Seen::Nothing
    }

    /// Passes on to the host what the pragma has set; returns whether it has. Our busy handler must be registered
    /// again.
    ///
    /// # Safety
    /// `db` is open.
    pub unsafe fn apply(&self, db: *mut ffi::sqlite3) -> bool {
        let is_set = self.seen.replace(Seen::Question) == Seen::Write;
        if is_set {
            // SAFETY: the caller's promise.
            host::busy_timeout(unsafe { ask(db) });
        }
        self.seen.set(Seen::Nothing);
        is_set
    }
}

/// SQLite's current timeout.
///
/// # Safety
/// `db` is open.
unsafe fn ask(db: *mut ffi::sqlite3) -> c_int {
    let mut statement = ptr::null_mut();
    // SAFETY: the caller's promise; a failed prepare leaves NULL, which the other functions allow.
    unsafe {
        ffi::sqlite3_prepare_v2(
            db,
            c"PRAGMA busy_timeout".as_ptr(),
            -1,
            &mut statement,
            ptr::null_mut(),
        );
        let is_row = ffi::sqlite3_step(statement) == ffi::SQLITE_ROW;
        let milliseconds = if is_row {
            ffi::sqlite3_column_int(statement, 0)
        } else {
            abi::BUSY_TIMEOUT_KEEP
        };
        ffi::sqlite3_finalize(statement);
        milliseconds
    }
}
