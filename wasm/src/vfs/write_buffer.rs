//! Combines writes before they go to the host.
//!
//! SQLite writes in small pieces: a WAL frame's header, then its page. One buffer serves all lasting files of the
//! connection, another one temporary files (`temporary_buffer.rs`). It holds one contiguous range of one file. A write
//! that does not continue the range flushes it first, so the host sees all writes in SQLite's order, only in fewer
//! calls. A process killed at any point leaves files as it would have without the buffer, minus writes that SQLite had
//! not yet been promised (`write_order.rs` decides what is written immediately).
//!
//! Bytes that could not be written stay in the buffer, because SQLite considers them written. Until they are written or
//! their transaction is rolled back, nothing else is written: a journal's records must precede the pages they protect.

use crate::buffers::reserve;
use crate::host::{Code, Fd};

/// The range is flushed before it would grow beyond this.
pub const LIMIT_BYTES: usize = 256 * 1024;

/// `SQLITE_IOERR_SHORT_READ`: the file ends before, and the rest was filled with zeros.
pub const SHORT_READ: Code = 522;

/// The part of a journal that only the rollback of a whole transaction reads: <https://sqlite.org/fileformat2.html#the_rollback_journal>
const JOURNAL_HEADER_BYTES: i64 = 28;

/// Writes a range: file, bytes, offset.
pub trait Sink: FnMut(Fd, &[u8], i64) -> Result<(), Code> {}
impl<F: FnMut(Fd, &[u8], i64) -> Result<(), Code>> Sink for F {}

/// A file, and the database it belongs to: itself, or a journal's or WAL's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub fd: Fd,
    pub database: Fd,
}

#[derive(Debug, Default)]
pub struct Buffer {
    file: Option<Source>,
    offset: i64,
    data: Vec<u8>,
    /// The range holds journal records that cannot be written, and their transaction is being rolled back: they are
    /// only read.
    is_abandoned: bool,
}

impl Buffer {
    pub const fn new() -> Self {
        Self {
            file: None,
            offset: 0,
            data: Vec::new(),
            is_abandoned: false,
        }
    }

    /// Adds a write; after an error it counts as not done. An urgent one has reached the host on return.
    pub fn write(
        &mut self,
        file: Source,
        data: &[u8],
        offset: i64,
        urgent: bool,
        mut sink: impl Sink,
    ) -> Result<(), Code> {
        if self.is_abandoned {
            if !self.is_of(file.fd) {
                return sink(file.fd, data, offset);
            }
            self.clear(); // the end of the rollback
        }
        if !self.is_continued_by(file.fd, offset) || self.data.len() + data.len() > LIMIT_BYTES {
            self.flush(&mut sink)?;
            if urgent || data.len() > LIMIT_BYTES {
                return sink(file.fd, data, offset);
            }
            self.file = Some(file);
            self.offset = offset;
        }
        let before = self.data.len();
        if reserve(&mut self.data, data.len()).is_err() {
            self.flush(&mut sink)?;
            return sink(file.fd, data, offset);
        }
        self.data.extend_from_slice(data);
        if urgent && let Err(code) = self.flush(&mut sink) {
            self.data.truncate(before);
            return Err(code);
        }
        Ok(())
    }

    /// Prepares the rollback of this journal's transaction, which is needed because its records cannot be written.
    ///
    /// No page that they protect has been written, because the records would have been written first. They are still
    /// read, as SQLite restores pages in its cache from them. Returns whether there are any.
    pub fn abandon(&mut self, journal: Fd) -> bool {
        self.is_abandoned |= self.is_of(journal);
        self.is_abandoned
    }

    pub fn is_continued_by(&self, fd: Fd, offset: i64) -> bool {
        self.is_of(fd) && self.end() == offset
    }

    pub fn overlaps(&self, fd: Fd, offset: i64, len: usize) -> bool {
        self.is_of(fd) && offset < self.end() && self.offset < offset + len as i64
    }

    /// Writes over what is buffered, if all of these bytes are; `false` if they are not.
    pub fn overwrite(&mut self, fd: Fd, data: &[u8], offset: i64) -> bool {
        let end = offset + data.len() as i64;
        let lies_within = self.is_of(fd) && self.offset <= offset && end <= self.end();
        if lies_within {
            let start = (offset - self.offset) as usize;
            self.data[start..start + data.len()].copy_from_slice(data);
        }
        lies_within
    }

    /// Copies what is buffered to where it belongs in `data`, which begins at `offset`.
    pub fn lay_over(&self, data: &mut [u8], offset: i64) {
        let start = self.offset.max(offset);
        let end = self.end().min(offset + data.len() as i64);
        if start < end {
            let target = &mut data[(start - offset) as usize..(end - offset) as usize];
            let source = (start - self.offset) as usize..(end - self.offset) as usize;
            target.copy_from_slice(&self.data[source]);
        }
    }

    /// Where what is buffered for the file ends; 0 if there is nothing.
    pub fn end_of(&self, fd: Fd) -> i64 {
        if self.is_of(fd) { self.end() } else { 0 }
    }

    fn is_of(&self, fd: Fd) -> bool {
        self.file.is_some_and(|file| file.fd == fd)
    }

    fn end(&self) -> i64 {
        self.offset + self.data.len() as i64
    }

    /// Writes everything out.
    pub fn flush(&mut self, mut sink: impl Sink) -> Result<(), Code> {
        if self.is_abandoned {
            return Ok(());
        }
        if let Some(file) = self.file
            && !self.data.is_empty()
        {
            sink(file.fd, &self.data, self.offset)?;
        }
        self.clear();
        Ok(())
    }

    fn clear(&mut self) {
        self.file = None;
        self.is_abandoned = false;
        self.data.clear();
    }

    /// Writes everything out if it includes any of these bytes.
    pub fn flush_range(
        &mut self,
        fd: Fd,
        offset: i64,
        len: usize,
        sink: impl Sink,
    ) -> Result<(), Code> {
        if self.overlaps(fd, offset, len) {
            self.flush(sink)
        } else {
            Ok(())
        }
    }

    /// Fills `data` from `offset`, as `source` (`host::file_read`) does, including bytes that cannot be written.
    pub fn read(
        &mut self,
        fd: Fd,
        data: &mut [u8],
        offset: i64,
        sink: impl Sink,
        source: impl FnOnce(Fd, &mut [u8], i64) -> Result<(), Code>,
    ) -> Result<(), Code> {
        let flushed = self.flush_range(fd, offset, data.len(), sink);
        let mut read = source(fd, data, offset);
        let is_missing = flushed.is_err() || self.is_abandoned && self.is_of(fd);
        if is_missing && matches!(read, Ok(()) | Err(SHORT_READ)) {
            self.lay_over(data, offset);
            if self.end_of(fd) >= offset + data.len() as i64 {
                read = Ok(());
            }
        }
        read
    }

    /// The same for a rollback journal.
    pub fn read_journal(
        &mut self,
        fd: Fd,
        data: &mut [u8],
        offset: i64,
        mut sink: impl Sink,
        source: impl FnOnce(Fd, &mut [u8], i64) -> Result<(), Code>,
    ) -> Result<(), Code> {
        if offset < JOURNAL_HEADER_BYTES && self.flush_file(fd, &mut sink).is_err() {
            self.abandon(fd);
        }
        self.read(fd, data, offset, sink, source)
    }

    /// Writes everything out if it belongs to this file.
    pub fn flush_file(&mut self, fd: Fd, sink: impl Sink) -> Result<(), Code> {
        if self.is_of(fd) {
            self.flush(sink)
        } else {
            Ok(())
        }
    }

    /// Writes everything out before a lock on `database` is released; the buffer then holds nothing that the lock
    /// protected.
    ///
    /// What cannot be written by now belongs to a transaction that has ended in failure, because a commit is
    /// written before it is reported. Written later it would overwrite others' changes.
    pub fn flush_before_unlock(&mut self, database: Fd, sink: impl Sink) {
        let is_left = self.flush(sink).is_err() || self.is_abandoned;
        if is_left && self.file.is_some_and(|file| file.database == database) {
            self.clear();
        }
    }

    /// Drops what is buffered beyond `size_bytes` of the file, which is about to be truncated there.
    pub fn cut(&mut self, fd: Fd, size_bytes: i64) {
        if self.is_of(fd) {
            let kept = (size_bytes - self.offset).clamp(0, self.data.len() as i64);
            self.data.truncate(kept as usize);
            self.is_abandoned &= kept > 0;
        }
    }

    /// Drops what is buffered for this file, which is closed.
    pub fn forget(&mut self, fd: Fd) {
        if self.is_of(fd) {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const ONE: Source = Source {
        fd: Fd::new(1),
        database: Fd::new(10),
    };
    const TWO: Source = Source {
        fd: Fd::new(2),
        database: Fd::new(20),
    };
    const FULL: Code = 13;

    /// Files that a sink writes to, with the calls it got; fails from the n-th call on.
    #[derive(Default)]
    struct Disk {
        files: HashMap<i32, Vec<u8>>,
        calls: usize,
        fails: bool,
    }

    impl Disk {
        fn sink(&mut self) -> impl Sink + '_ {
            |fd: Fd, data: &[u8], offset: i64| {
                self.calls += 1;
                if self.fails {
                    return Err(FULL);
                }
                let file = self.files.entry(fd.number()).or_default();
                let end = offset as usize + data.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[offset as usize..end].copy_from_slice(data);
                Ok(())
            }
        }
    }

    #[test]
    fn contiguous_writes_go_out_as_one() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        for index in 0..10 {
            buffer
                .write(
                    ONE,
                    &[index; 100],
                    i64::from(index) * 100,
                    false,
                    disk.sink(),
                )
                .unwrap();
        }
        assert_eq!(disk.calls, 0);
        buffer
            .write(ONE, &[10; 24], 1000, true, disk.sink())
            .unwrap();
        assert_eq!((disk.calls, disk.files[&1].len()), (1, 1024));
        assert_eq!(buffer.file, None);
    }

    #[test]
    fn order_between_files_is_kept() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        buffer.write(ONE, b"first", 0, false, disk.sink()).unwrap();
        buffer.write(TWO, b"second", 0, false, disk.sink()).unwrap();
        assert_eq!(disk.files[&1], b"first");
        assert!(!disk.files.contains_key(&2));
        assert_eq!(buffer.file, Some(TWO));
    }

    #[test]
    fn gaps_and_rewinds_go_out_separately() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        buffer.write(ONE, b"abcdef", 0, false, disk.sink()).unwrap();
        buffer.write(ONE, b"XY", 2, false, disk.sink()).unwrap();
        buffer.write(ONE, b"!", 9, false, disk.sink()).unwrap();
        buffer.flush(disk.sink()).unwrap();
        assert_eq!(
            (disk.files[&1].as_slice(), disk.calls),
            (&b"abXYef\0\0\0!"[..], 3)
        );
    }

    #[test]
    fn the_range_stays_below_its_limit() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        for index in 0..100 {
            buffer
                .write(ONE, &[1; 4096], index * 4096, false, disk.sink())
                .unwrap();
            assert!(buffer.data.len() <= LIMIT_BYTES);
        }
        assert_eq!(disk.calls, 1);
        buffer
            .write(ONE, &vec![2; LIMIT_BYTES + 1], 0, false, disk.sink())
            .unwrap();
        assert_eq!((disk.calls, buffer.file), (3, None));
    }

    #[test]
    fn a_failed_write_is_not_done_and_earlier_ones_are_not_lost() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        buffer.write(ONE, b"kept", 0, false, disk.sink()).unwrap();
        disk.fails = true;
        assert_eq!(buffer.write(ONE, b"lost", 4, true, disk.sink()), Err(FULL));
        assert_eq!(buffer.write(TWO, b"lost", 0, false, disk.sink()), Err(FULL));
        assert_eq!(buffer.flush(disk.sink()), Err(FULL));
        disk.fails = false;
        buffer.flush(disk.sink()).unwrap();
        assert_eq!(disk.files, HashMap::from([(1, b"kept".to_vec())]));
    }

    #[test]
    fn only_what_is_asked_for_goes_out() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        buffer
            .write(ONE, &[0; 10], 100, false, disk.sink())
            .unwrap();
        for (fd, offset, len) in [(ONE.fd, 110, 5), (ONE.fd, 0, 100), (TWO.fd, 100, 10)] {
            buffer.flush_range(fd, offset, len, disk.sink()).unwrap();
        }
        buffer.flush_file(TWO.fd, disk.sink()).unwrap();
        assert_eq!(disk.calls, 0);
        buffer.flush_range(ONE.fd, 0, 101, disk.sink()).unwrap();
        assert_eq!(disk.calls, 1);
        buffer
            .write(ONE, &[0; 10], 100, false, disk.sink())
            .unwrap();
        buffer.flush_range(ONE.fd, 109, 1, disk.sink()).unwrap();
        assert_eq!(disk.calls, 2);
    }

    #[test]
    fn what_cannot_be_written_dies_with_its_own_lock() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        buffer.write(ONE, b"junk", 0, false, disk.sink()).unwrap();
        disk.fails = true;
        buffer.flush_before_unlock(TWO.database, disk.sink());
        assert_eq!(buffer.file, Some(ONE), "another database's lock");
        buffer.flush_before_unlock(ONE.database, disk.sink());
        disk.fails = false;
        buffer.flush(disk.sink()).unwrap();
        assert!(disk.files.is_empty());
    }

    #[test]
    fn records_that_cannot_be_written_are_read_until_the_transaction_is_rolled_back() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        disk.sink()(ONE.fd, &[0; 512], 0).unwrap();
        buffer
            .write(ONE, b"records", 512, false, disk.sink())
            .unwrap();
        disk.fails = true;
        let on_disk = |_: Fd, data: &mut [u8], _: i64| {
            data.fill(0);
            Err(SHORT_READ)
        };
        let mut data = [9; 4];
        buffer
            .read_journal(ONE.fd, &mut data, 515, disk.sink(), on_disk)
            .unwrap();
        assert_eq!((&data, buffer.end_of(ONE.fd)), (b"ords", 519));
        assert_eq!(
            buffer.write(TWO, b"page", 0, false, disk.sink()),
            Err(FULL),
            "its record is not on the disk"
        );

        let header = |_: Fd, _: &mut [u8], _: i64| Ok(());
        buffer
            .read_journal(ONE.fd, &mut data, 8, disk.sink(), header)
            .unwrap();
        disk.fails = false;
        buffer.write(TWO, b"page", 0, false, disk.sink()).unwrap();
        buffer.flush(disk.sink()).unwrap();
        assert_eq!(disk.files[&2], b"page", "restored at once");
        buffer
            .read_journal(ONE.fd, &mut data, 512, disk.sink(), on_disk)
            .unwrap();
        assert_eq!(&data, b"reco");
        buffer.write(ONE, &[0; 28], 0, true, disk.sink()).unwrap();
        assert_eq!((disk.files[&1].len(), buffer.file), (512, None));
    }

    #[test]
    fn cutting_forgets_what_lies_beyond() {
        let (mut buffer, mut disk) = (Buffer::default(), Disk::default());
        buffer
            .write(ONE, b"0123456789", 100, false, disk.sink())
            .unwrap();
        buffer.cut(TWO.fd, 0);
        buffer.cut(ONE.fd, 104);
        buffer.flush(disk.sink()).unwrap();
        assert_eq!(&disk.files[&1][100..], b"0123");
        buffer.write(ONE, b"x", 50, false, disk.sink()).unwrap();
        buffer.cut(ONE.fd, 50);
        buffer.flush(disk.sink()).unwrap();
        assert_eq!(disk.calls, 1);
    }

    /// Any sequence of writes, followed by a flush, leaves the same files as writing directly.
    #[test]
    fn the_files_are_those_of_unbuffered_writes() {
        let (mut buffer, mut disk, mut direct) =
            (Buffer::default(), Disk::default(), Disk::default());
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut offset = 0;
        for step in 0..20_000_u64 {
            let file = if random(20) == 0 { TWO } else { ONE };
            offset = if random(4) == 0 {
                random(5000) as i64
            } else {
                offset
            };
            let data = vec![step as u8; 1 + random(300) as usize];
            buffer
                .write(file, &data, offset, random(10) == 0, disk.sink())
                .unwrap();
            direct.sink()(file.fd, &data, offset).unwrap();
            offset += data.len() as i64;
            if random(50) == 0 {
                buffer.flush(disk.sink()).unwrap();
                assert_eq!(disk.files, direct.files);
            }
        }
        assert!(disk.calls * 2 < direct.calls);
    }
}
