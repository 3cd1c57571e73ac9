//! Every import of `docs/abi.md` behind one safe function; nothing else calls the host.
//!
//! Slices go in, values or result codes come out. Every call happens on the one thread that runs the instance, and
//! the host keeps no pointers when it returns; only mappings (`mapping`) outlive their call.

#[cfg(target_arch = "wasm32")]
mod large_blocks;
mod mapping;

use core::ffi::c_int;
use core::mem::transmute;

use crate::abi;
pub use mapping::{shm_map, window_map, window_unmap};

/// An SQLite (extended) result code other than `SQLITE_OK`.
pub type Code = c_int;

/// As SQLite takes it: 0 for success.
pub fn code(result: Result<(), Code>) -> c_int {
    result.err().unwrap_or(0)
}

/// A file the host has open for this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fd(i32);

impl Fd {
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    pub const fn number(self) -> i32 {
        self.0
    }
}

/// What the host wants after `park`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    LookAgain,
    Stop,
}

/// Declares the imports once: as imports in wasm, as panicking functions in builds for the build machine, where
/// only code that never reaches the host runs.
macro_rules! imports {
    ($(fn $name:ident($($arg:ident: $kind:ty),*) $(-> $ret:ty)?;)*) => {
        #[cfg(target_arch = "wasm32")]
        mod import {
            #[link(wasm_import_module = "rapsqlite")]
            unsafe extern "C" {
                $(pub fn $name($($arg: $kind),*) $(-> $ret)?;)*
            }
        }

        #[cfg(not(target_arch = "wasm32"))]
        #[expect(dead_code, reason = "some callers exist in wasm only")]
        mod import {
            $(pub unsafe fn $name($(_: $kind),*) $(-> $ret)? {
                panic!(concat!("there is no host for ", stringify!($name), " outside wasm"))
            })*
        }
    };
}

imports! {
    fn park(reason: i32) -> i32;
    fn bell();
    fn payload(id: u32, ptr: *mut u8, len: usize) -> i32;
    fn spill(ptr: *const u8, len: usize) -> i32;
    fn busy(attempt: i32) -> i32;
    fn busy_timeout(milliseconds: i32) -> i32;
    fn sleep(microseconds: i32);
    fn localtime(seconds: i64) -> i64;
    fn log(ptr: *const u8, len: usize);
    fn path_full(ptr: *const u8, len: usize, out: *mut u8, cap: usize) -> i32;
    fn file_open(ptr: *const u8, len: usize, flags: i32, out: *mut [i32; 2]) -> i32;
    fn file_close(fd: i32) -> i32;
    fn file_read(fd: i32, ptr: *mut u8, len: usize, offset: i64) -> i32;
    fn file_write(fd: i32, ptr: *const u8, len: usize, offset: i64) -> i32;
    fn file_truncate(fd: i32, size: i64) -> i32;
    fn file_sync(fd: i32, flags: i32) -> i32;
    fn file_size(fd: i32, out: *mut i64) -> i32;
    fn file_delete(ptr: *const u8, len: usize, sync_dir: i32) -> i32;
    fn file_access(ptr: *const u8, len: usize, flags: i32, out: *mut [i32; 2]) -> i32;
    fn file_lock(fd: i32, level: i32, out: *mut [i64; 2]) -> i32;
    fn file_unlock(fd: i32, level: i32) -> i32;
    fn file_reserved(fd: i32, out: *mut [i32; 2]) -> i32;
    fn file_moved(fd: i32, out: *mut [i32; 2]) -> i32;
    fn shm_map(fd: i32, region: i32, size: i32, extend: i32, ptr: *mut u8) -> i32;
    fn shm_lock(fd: i32, first: i32, count: i32, flags: i32, size: *mut i64) -> i32;
    fn shm_unlock(fd: i32, locks: i32) -> i32;
    fn shm_unmap(fd: i32, delete: i32) -> i32;
    fn unlock(id: u32, fd: i32, locks: u32);
    fn window_map(fd: i32, ptr: *mut u8, len: usize, offset: i64) -> i32;
    fn window_unmap(ptr: *mut u8, len: usize) -> i32;
    fn memory_unused(ptr: *mut u8, len: usize);
    fn callback();
    fn callback_answer(ptr: *mut u8, len: usize) -> i32;
}

/// WASI's own function, because Rust's library would use `errno`: Rust expects it to be thread-local, WASI's C
/// library has one for all threads, and so Rust would read memory that may not exist. Compilers may move that read
/// even where nothing has failed.
#[cfg(target_arch = "wasm32")]
mod wasi {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        pub fn fd_write(fd: i32, pieces: *const [usize; 2], count: usize, out: *mut usize) -> i32;
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod wasi {
    pub unsafe fn fd_write(_: i32, _: *const [usize; 2], _: usize, _: *mut usize) -> i32 {
        panic!("there is no host for fd_write outside wasm")
    }
}

/// The ABI requires results to be 8-aligned.
#[repr(C, align(8))]
#[derive(Default)]
struct Out([i32; 2]);

fn check(code: i32) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}

/// Blocks until the host has news; `reason` is one of `abi::PARK_*`.
pub fn park(reason: i32) -> Parked {
    // SAFETY: takes and returns plain integers.
    match unsafe { import::park(reason) } {
        abi::PARKED_AGAIN => Parked::LookAgain,
        _ => Parked::Stop,
    }
}

/// Notifies the host that a reply is ready; called once for each `notify` it had set.
pub fn bell() {
    // SAFETY: takes and returns nothing.
    unsafe { import::bell() }
}

/// Writes to the standard output, a pipe watched by an event loop; `false` if nothing was written.
pub fn write_output(bytes: &[u8]) -> bool {
    const OUTPUT: i32 = 1;
    let mut written = 0;
    let piece = [bytes.as_ptr() as usize, bytes.len()];
    // SAFETY: the host reads one piece, its bytes, and writes the count.
    unsafe { wasi::fd_write(OUTPUT, &raw const piece, 1, &raw mut written) == 0 }
}

/// Fills `body` with the external body of request `id`.
pub fn payload(id: u32, body: &mut [u8]) -> Result<(), Code> {
    // SAFETY: the host writes at most `len` bytes to `ptr`.
    check(unsafe { import::payload(id, body.as_mut_ptr(), body.len()) })
}

/// Hands the body of the next reply frame over; an error means it is too large for the host.
pub fn spill(body: &[u8]) -> Result<(), Code> {
    // SAFETY: the host copies `len` bytes from `ptr` before it returns.
    check(unsafe { import::spill(body.as_ptr(), body.len()) })
}

/// Waits for a lock held by another connection; `true`: try again.
pub fn busy(attempt: i32) -> bool {
    // SAFETY: takes and returns plain integers.
    unsafe { import::busy(attempt) != 0 }
}

/// Sets how long `busy` waits, unless it is `abi::BUSY_TIMEOUT_KEEP`; returns the timeout in milliseconds.
pub fn busy_timeout(milliseconds: i32) -> i32 {
    // SAFETY: takes and returns plain integers.
    unsafe { import::busy_timeout(milliseconds) }
}

/// Waits without the event loop, and without WASI, whose timers hang in a forked child.
pub fn sleep(microseconds: i32) {
    // SAFETY: takes a plain integer.
    unsafe { import::sleep(microseconds) }
}

/// Seconds east of UTC at `seconds` since 1970, if the host knows.
pub fn localtime(seconds: i64) -> Option<i64> {
    // SAFETY: takes and returns plain integers.
    match unsafe { import::localtime(seconds) } {
        i64::MIN => None,
        offset => Some(offset),
    }
}

/// Logs a message with the host's logger.
pub fn log(message: &[u8]) {
    // SAFETY: the host copies `len` bytes from `ptr` before it returns.
    unsafe { import::log(message.as_ptr(), message.len()) }
}

/// Writes the absolute, NUL-terminated form of `name` to `full`.
pub fn path_full(name: &[u8], full: &mut [u8]) -> Result<(), Code> {
    // SAFETY: the host reads `len` bytes of the name and writes at most `cap` bytes.
    check(unsafe { import::path_full(name.as_ptr(), name.len(), full.as_mut_ptr(), full.len()) })
}

/// Opens a file, or an anonymous temporary one if `name` is empty; returns the flags it was opened with.
pub fn file_open(name: &[u8], flags: c_int) -> Result<(Fd, c_int), Code> {
    let mut out = Out::default();
    // SAFETY: the host reads `len` bytes of the name and writes the two words of `out`.
    check(unsafe { import::file_open(name.as_ptr(), name.len(), flags, &raw mut out.0) })?;
    let [fd, flags] = out.0;
    Ok((Fd(fd), flags))
}

pub fn file_close(fd: Fd) -> Result<(), Code> {
    // SAFETY: takes and returns plain integers.
    check(unsafe { import::file_close(fd.0) })
}

/// Fills `data` from `offset`; beyond the end of the file with zeros and `SQLITE_IOERR_SHORT_READ`.
pub fn file_read(fd: Fd, data: &mut [u8], offset: i64) -> Result<(), Code> {
    // SAFETY: the host writes at most `len` bytes to `ptr`.
    check(unsafe { import::file_read(fd.0, data.as_mut_ptr(), data.len(), offset) })
}

/// Writes all of `data`, or reports an error after an unknown part of it.
pub fn file_write(fd: Fd, data: &[u8], offset: i64) -> Result<(), Code> {
    // SAFETY: the host reads `len` bytes from `ptr`.
    check(unsafe { import::file_write(fd.0, data.as_ptr(), data.len(), offset) })
}

pub fn file_truncate(fd: Fd, size_bytes: i64) -> Result<(), Code> {
    // SAFETY: takes and returns plain integers.
    check(unsafe { import::file_truncate(fd.0, size_bytes) })
}

/// `flags`: `SQLITE_SYNC_*`, with `abi::SYNC_DIRECTORY` the file's directory too.
pub fn file_sync(fd: Fd, flags: c_int) -> Result<(), Code> {
    // SAFETY: takes and returns plain integers.
    check(unsafe { import::file_sync(fd.0, flags) })
}

pub fn file_size(fd: Fd) -> Result<i64, Code> {
    let mut size_bytes = 0_i64;
    // SAFETY: the host writes the one word.
    check(unsafe { import::file_size(fd.0, &raw mut size_bytes) })?;
    Ok(size_bytes)
}

pub fn file_delete(name: &[u8], sync_directory: bool) -> Result<(), Code> {
    // SAFETY: the host reads `len` bytes of the name.
    check(unsafe { import::file_delete(name.as_ptr(), name.len(), sync_directory.into()) })
}

/// `flags`: `SQLITE_ACCESS_*`.
pub fn file_access(name: &[u8], flags: c_int) -> Result<bool, Code> {
    let mut out = Out::default();
    // SAFETY: the host reads `len` bytes of the name and writes `out`.
    check(unsafe { import::file_access(name.as_ptr(), name.len(), flags, &raw mut out.0) })?;
    Ok(out.0[0] != 0)
}

/// Raises the lock to `level` (`SQLITE_LOCK_*`), more than shared, without waiting.
pub fn file_lock(fd: Fd, level: c_int) -> Result<(), Code> {
    let mut facts = [0; 2];
    // SAFETY: the host writes at most `facts`.
    check(unsafe { import::file_lock(fd.0, level, &raw mut facts) })
}

/// Takes a shared lock; returns the size of the file and which of `abi::FACT_*` may exist.
pub fn file_share(fd: Fd) -> Result<(i64, i32), Code> {
    let mut facts = [0; 2];
    // SAFETY: the host writes at most `facts`.
    check(unsafe { import::file_lock(fd.0, SHARED, &raw mut facts) })?;
    Ok((facts[0], facts[1] as i32))
}

/// `SQLITE_LOCK_SHARED`.
const SHARED: c_int = 1;

/// Lowers the lock to `level`: shared or none.
pub fn file_unlock(fd: Fd, level: c_int) -> Result<(), Code> {
    // SAFETY: takes and returns plain integers.
    check(unsafe { import::file_unlock(fd.0, level) })
}

/// Whether any connection, including this one, holds a reserved lock or a stronger one.
pub fn file_reserved(fd: Fd) -> Result<bool, Code> {
    let mut out = Out::default();
    // SAFETY: the host writes `out`.
    check(unsafe { import::file_reserved(fd.0, &raw mut out.0) })?;
    Ok(out.0[0] != 0)
}

/// Whether the file no longer has the name it was opened by.
pub fn file_moved(fd: Fd) -> Result<bool, Code> {
    let mut out = Out::default();
    // SAFETY: the host writes `out`.
    check(unsafe { import::file_moved(fd.0, &raw mut out.0) })?;
    Ok(out.0[0] != 0)
}

/// `flags`: `SQLITE_SHM_LOCK` with `SQLITE_SHM_SHARED` or `_EXCLUSIVE`; never waits. Returns the size of the database
/// under a shared lock on the first mark.
pub fn shm_lock(fd: Fd, first: c_int, count: c_int, flags: c_int) -> Result<Option<i64>, Code> {
    let mut size_bytes = -1_i64;
    // SAFETY: the host writes at most the one word.
    check(unsafe { import::shm_lock(fd.0, first, count, flags, &raw mut size_bytes) })?;
    Ok((size_bytes >= 0).then_some(size_bytes))
}

/// Releases locks of the WAL index, one bit each.
pub fn shm_unlock(fd: Fd, locks: u8) -> Result<(), Code> {
    // SAFETY: takes and returns plain integers.
    check(unsafe { import::shm_unlock(fd.0, locks.into()) })
}

/// Unmaps all regions of the WAL index and closes its file.
pub fn shm_unmap(fd: Fd, delete: bool) -> Result<(), Code> {
    // SAFETY: the regions stay the callers'; they become zeroed private memory.
    check(unsafe { import::shm_unmap(fd.0, delete.into()) })
}

/// Releases the locks that the reply to request `id` left to the host, unless the host has released them.
pub fn unlock(id: u32, fd: Fd, locks: u32) {
    // SAFETY: takes plain integers.
    unsafe { import::unlock(id, fd.0, locks) }
}

/// Calls what the argument block says, and has the answer put there (`callbacks::argument_block`).
pub fn callback() {
    // SAFETY: takes and returns nothing. The host reads the arguments that the block points to, and writes to
    // the block alone.
    unsafe { import::callback() }
}

/// What the host has put into the table at `index`: a function that takes and returns nothing, as these imports do.
pub fn table_function(index: u32) -> Option<extern "C" fn()> {
    if index == abi::NO_FUNCTION {
        return None;
    }
    // SAFETY: the host put a function of this type there before it said so. (A call through the table checks the
    // type in any case, and traps.)
    Some(unsafe { transmute::<usize, extern "C" fn()>(index as usize) })
}

/// Fills `answer` with the last callback's result, which was too large for the argument block.
pub fn callback_answer(answer: &mut [u8]) -> Result<(), Code> {
    // SAFETY: the host writes at most `len` bytes to `ptr`.
    check(unsafe { import::callback_answer(answer.as_mut_ptr(), answer.len()) })
}
