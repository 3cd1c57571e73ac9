//! Combines writes to temporary files before they go to the host. <https://sqlite.org/tempfiles.html>
//!
//! Nobody else reads these files and no crash leaves them, so the order of writes to them does not matter. What cannot be
//! written, because the disk is full, stays in the buffer and is read from there. It belongs to a file whose pages SQLite
//! considers written, maybe a committed transaction's, and is no reason for operations on other files to fail.

use crate::host::{Code, Fd};
use crate::vfs::write_buffer::{Buffer, Sink, Source};

#[derive(Debug, Default)]
pub struct TemporaryBuffer(Buffer);

impl TemporaryBuffer {
    pub const fn new() -> Self {
        Self(Buffer::new())
    }

    /// Adds a write; after an error it counts as not done.
    pub fn write(
        &mut self,
        file: Source,
        data: &[u8],
        offset: i64,
        mut sink: impl Sink,
    ) -> Result<(), Code> {
        let Err(code) = self.0.write(file, data, offset, false, &mut sink) else {
            return Ok(());
        };
        if self.0.overwrite(file.fd, data, offset) {
            return Ok(());
        }
        if self.0.overlaps(file.fd, offset, data.len()) {
            return Err(code);
        }
        sink(file.fd, data, offset)
    }

    /// Fills `data` from `offset`, as `host::file_read`, which is `source`.
    pub fn read(
        &mut self,
        fd: Fd,
        data: &mut [u8],
        offset: i64,
        sink: impl Sink,
        source: impl FnOnce(Fd, &mut [u8], i64) -> Result<(), Code>,
    ) -> Result<(), Code> {
        self.0.read(fd, data, offset, sink, source)
    }

    /// Writes what is buffered for this file, or reports why that is impossible.
    pub fn flush(&mut self, fd: Fd, sink: impl Sink) -> Result<(), Code> {
        self.0.flush_file(fd, sink)
    }

    /// The size of a file that has `size_bytes` for the host.
    pub fn size(&self, fd: Fd, size_bytes: i64) -> i64 {
        size_bytes.max(self.0.end_of(fd))
    }

    /// Drops what is buffered beyond `size_bytes` of the file, which is about to be truncated there.
    pub fn cut(&mut self, fd: Fd, size_bytes: i64) {
        self.0.cut(fd, size_bytes);
    }

    /// Drops what is buffered for this file, which is closed.
    pub fn forget(&mut self, fd: Fd) {
        self.0.forget(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::write_buffer::SHORT_READ;

    const DATABASE: Source = Source {
        fd: Fd::new(1),
        database: Fd::new(1),
    };
    const SORTER: Source = Source {
        fd: Fd::new(2),
        database: Fd::new(2),
    };
    const FULL: Code = 13;

    fn full(_: Fd, _: &[u8], _: i64) -> Result<(), Code> {
        Err(FULL)
    }

    /// A file of the host's that has these bytes.
    fn file(content: &[u8]) -> impl FnOnce(Fd, &mut [u8], i64) -> Result<(), Code> + '_ {
        |_, data, offset| {
            let rest = content.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(data.len());
            data.fill(0);
            data[..len].copy_from_slice(&rest[..len]);
            if len < data.len() {
                Err(SHORT_READ)
            } else {
                Ok(())
            }
        }
    }

    #[test]
    fn what_cannot_be_written_is_read_from_the_buffer() {
        let mut buffer = TemporaryBuffer::default();
        buffer.write(DATABASE, b"committed", 4, full).unwrap();

        let mut data = [0; 9];
        assert_eq!(
            buffer.read(DATABASE.fd, &mut data, 4, full, file(b"")),
            Ok(())
        );
        assert_eq!(&data, b"committed");
        let mut data = [0; 8];
        assert_eq!(
            buffer.read(DATABASE.fd, &mut data, 0, full, file(b"old.old.")),
            Ok(())
        );
        assert_eq!(&data, b"old.comm");
        let beyond = buffer.read(DATABASE.fd, &mut data, 8, full, file(b""));
        assert_eq!((&data, beyond), (b"itted\0\0\0", Err(SHORT_READ)));
        assert_eq!(buffer.size(DATABASE.fd, 8), 13);
        assert_eq!(buffer.size(SORTER.fd, 8), 8);
    }

    #[test]
    fn it_keeps_nothing_else_from_being_written() {
        let mut buffer = TemporaryBuffer::default();
        buffer.write(DATABASE, b"committed", 100, full).unwrap();
        let mut written = Vec::new();
        let mut only_sorter = |fd: Fd, data: &[u8], offset: i64| {
            if fd == DATABASE.fd && offset == 100 {
                return Err(FULL);
            }
            written.push((fd, data.to_vec(), offset));
            Ok(())
        };

        buffer.write(SORTER, b"run", 0, &mut only_sorter).unwrap();
        buffer
            .write(DATABASE, b"page", 0, &mut only_sorter)
            .unwrap();
        buffer.write(DATABASE, b"C", 100, &mut only_sorter).unwrap();
        assert_eq!(
            buffer.write(DATABASE, b"xx", 99, &mut only_sorter),
            Err(FULL)
        );

        let expected = vec![
            (SORTER.fd, b"run".to_vec(), 0),
            (DATABASE.fd, b"page".to_vec(), 0),
        ];
        assert_eq!(written, expected);
        let mut data = [0; 9];
        buffer
            .read(DATABASE.fd, &mut data, 100, full, file(b""))
            .unwrap();
        assert_eq!(&data, b"Committed");
    }

    #[test]
    fn a_rollback_and_the_end_of_a_file_drop_it() {
        let mut buffer = TemporaryBuffer::default();
        buffer.write(DATABASE, b"committed", 0, full).unwrap();
        buffer.cut(DATABASE.fd, 3);
        assert_eq!(buffer.size(DATABASE.fd, 0), 3);
        buffer.forget(DATABASE.fd);
        assert_eq!(buffer.size(DATABASE.fd, 0), 0);
    }
}
