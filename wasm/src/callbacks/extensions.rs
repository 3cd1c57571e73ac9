//! Loadable extensions: side modules instead of shared libraries, which the host links into this instance
//! (docs/abi.md, "Extensions").
//!
//! A side module is never unloaded, because SQLite may hold pointers to its functions. When SQLite closes it, the
//! host forgets it; opened again, it is linked again.
//!
//! <https://sqlite.org/loadext.html>

use core::cell::RefCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};
use std::alloc::{Layout, alloc_zeroed};

use libsqlite3_sys as ffi;

use super::{Callbacks, Callee, Handle};
use crate::abi;
use crate::buffers::c_string;
use crate::error::{Error, Result};
use crate::sqlite::statement::bytes_of;
use crate::wire::params::{Reader, Value};
use crate::wire::rows::Encoder;

const BUILT_IN: u32 = abi::EXTENSION_BUILT_IN;
const ENTRY_OF_BUILT_IN: EntryPoint = nothing_to_do;

type EntryPoint = unsafe extern "C" fn(
    *mut ffi::sqlite3,
    *mut *mut c_char,
    *const ffi::sqlite3_api_routines,
) -> c_int;
/// As the VFS declares it: any function.
type Symbol = unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *mut c_void, *const c_char);

/// The callbacks for `xDlOpen`: SQLite does not say for which connection it calls, but there is only one.
static ASKED: AtomicPtr<Callbacks> = AtomicPtr::new(ptr::null_mut());

/// The handle of the host's loader.
#[derive(Default)]
pub struct Loader(RefCell<Option<Handle>>);

impl Callbacks {
    /// Calls a method of the loader; `None` if there is none, or it has raised, which the request will report.
    fn ask_loader<R>(
        &self,
        kind: c_int,
        encode: impl FnOnce(&mut Encoder) -> Result<()>,
        receive: impl FnOnce(Value<'_>) -> Option<R>,
    ) -> Option<R> {
        let number = self.loader.0.borrow().as_ref()?.number();
        self.call(Callee::new(kind, number), encode, receive)
            .ok()
            .flatten()
    }
}

/// Makes the VFS load side modules instead of shared libraries. Call once, after SQLite was initialised.
pub fn install() {
    // SAFETY: the default VFS is ours, lives forever, and nothing is loading yet.
    unsafe {
        let vfs = ffi::sqlite3_vfs_find(ptr::null());
        (*vfs).xDlOpen = Some(open);
        (*vfs).xDlError = Some(error);
        (*vfs).xDlSym = Some(symbol);
        (*vfs).xDlClose = Some(close);
    }
}

/// Sets the loader; every request about extensions passes it, so that their order does not matter.
///
/// # Safety
/// `callbacks` lives, where it is, until the connection is closed.
pub unsafe fn set_loader(callbacks: &Callbacks, loader: Handle) {
    let mut known = callbacks.loader.0.borrow_mut();
    match &*known {
        // Releasing one of two equal handles would release the other too.
        Some(known) if known.number() == loader.number() => mem::forget(loader),
        _ => *known = Some(loader),
    }
    ASKED.store(ptr::from_ref(callbacks).cast_mut(), Ordering::Relaxed);
}

/// Allows or forbids loading extensions, including by the SQL function.
pub fn allow(db: *mut ffi::sqlite3, allowed: bool) {
    // SAFETY: `db` is open.
    unsafe { ffi::sqlite3_enable_load_extension(db, allowed.into()) };
}

/// `CONTROL_OP_LOAD_EXTENSION`, through SQLite's own function, for its rules and messages.
pub fn load(db: *mut ffi::sqlite3, reader: &mut Reader<'_>) -> Result<()> {
    let name = c_string(reader.text()?)?;
    let entry = match reader.value()? {
        Value::Text(entry) => Some(c_string(entry)?),
        _ => None,
    };
    let entry = entry.as_ref().map_or(ptr::null(), |entry| entry.as_ptr());
    let mut message = ptr::null_mut();
    // SAFETY: `db` is open; the names end in a NUL; the message is SQLite's to allocate and ours to free.
    let (code, error) = unsafe {
        let code = ffi::sqlite3_load_extension(db, name.as_ptr(), entry, &raw mut message);
        let error = match message.is_null() {
            true => None,
            false => Some(Error::quoting(abi::ERROR_SQLITE, code, bytes_of(message))),
        };
        ffi::sqlite3_free(message.cast());
        (code, error)
    };
    match (code, error) {
        (ffi::SQLITE_OK, _) => Ok(()),
        (_, Some(error)) => Err(error),
        (code, None) => Err(Error::of_code(db, code)),
    }
}

/// The host's description of an opened side module, in four words.
struct Opened {
    number: u32,
    data_bytes: usize,
    alignment: usize,
    /// Not 0: it has been linked before.
    linked: u32,
}

impl Opened {
    fn decode(answer: Value<'_>) -> Option<Self> {
        let [number, data_bytes, alignment, linked] = words(answer)?;
        Some(Self {
            number,
            data_bytes: data_bytes as usize,
            alignment: alignment as usize,
            linked,
        })
    }

    /// Zeroed memory for the module's data, which it keeps forever; `None` if there is not enough.
    fn data(&self) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(self.data_bytes.max(1), self.alignment).ok()?;
        // SAFETY: the layout has a size.
        NonNull::new(unsafe { alloc_zeroed(layout) })
    }
}

fn words<const N: usize>(answer: Value<'_>) -> Option<[u32; N]> {
    let Value::Blob(bytes) = answer else {
        return None;
    };
    let mut words = [0; N];
    let (chunks, rest) = bytes.as_chunks::<4>();
    if chunks.len() != N || !rest.is_empty() {
        return None;
    }
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*chunk);
    }
    Some(words)
}

fn open_module(callbacks: &Callbacks, name: &[u8]) -> Option<u32> {
    let opened = callbacks.ask_loader(
        abi::CALLBACK_EXTENSION_OPEN,
        |out| {
            out.array(1)?;
            out.blob(name)
        },
        Opened::decode,
    )?;
    if opened.number == BUILT_IN || opened.linked != 0 {
        return Some(opened.number);
    }
    // Address 0 tells the host that there is no memory; only the host can report it with a message.
    let base = opened.data().map_or(0, |data| data.as_ptr() as usize);
    let starts: [u32; 3] = callbacks.ask_loader(
        abi::CALLBACK_EXTENSION_LINK,
        |out| {
            out.array(2)?;
            out.integer(opened.number.into())?;
            out.integer(base as i64)
        },
        words,
    )?;
    for start in starts {
        if start != 0 {
            // SAFETY: the host has put a function of this type there: the module's start function, then the one
            // that relocates its data, then its constructors. The sandbox bounds what they do, like everything
            // else the module does.
            unsafe { mem::transmute::<usize, extern "C" fn()>(start as usize)() };
        }
    }
    Some(opened.number)
}

/// # Safety
/// Called by SQLite, for the connection whose callbacks `ASKED` are.
unsafe fn asked<'a>() -> Option<&'a Callbacks> {
    // SAFETY: set by `allow`, and they live as long as the connection.
    unsafe { ASKED.load(Ordering::Relaxed).as_ref() }
}

/// `xDlOpen`.
unsafe extern "C" fn open(_: *mut ffi::sqlite3_vfs, name: *const c_char) -> *mut c_void {
    // SAFETY: SQLite passes a terminated name.
    let (callbacks, name) = unsafe { (asked(), CStr::from_ptr(name)) };
    let number = callbacks.and_then(|callbacks| open_module(callbacks, name.to_bytes()));
    ptr::without_provenance_mut(number.unwrap_or(0) as usize)
}

/// `xDlError`: SQLite's own message stays, and the host's exception adds the reason.
unsafe extern "C" fn error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) {}

/// `xDlSym`.
unsafe extern "C" fn symbol(
    _: *mut ffi::sqlite3_vfs,
    module: *mut c_void,
    name: *const c_char,
) -> Option<Symbol> {
    // SAFETY: SQLite calls the function as what it is, an entry point.
    let built_in = unsafe { mem::transmute::<EntryPoint, Symbol>(ENTRY_OF_BUILT_IN) };
    if module.addr() == BUILT_IN as usize {
        return Some(built_in);
    }
    // SAFETY: SQLite passes a terminated name.
    let (callbacks, name) = unsafe { (asked()?, CStr::from_ptr(name)) };
    let index = callbacks.ask_loader(
        abi::CALLBACK_EXTENSION_SYMBOL,
        |out| {
            out.array(2)?;
            out.integer(module.addr() as i64)?;
            out.blob(name.to_bytes())
        },
        |answer| match answer {
            Value::Integer(index) => usize::try_from(index).ok().filter(|index| *index != 0),
            _ => None,
        },
    )?;
    // SAFETY: a pointer to a function is an index of the table, where the host has put an entry point.
    Some(unsafe { mem::transmute::<usize, Symbol>(index) })
}

/// `xDlClose`.
unsafe extern "C" fn close(_: *mut ffi::sqlite3_vfs, module: *mut c_void) {
    // SAFETY: the connection is not gone yet.
    let Some(callbacks) = (unsafe { asked() }) else {
        return;
    };
    let encode = |out: &mut Encoder| {
        out.array(1)?;
        out.integer(module.addr() as i64)
    };
    callbacks.ask_loader(abi::CALLBACK_EXTENSION_CLOSE, encode, |_| Some(()));
}

/// The entry point of built-in extensions, which do nothing. There is nothing to close either.
unsafe extern "C" fn nothing_to_do(
    _: *mut ffi::sqlite3,
    _: *mut *mut c_char,
    _: *const ffi::sqlite3_api_routines,
) -> c_int {
    ffi::SQLITE_OK_LOAD_PERMANENTLY
}
