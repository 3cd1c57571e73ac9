//! Which writes must reach the host before they are reported to SQLite as done.
//!
//! A write error can only be reported by the write itself or by a later call that SQLite makes before it relies on
//! the write. So a write may wait only if such a call is certain to follow.

/// What SQLite uses a file for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Database,
    /// A rollback journal or a super-journal.
    Journal,
    Wal,
    /// A file that is never read after a crash.
    Temporary,
}

/// Bytes of a WAL frame before its page: <https://sqlite.org/fileformat2.html#the_write_ahead_log>.
const FRAME_HEADER_BYTES: usize = 24;

/// Follows the writes to one file.
#[derive(Debug)]
pub struct WriteOrder {
    kind: Kind,
    /// Where the last write ended.
    end: i64,
    /// The WAL frame being written ends a transaction.
    commits: bool,
    /// How much of that frame's page is written; none outside of a frame.
    written: Option<usize>,
    page_bytes: usize,
    checkpoint: bool,
}

impl WriteOrder {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            end: -1,
            commits: false,
            written: None,
            page_bytes: 0,
            checkpoint: false,
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A checkpoint begins or ends: pages are copied from the WAL to this database.
    pub fn set_checkpoint(&mut self, running: bool) {
        self.checkpoint = running;
    }

    /// Records the next write and returns whether it is urgent.
    pub fn of(&mut self, data: &[u8], offset: i64) -> bool {
        let appended = offset == self.end;
        self.end = offset + data.len() as i64;
        match self.kind {
            // Before it commits, SQLite requests SYNC, even with `synchronous=OFF`. A checkpoint ends with a store
            // to shared memory that tells readers to use the database: then nothing may wait.
            Kind::Database => self.checkpoint,
            // The start of a journal is overwritten to end a transaction (`journal_mode=PERSIST`), and with
            // `synchronous=OFF` no call follows. Records wait for the sync or for writes to the database.
            Kind::Journal => offset == 0,
            Kind::Wal => self.of_wal(data, appended),
            Kind::Temporary => false,
        }
    }

    /// Once a transaction's last frame is written, SQLite publishes it in shared memory. A frame header that is
    /// overwritten with a new checksum may have been published before.
    fn of_wal(&mut self, data: &[u8], appended: bool) -> bool {
        let written = self.written.take().filter(|_| appended);
        if written.is_none() && data.len() == FRAME_HEADER_BYTES {
            self.commits = data[4..8] != [0; 4];
            self.written = Some(0);
            return !appended;
        }
        if let Some(before) = written {
            // Only repetitions of a transaction's last frame, which fill a sector, are written in parts, and a part may
            // be as long as a header. The page has been written as a whole before.
            let written = before + data.len();
            self.page_bytes = self.page_bytes.max(data.len());
            self.written = (self.commits && written < self.page_bytes).then_some(written);
        }
        self.commits || !appended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(size_after_commit: u32) -> [u8; FRAME_HEADER_BYTES] {
        let mut header = [7; FRAME_HEADER_BYTES];
        header[4..8].copy_from_slice(&size_after_commit.to_be_bytes());
        header
    }

    #[test]
    fn frames_wait_until_the_one_that_commits_is_whole() {
        let mut wal = WriteOrder::new(Kind::Wal);
        assert!(wal.of(&[0; 32], 0), "the log's own header");
        assert!(!wal.of(&header(0), 32));
        assert!(!wal.of(&[1; 512], 56));
        assert!(!wal.of(&header(9), 568));
        assert!(wal.of(&[2; 512], 592));
        assert!(!wal.of(&header(0), 1104), "the next transaction");
    }

    #[test]
    fn a_page_written_in_two_parts_is_urgent_to_the_end() {
        let mut wal = WriteOrder::new(Kind::Wal);
        wal.of(&header(3), 32);
        assert!(wal.of(&[1; 100], 56));
        assert!(wal.of(&[1; 412], 156));
    }

    #[test]
    fn a_part_of_a_page_is_no_header() {
        for (first, second) in [(488, 24), (24, 488)] {
            let mut wal = WriteOrder::new(Kind::Wal);
            wal.of(&header(3), 32);
            assert!(wal.of(&[0; 512], 56));
            wal.of(&header(3), 568);
            assert!(wal.of(&vec![0; first], 592));
            assert!(wal.of(&vec![0; second], 592 + first as i64));
            assert!(!wal.of(&header(0), 1104), "the next transaction");
            assert!(!wal.of(&[0; 512], 1128));
        }
    }

    #[test]
    fn overwritten_frames_are_urgent() {
        let mut wal = WriteOrder::new(Kind::Wal);
        wal.of(&header(0), 32);
        wal.of(&[1; 512], 56);
        assert!(wal.of(&header(0), 32));
        assert!(
            wal.of(&header(2), 568),
            "rewritten, its page is already in place"
        );
    }

    #[test]
    fn the_start_of_a_journal_is_urgent() {
        let mut journal = WriteOrder::new(Kind::Journal);
        assert!(journal.of(&[1; 512], 0));
        assert!(!journal.of(&[1; 4], 512));
        assert!(journal.of(&[0; 28], 0));
    }

    #[test]
    fn databases_wait_except_in_a_checkpoint() {
        let mut database = WriteOrder::new(Kind::Database);
        assert!(!database.of(&[1; 512], 0));
        database.set_checkpoint(true);
        assert!(database.of(&[1; 512], 512));
        database.set_checkpoint(false);
        assert!(!database.of(&[1; 512], 1024));
        assert!(!WriteOrder::new(Kind::Temporary).of(&[1], 0));
    }
}
