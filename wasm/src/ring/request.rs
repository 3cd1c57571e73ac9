//! Requests as the host wrote them: take one, answer it, release its frame.

use core::cell::Cell;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Control, FRAME_ALIGN, Memory};
use crate::abi;

/// A skip frame is at least this long: length and a zero id.
const SKIP_HEADER_BYTES: u32 = 8;

/// A frame as the host wrote it; it stays in the ring until `RequestRing::release`.
pub struct Request<'r> {
    length: u32,
    pub id: u32,
    pub op: u8,
    pub flags: u8,
    pub format: u16,
    pub sql_len: usize,
    pub params_len: usize,
    pub target: u32,
    pub argument: u32,
    cancel: *const AtomicU32,
    /// SQL, then parameters; empty if the body is external.
    pub body: &'r [u8],
}

impl Request<'_> {
    /// The word that the host sets to interrupt this request; valid until its frame is released.
    pub fn cancel_word(&self) -> *const AtomicU32 {
        self.cancel
    }

    pub fn is_cancelled(&self) -> bool {
        // SAFETY: the frame lives in the ring at least as long as `self`, and is 8-aligned.
        unsafe { (*self.cancel).load(Ordering::SeqCst) != 0 }
    }
}

pub struct RequestRing {
    pub(super) control: &'static Control,
    pub(super) memory: Memory,
    tail: Cell<u32>,
}

impl RequestRing {
    pub(super) fn new(control: &'static Control, memory: Memory) -> Self {
        Self {
            control,
            memory,
            tail: Cell::new(0),
        }
    }

    /// Whether the host has written anything since the last frame taken.
    pub fn is_empty(&self) -> bool {
        self.head() == self.tail.get()
    }

    /// Whether a request follows the one being answered.
    pub fn has_more_than(&self, request: &Request<'_>) -> bool {
        self.head() != self.tail.get().wrapping_add(request.length)
    }

    fn head(&self) -> u32 {
        self.control
            .word(abi::CONTROL_REQUEST_HEAD)
            .load(Ordering::SeqCst)
    }

    /// The next request, if there is one. Release it once it is answered.
    ///
    /// # Panics
    /// If the frame violates the contract: the two sides could not resynchronise.
    pub fn next(&self) -> Option<Request<'_>> {
        loop {
            let available = self.head().wrapping_sub(self.tail.get());
            if available == 0 {
                return None;
            }
            let (frame, contiguous) = self.memory.at(self.tail.get());
            // SAFETY: `frame` is 8-aligned with 8 bytes before the ring's end, all initialised.
            let (length, id) = unsafe { (read_u32(frame, 0), read_u32(frame, 4)) };
            let usable = available.min(contiguous);
            assert!(
                length % FRAME_ALIGN == 0 && (SKIP_HEADER_BYTES..=usable).contains(&length),
                "malformed request frame: length {length} of {usable}"
            );
            if id == 0 {
                self.advance(length);
                continue;
            }
            // SAFETY: `length` bytes from `frame` on lie in the ring and belong to the guest now.
            return Some(unsafe { parse(frame, length, id) });
        }
    }

    /// Returns the frame to the host.
    pub fn release(&self, request: Request<'_>) {
        self.advance(request.length);
    }

    fn advance(&self, length: u32) {
        self.tail.set(self.tail.get().wrapping_add(length));
        self.control
            .word(abi::CONTROL_REQUEST_TAIL)
            .store(self.tail.get(), Ordering::SeqCst);
    }
}

/// # Safety
/// `frame` is 4-aligned, and readable for `offset + 4` bytes.
pub(super) unsafe fn read_u32(frame: *const u8, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le(unsafe { frame.add(offset).cast::<u32>().read() })
}

/// # Safety
/// `frame` is 8-aligned and starts `length` bytes that are not written, except for the cancel word, during `'r`.
unsafe fn parse<'r>(frame: *mut u8, length: u32, id: u32) -> Request<'r> {
    assert!(
        length >= abi::REQUEST_HEADER_BYTES,
        "malformed request frame: length {length}"
    );
    let header_len = abi::REQUEST_HEADER_BYTES as usize;
    // SAFETY: the header lies in the frame; the cancel word is left out of every slice.
    let (flags, sql_len, params_len, target, argument) = unsafe {
        (
            read_u32(frame, 12),
            read_u32(frame, 16) as usize,
            read_u32(frame, 20) as usize,
            read_u32(frame, 24),
            read_u32(frame, 28),
        )
    };
    let [op, flags, format @ ..] = flags.to_le_bytes();
    let external = flags & abi::REQUEST_EXTERNAL != 0;
    let body_len = if external {
        0
    } else {
        sql_len.saturating_add(params_len)
    };
    assert!(
        body_len <= length as usize - header_len,
        "malformed request frame: a body of {body_len} in {length}"
    );
    Request {
        length,
        id,
        op,
        flags,
        format: u16::from_le_bytes(format),
        sql_len,
        params_len,
        target,
        argument,
        // SAFETY: in the header.
        cancel: unsafe { frame.add(8) }.cast(),
        // SAFETY: checked above to lie in the frame.
        body: unsafe { slice::from_raw_parts(frame.add(header_len), body_len) },
    }
}
