//! Replies as the host reads them: a header, then columns and rows.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use super::{Control, FRAME_ALIGN, Memory};
use crate::abi;

/// A reply's header, with the lengths of the body's two parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyHeader {
    pub id: u32,
    pub kind: u8,
    pub flags: u8,
    pub column_count: u16,
    pub columns_len: u32,
    pub rows_len: u32,
    pub row_count: u32,
    pub handle: u32,
    /// Number of the exception that a callback raised, or 0.
    pub failure: u32,
    pub changes: i64,
    pub total_changes: i64,
    pub last_insert_rowid: i64,
    /// The database, or 0, that the host is to unlock, and the locks (`vfs::kept_locks::Unlock`).
    pub unlock_fd: i32,
    pub unlock_locks: u32,
}

impl ReplyHeader {
    fn encoded(&self, length: u32) -> [u8; abi::REPLY_HEADER_BYTES as usize] {
        let mut bytes = [0; abi::REPLY_HEADER_BYTES as usize];
        bytes[0..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8] = self.kind;
        bytes[9] = self.flags;
        bytes[10..12].copy_from_slice(&self.column_count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.columns_len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.rows_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.row_count.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.handle.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.failure.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.changes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.total_changes.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.last_insert_rowid.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.unlock_fd.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.unlock_locks.to_le_bytes());
        bytes
    }
}

pub struct ReplyRing {
    pub(super) control: &'static Control,
    pub(super) memory: Memory,
    head: Cell<u32>,
}

/// Why a reply does not get into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl ReplyRing {
    pub(super) fn new(control: &'static Control, memory: Memory) -> Self {
        Self {
            control,
            memory,
            head: Cell::new(0),
        }
    }

    /// Writes one frame and publishes it; `Full` if the host has to free space first.
    pub fn put(&self, header: &ReplyHeader, parts: [&[u8]; 2]) -> Result<(), Full> {
        let length = frame_length(parts);
        debug_assert!(
            length <= self.memory.size / 2,
            "a frame that large is spilled"
        );
        let tail = self
            .control
            .word(abi::CONTROL_REPLY_TAIL)
            .load(Ordering::SeqCst);
        let free = self.memory.size - self.head.get().wrapping_sub(tail);
        let (_, contiguous) = self.memory.at(self.head.get());
        let skipped = if length > contiguous { contiguous } else { 0 };
        if free < length + skipped {
            return Err(Full);
        }
        if skipped > 0 {
            self.write(&[&skipped.to_le_bytes(), &[0; 4]]);
            self.head.set(self.head.get().wrapping_add(skipped));
        }
        self.write(&[&header.encoded(length), parts[0], parts[1]]);
        self.head.set(self.head.get().wrapping_add(length));
        self.control
            .word(abi::CONTROL_REPLY_HEAD)
            .store(self.head.get(), Ordering::SeqCst);
        Ok(())
    }

    /// Whether the host has taken every reply.
    pub fn is_empty(&self) -> bool {
        let tail = self.control.word(abi::CONTROL_REPLY_TAIL);
        tail.load(Ordering::SeqCst) == self.head.get()
    }

    /// Copies `pieces` one after the other to the head; the caller checked that they fit.
    fn write(&self, pieces: &[&[u8]]) {
        let (mut start, contiguous) = self.memory.at(self.head.get());
        assert!(pieces.iter().map(|piece| piece.len()).sum::<usize>() <= contiguous as usize);
        for piece in pieces {
            // SAFETY: within the ring, as just asserted, and the host does not read past the head.
            unsafe {
                start.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                start = start.add(piece.len());
            }
        }
    }
}

/// Bytes of a reply frame with these two parts as its body.
fn frame_length(parts: [&[u8]; 2]) -> u32 {
    let body = parts[0].len() + parts[1].len();
    let length = (abi::REPLY_HEADER_BYTES as usize + body).next_multiple_of(FRAME_ALIGN as usize);
    u32::try_from(length).expect("a larger body is spilled")
}
