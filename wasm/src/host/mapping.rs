//! Imports that map files at addresses of the arena. What they do outlives the call, hence they are `unsafe`.

use core::ffi::c_int;
use core::ptr::NonNull;

use super::{Code, Fd, check, import};

/// Maps one region of the WAL index at the `size_bytes` from `address`, which is one of the arena's.
///
/// `Ok(false)`: the region does not exist and `extend` was false; nothing is mapped there.
///
/// # Safety
/// `address` starts a range of that size that belongs to the caller for good and is only
/// accessed through raw pointers: other processes change it at any time until `shm_unmap`.
pub unsafe fn shm_map(
    fd: Fd,
    region: c_int,
    size_bytes: c_int,
    extend: bool,
    address: NonNull<u8>,
) -> Result<bool, Code> {
    // SAFETY: the caller's promise.
    match unsafe { import::shm_map(fd.0, region, size_bytes, extend.into(), address.as_ptr()) } {
        0 => Ok(true),
        SHM_ABSENT => Ok(false),
        code => Err(code),
    }
}

/// `shm_map` without `extend` found no such region. `SQLITE_NOTFOUND` has no other meaning there.
const SHM_ABSENT: i32 = 12;

/// Maps a read-only window of the file from `offset` at the `len` bytes from `address`.
///
/// # Safety
/// `address` starts a range of `len` bytes that belongs to the caller for good, is only
/// read, and only through raw pointers: the file changes under it until `window_unmap`.
pub unsafe fn window_map(
    fd: Fd,
    address: NonNull<u8>,
    len: usize,
    offset: i64,
) -> Result<(), Code> {
    // SAFETY: the caller's promise.
    check(unsafe { import::window_map(fd.0, address.as_ptr(), len, offset) })
}

/// Takes a window off; its address cannot be touched any more.
///
/// # Safety
/// `address` and `len` come from a successful `window_map`.
pub unsafe fn window_unmap(address: NonNull<u8>, len: usize) -> Result<(), Code> {
    // SAFETY: the caller's promise.
    check(unsafe { import::window_unmap(address.as_ptr(), len) })
}
