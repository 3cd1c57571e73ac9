//! The methods of `sqlite3_file` (<https://sqlite.org/c3ref/io_methods.html>): from C to `OpenFile` and back.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::slice;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::joined;
use crate::host::{self, Fd, code};
use crate::vfs::file;
use crate::vfs::file::OpenFile;
use crate::vfs::shm;

pub const VFS_NAME: &CStr = c"rapsqlite";

/// What SQLite reserves for each file it opens.
pub const SIZE_BYTES: c_int = size_of::<File>() as c_int;

/// The smallest unit the device writes; SQLite's default for Unix.
const SECTOR_BYTES: c_int = 4096;

/// SQLite's object, in memory that SQLite owns.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    open: Box<OpenFile>,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// `xOpen` of the VFS.
pub unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: `file` has room for `SIZE_BYTES`. Without methods SQLite will not close it.
    unsafe { (*file).pMethods = core::ptr::null() };
    let bytes = if name.is_null() {
        &[][..]
    } else {
        // SAFETY: SQLite passes a terminated name that outlives the call.
        unsafe { CStr::from_ptr(name) }.to_bytes()
    };
    let (fd, granted) = match open_at_host(name, bytes, flags) {
        Ok(opened) => opened,
        Err(code) => return code,
    };
    let powersafe_overwrite = uri_boolean(name, flags, c"psow", true);
    let open = Box::new(OpenFile::new(
        fd,
        bytes,
        database_of(name, flags),
        flags | granted & abi::OPEN_REMOTE,
        powersafe_overwrite,
    ));
    // SAFETY: as above; `out_flags` is null or the address of an int that SQLite owns.
    unsafe {
        if let Some(out) = out_flags.as_mut() {
            *out = granted & !abi::OPEN_REMOTE;
        }
        file.cast::<File>().write(File {
            base: ffi::sqlite3_file { pMethods: &METHODS },
            open,
        });
    }
    ffi::SQLITE_OK
}

/// Passes on the URI parameters that affect how the host opens the file: <https://sqlite.org/uri.html>
fn open_at_host(
    name: ffi::sqlite3_filename,
    bytes: &[u8],
    flags: c_int,
) -> Result<(Fd, c_int), host::Code> {
    if flags & ffi::SQLITE_OPEN_URI == 0 {
        return host::file_open(bytes, flags);
    }
    let mut asked = flags;
    if uri_boolean(name, flags, c"readonly_shm", false) {
        asked |= abi::OPEN_INDEX_READONLY;
    }
    // SAFETY: with SQLITE_OPEN_URI the name carries parameters in SQLite's own layout.
    let model = unsafe { ffi::sqlite3_uri_parameter(name, c"modeof".as_ptr()) };
    if model.is_null() {
        return host::file_open(bytes, asked);
    }
    // SAFETY: a parameter's value is terminated and lives as long as the name.
    let model = unsafe { CStr::from_ptr(model) }.to_bytes();
    let both = joined(&[bytes, b"\0", model]).map_err(|_| ffi::SQLITE_NOMEM)?;
    host::file_open(&both, asked)
}

/// The database of a journal or WAL that is being opened.
fn database_of(name: ffi::sqlite3_filename, flags: c_int) -> Option<Fd> {
    if flags & (ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_WAL) == 0 {
        return None;
    }
    // SAFETY: SQLite opens these by names from its pager, through which it finds the database's file.
    let file = unsafe { ffi::sqlite3_database_file_object(name) };
    // SAFETY: it is one of ours, and open for as long as its journal is.
    Some(unsafe { opened(file) }.fd())
}

fn uri_boolean(name: ffi::sqlite3_filename, flags: c_int, key: &CStr, default: bool) -> bool {
    if flags & ffi::SQLITE_OPEN_URI == 0 {
        return default;
    }
    // SAFETY: with SQLITE_OPEN_URI the name carries parameters in SQLite's own layout.
    unsafe { ffi::sqlite3_uri_boolean(name, key.as_ptr(), default.into()) != 0 }
}

/// # Safety
/// `file` was filled in by `open` and is not yet closed; SQLite calls one method at a time.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: the caller's promise.
    unsafe { &mut (*file.cast::<File>()).open }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see `opened`; SQLite forgets the file once its methods are gone.
    let file = unsafe {
        (*file).pMethods = core::ptr::null();
        file.cast::<File>().read()
    };
    code(file.open.close())
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    data: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see `opened`; SQLite passes `len` bytes that it owns.
    let (open, data) = unsafe {
        (
            opened(file),
            slice::from_raw_parts_mut(data.cast::<u8>(), len as usize),
        )
    };
    code(open.read(data, offset))
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see `opened`; SQLite passes `len` bytes that it owns.
    let (open, data) = unsafe {
        (
            opened(file),
            slice::from_raw_parts(data.cast::<u8>(), len as usize),
        )
    };
    code(open.write(data, offset))
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see `opened`.
    code(unsafe { opened(file) }.truncate(size))
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: see `opened`.
    code(unsafe { opened(file) }.sync(flags))
}

unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see `opened`.
    let measured = unsafe { opened(file) }.size();
    // SAFETY: `size` is the address of an integer that SQLite owns.
    code(measured.map(|bytes| unsafe { *size = bytes }))
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see `opened`.
    code(unsafe { opened(file) }.lock(level))
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see `opened`.
    code(unsafe { opened(file) }.unlock(level))
}

unsafe extern "C" fn check_reserved_lock(
    file: *mut ffi::sqlite3_file,
    answer: *mut c_int,
) -> c_int {
    // SAFETY: see `opened`.
    let held = unsafe { opened(file) }.is_reserved();
    // SAFETY: `answer` is the address of an int that SQLite owns.
    code(held.map(|held| unsafe { *answer = held.into() }))
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    op: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: see `opened`. The type behind `argument` is fixed by `op`:
    // <https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>
    unsafe {
        let open = opened(file);
        match op {
            // All pages of a transaction are written; it is about to commit.
            ffi::SQLITE_FCNTL_SYNC => return code(file::flush()),
            ffi::SQLITE_FCNTL_CKPT_START => open.write_order.set_checkpoint(true),
            ffi::SQLITE_FCNTL_CKPT_DONE => open.write_order.set_checkpoint(false),
            ffi::SQLITE_FCNTL_LOCKSTATE => *argument.cast::<c_int>() = open.level,
            ffi::SQLITE_FCNTL_PERSIST_WAL => {
                exchange(&mut open.persist_wal, argument.cast());
            }
            ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE => {
                exchange(&mut open.powersafe_overwrite, argument.cast());
            }
            ffi::SQLITE_FCNTL_HAS_MOVED => match host::file_moved(open.fd()) {
                Ok(moved) => *argument.cast::<c_int>() = moved.into(),
                Err(code) => return code,
            },
            ffi::SQLITE_FCNTL_VFSNAME => {
                let format: *const c_char = VFS_NAME.as_ptr();
                *argument.cast::<*mut c_char>() = ffi::sqlite3_mprintf(format);
            }
            _ => return ffi::SQLITE_NOTFOUND,
        }
    }
    ffi::SQLITE_OK
}

/// Reports the flag if `*value` is negative, otherwise sets it.
///
/// # Safety
/// `value` is valid for reads and writes.
unsafe fn exchange(flag: &mut bool, value: *mut c_int) {
    // SAFETY: the caller's promise.
    let value = unsafe { &mut *value };
    match *value {
        ..0 => *value = (*flag).into(),
        new => *flag = new != 0,
    }
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    SECTOR_BYTES
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see `opened`.
    let open = unsafe { opened(file) };
    let powersafe = if open.powersafe_overwrite {
        ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
    } else {
        0
    };
    ffi::SQLITE_IOCAP_SUBPAGE_READ | powersafe
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    number: c_int,
    size: c_int,
    extend: c_int,
    target: *mut *mut c_void,
) -> c_int {
    // SAFETY: see `opened`.
    let (address, code) = unsafe { opened(file) }.shm_map(number, size, extend != 0);
    // SAFETY: `target` is the address of a pointer that SQLite owns.
    unsafe { *target = address.cast() };
    code
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: see `opened`.
    code(unsafe { opened(file) }.shm_lock(first, count, flags))
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    shm::barrier();
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: see `opened`.
    code(unsafe { opened(file) }.shm_unmap(delete != 0))
}
