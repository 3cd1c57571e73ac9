//! One open file: what each of SQLite's methods does with the host and the buffer.
//! <https://sqlite.org/c3ref/io_methods.html>

use core::cell::RefCell;
use core::ffi::c_int;
use core::sync::atomic::{AtomicI64, Ordering};

use libsqlite3_sys as ffi;

use super::kept_locks::LockRequest;
use super::locks;
use super::shm::Shm;
use crate::abi;
use crate::host::{self, Code, Fd};
use crate::vfs::mapped_reads::MappedRanges;
use crate::vfs::temporary_buffer::TemporaryBuffer;
use crate::vfs::write_buffer::{Buffer, Source};
use crate::vfs::write_order::{Kind, WriteOrder};

// What SQLite has written and the host has not. Temporary files are exempt from the order that a crash must
// preserve.
static LASTING: Shared<Buffer> = Shared(RefCell::new(Buffer::new()));
static TEMPORARY: Shared<TemporaryBuffer> = Shared(RefCell::new(TemporaryBuffer::new()));

/// A record of a rollback journal begins with its page's number, in a write of its own.
const PAGE_NUMBER_BYTES: usize = 4;

/// Maximum size of a file. The host rejects what exceeds it, so such a write must not wait in a buffer, reported
/// as done.
static MOST_BYTES: AtomicI64 = AtomicI64::new(i64::MAX);

/// Sets the maximum size of any file; 0 is no limit.
pub fn limit_size(most_bytes: i64) {
    let most_bytes = if most_bytes == 0 {
        i64::MAX
    } else {
        most_bytes
    };
    MOST_BYTES.store(most_bytes, Ordering::Relaxed);
}

/// The buffer of several files. (`thread_local!` would need the C library's threads.)
struct Shared<B>(RefCell<B>);

// SAFETY: an instance is entered by one thread only.
unsafe impl<B> Sync for Shared<B> {}

impl<B> Shared<B> {
    fn with<T>(&self, action: impl FnOnce(&mut B) -> T) -> T {
        action(&mut self.0.borrow_mut())
    }
}

/// What the guest knows about an open file.
pub struct OpenFile {
    source: Source,
    /// The level SQLite was granted. After a failed attempt at EXCLUSIVE the host may hold PENDING.
    pub level: c_int,
    /// The file is a journal that may be new: its first sync must sync the directory too.
    sync_directory: bool,
    /// The size was requested after the last write. SQLite does so before it reads a journal's header to roll back the
    /// whole transaction, but not to roll back to a savepoint, after which the transaction continues.
    is_measured: bool,
    pub powersafe_overwrite: bool,
    pub persist_wal: bool,
    pub write_order: WriteOrder,
    shm: Shm,
    windows: MappedRanges,
}

impl OpenFile {
    /// `flags` are SQLite's, and `abi::OPEN_REMOTE`; `database` is the database of a journal or WAL.
    pub fn new(
        fd: Fd,
        name: &[u8],
        database: Option<Fd>,
        flags: c_int,
        powersafe_overwrite: bool,
    ) -> Self {
        let kind = kind_of(flags, name);
        if kind == Kind::Database {
            locks::open(fd, name.into(), flags & abi::OPEN_REMOTE == 0);
        }
        Self {
            source: Source {
                fd,
                database: database.unwrap_or(fd),
            },
            level: ffi::SQLITE_LOCK_NONE,
            sync_directory: flags & ffi::SQLITE_OPEN_CREATE != 0
                && matches!(kind, Kind::Journal | Kind::Wal),
            is_measured: false,
            powersafe_overwrite,
            persist_wal: false,
            write_order: WriteOrder::new(kind),
            shm: Shm::default(),
            windows: MappedRanges::default(),
        }
    }

    pub fn fd(&self) -> Fd {
        self.source.fd
    }

    pub fn read(&mut self, data: &mut [u8], offset: i64) -> Result<(), Code> {
        let fd = self.source.fd;
        if self.is_temporary() {
            return TEMPORARY
                .with(|buffer| buffer.read(fd, data, offset, host::file_write, host::file_read));
        }
        if self.write_order.kind() == Kind::Journal {
            return LASTING.with(|buffer| {
                if self.is_measured {
                    buffer.read_journal(fd, data, offset, host::file_write, host::file_read)
                } else {
                    buffer.read(fd, data, offset, host::file_write, host::file_read)
                }
            });
        }
        LASTING.with(|buffer| buffer.flush_range(fd, offset, data.len(), host::file_write))?;
        if self.windows.read(fd, data, offset) {
            return Ok(());
        }
        host::file_read(fd, data, offset)
    }

    pub fn write(&mut self, data: &[u8], offset: i64) -> Result<(), Code> {
        locks::forget_facts(self.source.fd);
        self.is_measured = false;
        if offset + data.len() as i64 > MOST_BYTES.load(Ordering::Relaxed) {
            LASTING.with(|buffer| buffer.flush(host::file_write))?;
            return host::file_write(self.source.fd, data, offset);
        }
        if self.is_temporary() {
            return TEMPORARY
                .with(|buffer| buffer.write(self.source, data, offset, host::file_write));
        }
        let urgent = self.write_order.of(data, offset);
        LASTING.with(|buffer| {
            let appends = buffer.is_continued_by(self.source.fd, offset);
            let written = buffer.write(self.source, data, offset, urgent, host::file_write);
            // A record may belong to a statement that alone is undone; without a header there is no commit.
            let is_header = !appends && data.len() != PAGE_NUMBER_BYTES;
            if written.is_err() && is_header && self.write_order.kind() == Kind::Journal {
                buffer.abandon(self.source.fd);
            }
            written
        })
    }

    fn is_temporary(&self) -> bool {
        self.write_order.kind() == Kind::Temporary
    }

    pub fn truncate(&mut self, size_bytes: i64) -> Result<(), Code> {
        locks::forget_facts(self.source.fd);
        if self.is_temporary() {
            TEMPORARY.with(|buffer| buffer.cut(self.source.fd, size_bytes));
        } else {
            LASTING.with(|buffer| {
                buffer.cut(self.source.fd, size_bytes);
                buffer.flush(host::file_write)
            })?;
        }
        self.windows.cut(size_bytes);
        host::file_truncate(self.source.fd, size_bytes)
    }

    pub fn sync(&mut self, flags: c_int) -> Result<(), Code> {
        if self.is_temporary() {
            // SQLite does not sync such files; another caller must get a true result.
            TEMPORARY.with(|buffer| buffer.flush(self.source.fd, host::file_write))?;
        }
        LASTING.with(|buffer| {
            let flushed = buffer.flush(host::file_write);
            // A journal is synced before SQLite writes to the database or commits, and before it rolls back a
            // transaction whose pages may be what cannot be written.
            if self.write_order.kind() == Kind::Journal && !buffer.abandon(self.source.fd) {
                return Ok(());
            }
            flushed
        })?;
        let directory = if self.sync_directory {
            abi::SYNC_DIRECTORY
        } else {
            0
        };
        host::file_sync(self.source.fd, flags | directory)?;
        self.sync_directory = false;
        Ok(())
    }

    pub fn size(&mut self) -> Result<i64, Code> {
        let fd = self.source.fd;
        self.is_measured = true;
        if self.is_temporary() {
            let size_bytes = host::file_size(fd)?;
            return Ok(TEMPORARY.with(|buffer| buffer.size(fd, size_bytes)));
        }
        let size_bytes = match locks::facts(fd) {
            Some(facts) => facts.size_bytes,
            None => host::file_size(fd)?,
        };
        // A rollback begins with this, on a disk that may be full: it must not fail.
        Ok(size_bytes.max(LASTING.with(|buffer| buffer.end_of(fd))))
    }

    pub fn lock(&mut self, level: c_int) -> Result<(), Code> {
        if self.level >= level {
            return Ok(());
        }
        let fd = self.source.fd;
        if level > ffi::SQLITE_LOCK_SHARED {
            locks::forget_facts(fd);
            locks::give_back();
            host::file_lock(fd, level)?;
        } else {
            locks::share_file(fd)?;
        }
        self.level = level;
        Ok(())
    }

    pub fn unlock(&mut self, level: c_int) -> Result<(), Code> {
        if self.level <= level {
            return Ok(());
        }
        let fd = self.source.fd;
        self.flush_before_unlock();
        if self.level > ffi::SQLITE_LOCK_SHARED || !locks::unshare_file(fd) {
            host::file_unlock(fd, level)?;
        }
        self.level = level;
        Ok(())
    }

    fn flush_before_unlock(&self) {
        LASTING.with(|buffer| buffer.flush_before_unlock(self.source.fd, host::file_write));
    }

    pub fn is_reserved(&mut self) -> Result<bool, Code> {
        if self.level > ffi::SQLITE_LOCK_SHARED {
            return Ok(true);
        }
        host::file_reserved(self.source.fd)
    }

    pub fn shm_map(&mut self, number: c_int, size: c_int, extend: bool) -> (*mut u8, c_int) {
        // With a WAL the file changes under its SHARED lock.
        locks::forget_facts(self.source.fd);
        self.shm.map(self.source.fd, number, size, extend)
    }

    pub fn shm_lock(&mut self, first: c_int, count: c_int, flags: c_int) -> Result<(), Code> {
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 && flags & ffi::SQLITE_SHM_EXCLUSIVE != 0 {
            self.flush_before_unlock();
        }
        let request = LockRequest {
            first,
            count,
            flags,
        };
        locks::index(self.source.fd, request)
    }

    pub fn shm_unmap(&mut self, delete: bool) -> Result<(), Code> {
        locks::give_back();
        let unmapped = self.shm.unmap(self.source.fd, delete);
        locks::close_index(self.source.fd); // even after an error
        unmapped
    }

    /// The file is closed even after an error.
    pub fn close(self) -> Result<(), Code> {
        TEMPORARY.with(|buffer| buffer.forget(self.source.fd));
        let flushed = LASTING.with(|buffer| {
            let flushed = buffer.flush_file(self.source.fd, host::file_write);
            buffer.forget(self.source.fd);
            flushed
        });
        drop(self.windows);
        locks::close(self.source.fd);
        host::file_close(self.source.fd)?;
        flushed
    }
}

/// SQLite gives no names to temporary files. What an extension opens by name as one must be written out all the same.
fn kind_of(flags: c_int, name: &[u8]) -> Kind {
    if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        Kind::Database
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        Kind::Wal
    } else if flags & (ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL) != 0
        || !name.is_empty()
    {
        Kind::Journal
    } else {
        Kind::Temporary
    }
}

/// Writes out everything that SQLite has written to non-temporary files.
pub fn flush() -> Result<(), Code> {
    LASTING.with(|buffer| buffer.flush(host::file_write))
}
