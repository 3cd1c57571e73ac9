//! Aggregates of SQLite's own whose definitions have steps and ends of ours (`sums`) while a statement runs that needs it.
//!
//! The API has no way to step such an aggregate, hence the name for `FuncDef`s in sqlite_prelude.h. Only aggregates are
//! taken whose steps neither fail nor call anything: when they are done matters to nobody.

use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int, c_uchar, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use libsqlite3_sys as ffi;

use super::Callbacks;
use super::calls::SCALAR;
use super::functions::{Ending, Method};
use super::sums::Step;

/// With the number of their arguments; those without any count rows.
const NAMES: [(&CStr, c_int); 5] = [
    (c"sum", 1),
    (c"total", 1),
    (c"avg", 1),
    (c"count", 1),
    (c"count", 0),
];
/// `SQLITE_FUNC_BUILTIN`.
const FUNC_BUILTIN: u32 = 0x0080_0000;

/// `FuncDef` of SQLite's source, as far as it is read here.
#[repr(C)]
struct Definition {
    argument_count: i16,
    flags: u32,
    user_data: *mut c_void,
    next: *mut Definition,
    step: Option<Method>,
    finalize: Option<Ending>,
    value: Option<Ending>,
    inverse: Option<Method>,
    name: *const c_char,
}

unsafe extern "C" {
    fn rapsqlite_find_function(
        db: *mut ffi::sqlite3,
        name: *const c_char,
        argument_count: c_int,
        encoding: c_uchar,
        create: c_uchar,
    ) -> *mut Definition;
}

/// An aggregate that can be taken over: its definition and what that says when it is not.
struct Own {
    definition: Cell<*mut Definition>,
    step: Cell<Option<Method>>,
    finalize: Cell<Option<Ending>>,
}

/// One thread runs an instance of the module.
struct All([Own; NAMES.len()]);
// SAFETY: as above.
unsafe impl Sync for All {}

static OWN: All = All([const {
    Own {
        definition: Cell::new(ptr::null_mut()),
        step: Cell::new(None),
        finalize: Cell::new(None),
    }
}; NAMES.len()]);
/// Whose statement runs, while the aggregates are taken over.
static RUNNING: AtomicPtr<Callbacks> = AtomicPtr::new(ptr::null_mut());

/// Their steps and ends while they are taken over, as `NAMES` has them.
const STEPS: [Method; NAMES.len()] = [step::<0>, step::<1>, step::<2>, step::<3>, step::<4>];
const ENDS: [Ending; NAMES.len()] = [
    finalize::<0>,
    finalize::<1>,
    finalize::<2>,
    finalize::<3>,
    finalize::<4>,
];

/// The definition of one of `NAMES`, if SQLite's own is the one that is used: it lives as long as the module.
///
/// # Safety
/// `db` is open.
unsafe fn definition(
    db: *mut ffi::sqlite3,
    (name, arguments): (&CStr, c_int),
) -> Option<NonNull<Definition>> {
    // SAFETY: the caller's promise; 0 creates nothing.
    let used = NonNull::new(unsafe {
        rapsqlite_find_function(db, name.as_ptr(), arguments, ffi::SQLITE_UTF8 as c_uchar, 0)
    })?;
    // SAFETY: SQLite uses it.
    let Definition {
        flags, name: of, ..
    } = unsafe { used.as_ref() };
    // SAFETY: as above.
    let is_own = flags & FUNC_BUILTIN != 0 && unsafe { CStr::from_ptr(*of) } == name;
    is_own.then_some(used)
}

/// Whether steps of the aggregate that programs show as `shown` can be done later.
///
/// # Safety
/// `db` is open.
pub unsafe fn can_wait(db: *mut ffi::sqlite3, shown: &[u8]) -> bool {
    let is_shown = |(name, arguments): &(&CStr, c_int)| {
        let rest = shown.strip_prefix(name.to_bytes());
        rest == Some(format!("({arguments})").as_bytes())
    };
    let found = NAMES.into_iter().find(is_shown);
    // SAFETY: the caller's promise.
    found.is_some_and(|name| unsafe { definition(db, name) }.is_some())
}

/// Has steps wait that take what `sums::result` leaves, until `release`.
///
/// # Safety
/// `db` is open, and `callbacks` are its and stay where they are until `release`.
pub unsafe fn take_over(db: *mut ffi::sqlite3, callbacks: &Callbacks) {
    RUNNING.store(ptr::from_ref(callbacks).cast_mut(), Ordering::Relaxed);
    for (index, name) in NAMES.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        let Some(mut found) = (unsafe { definition(db, name) }) else {
            continue;
        };
        // SAFETY: nobody else looks at it now: one thread runs the module.
        let definition = unsafe { found.as_mut() };
        let own = &OWN.0[index];
        own.definition.set(definition);
        own.step.set(definition.step.replace(STEPS[index]));
        own.finalize.set(definition.finalize.replace(ENDS[index]));
    }
}

/// The aggregates are as SQLite has them again.
pub fn release() {
    RUNNING.store(ptr::null_mut(), Ordering::Relaxed);
    for own in &OWN.0 {
        // SAFETY: null, or a definition that `take_over` found.
        if let Some(definition) = unsafe { own.definition.replace(ptr::null_mut()).as_mut() } {
            definition.step = own.step.take();
            definition.finalize = own.finalize.take();
        }
    }
}

fn running<'a>() -> Option<&'a Callbacks> {
    // SAFETY: null, or what `take_over` was given, until `release`.
    unsafe { RUNNING.load(Ordering::Relaxed).as_ref() }
}

unsafe extern "C" fn step<const OF: usize>(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    let Some(original) = OWN.0[OF].step.get() else {
        return;
    };
    // SAFETY: SQLite's arguments, passed on; there is one value at most, as `NAMES` says.
    unsafe {
        let value = (count > 0).then(|| *values);
        let waits = running().map_or(Ok(false), |callbacks| {
            callbacks.wait_with_step(Step::new(context, original, value))
        });
        match waits {
            Ok(true) => {}
            Ok(false) => original(context, count, values),
            Err(failed) => SCALAR.put(context, failed),
        }
    }
}

unsafe extern "C" fn finalize<const OF: usize>(context: *mut ffi::sqlite3_context) {
    let Some(original) = OWN.0[OF].finalize.get() else {
        return;
    };
    // SAFETY: SQLite's argument, passed on.
    unsafe {
        match running().map_or(Ok(()), Callbacks::end_with_steps) {
            Ok(()) => original(context),
            Err(failed) => SCALAR.put(context, failed),
        }
    }
}
