//! One open file: the methods of `sqlite3_file` (<https://sqlite.org/c3ref/io_methods.html>).

use core::ffi::{CStr, c_char, c_int, c_void};
use core::slice;

use libsqlite3_sys as ffi;

use super::registration::code;
use super::shm::{self, Shm};
use crate::abi;
use crate::host::{self, Code, Fd};

pub const VFS_NAME: &CStr = c"rapsqlite";

/// What SQLite reserves for each file it opens.
pub const SIZE_BYTES: c_int = size_of::<File>() as c_int;

/// The smallest unit the device writes; SQLite's default for Unix.
const SECTOR_BYTES: c_int = 4096;

/// SQLite's object, in memory that SQLite owns.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    open: Box<Open>,
}

/// What the guest knows of an open file.
struct Open {
    fd: Fd,
    /// The level SQLite was granted. After a failed attempt at EXCLUSIVE the host may hold PENDING.
    level: c_int,
    /// The file is a journal that may be new: its first sync must sync the directory too.
    sync_directory: bool,
    powersafe_overwrite: bool,
    persist_wal: bool,
    shm: Shm,
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
    let (fd, granted) = match host::file_open(bytes, flags) {
        Ok(opened) => opened,
        Err(code) => return code,
    };
    let open = Box::new(Open {
        fd,
        level: ffi::SQLITE_LOCK_NONE,
        sync_directory: is_new_journal(flags),
        powersafe_overwrite: uri_boolean(name, flags, c"psow", true),
        persist_wal: false,
        shm: Shm::default(),
    });
    // SAFETY: as above; `out_flags` is null or the address of an int of SQLite's own.
    unsafe {
        if let Some(out) = out_flags.as_mut() {
            *out = granted;
        }
        file.cast::<File>().write(File {
            base: ffi::sqlite3_file { pMethods: &METHODS },
            open,
        });
    }
    ffi::SQLITE_OK
}

/// Whether the directory entry of a file opened with `flags` must survive a crash with its first sync.
fn is_new_journal(flags: c_int) -> bool {
    let journals =
        ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & journals != 0
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
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Open {
    // SAFETY: the caller's promise.
    unsafe { &mut (*file.cast::<File>()).open }
}

impl Open {
    fn read(&mut self, data: &mut [u8], offset: i64) -> Result<(), Code> {
        host::file_read(self.fd, data, offset)
    }

    fn write(&mut self, data: &[u8], offset: i64) -> Result<(), Code> {
        host::file_write(self.fd, data, offset)
    }

    fn truncate(&mut self, size_bytes: i64) -> Result<(), Code> {
        host::file_truncate(self.fd, size_bytes)
    }

    fn sync(&mut self, flags: c_int) -> Result<(), Code> {
        let directory = if self.sync_directory {
            abi::SYNC_DIRECTORY
        } else {
            0
        };
        host::file_sync(self.fd, flags | directory)?;
        self.sync_directory = false;
        Ok(())
    }

    fn lock(&mut self, level: c_int) -> Result<(), Code> {
        if self.level < level {
            host::file_lock(self.fd, level)?;
            self.level = level;
        }
        Ok(())
    }

    fn unlock(&mut self, level: c_int) -> Result<(), Code> {
        if self.level > level {
            host::file_unlock(self.fd, level)?;
            self.level = level;
        }
        Ok(())
    }

    fn reserved(&mut self) -> Result<bool, Code> {
        if self.level > ffi::SQLITE_LOCK_SHARED {
            return Ok(true);
        }
        host::file_reserved(self.fd)
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see `opened`; SQLite forgets the file once its methods are gone.
    let file = unsafe {
        (*file).pMethods = core::ptr::null();
        file.cast::<File>().read()
    };
    code(host::file_close(file.open.fd))
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    data: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see `opened`; SQLite passes `len` bytes of its own.
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
    // SAFETY: see `opened`; SQLite passes `len` bytes of its own.
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
    // SAFETY: see `opened`; `size` is the address of an integer of SQLite's own.
    match unsafe { host::file_size(opened(file).fd).map(|bytes| *size = bytes) } {
        Ok(()) => ffi::SQLITE_OK,
        Err(code) => code,
    }
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
    // SAFETY: see `opened`; `answer` is the address of an int of SQLite's own.
    match unsafe { opened(file).reserved().map(|held| *answer = held.into()) } {
        Ok(()) => ffi::SQLITE_OK,
        Err(code) => code,
    }
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
            ffi::SQLITE_FCNTL_LOCKSTATE => *argument.cast::<c_int>() = open.level,
            ffi::SQLITE_FCNTL_PERSIST_WAL => {
                exchange(&mut open.persist_wal, argument.cast());
            }
            ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE => {
                exchange(&mut open.powersafe_overwrite, argument.cast());
            }
            ffi::SQLITE_FCNTL_HAS_MOVED => match host::file_moved(open.fd) {
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

/// Reports the flag if `*value` is negative, else sets it.
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
    place: *mut *mut c_void,
) -> c_int {
    // SAFETY: see `opened`.
    let open = unsafe { opened(file) };
    let (address, code) = open.shm.map(open.fd, number, size, extend != 0);
    // SAFETY: `place` is the address of a pointer of SQLite's own.
    unsafe { *place = address.cast() };
    code
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: see `opened`.
    code(host::shm_lock(
        unsafe { opened(file) }.fd,
        first,
        count,
        flags,
    ))
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    shm::barrier();
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: see `opened`.
    let open = unsafe { opened(file) };
    code(open.shm.unmap(open.fd, delete != 0))
}
