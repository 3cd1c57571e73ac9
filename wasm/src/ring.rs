//! The control block and the two rings in linear memory: take a request, put a reply.
//!
//! Layout: docs/abi.md, "Control block" and the two frames. Words that the host writes are read by atomic
//! loads only; the bytes of a frame are plain memory that the counters hand from one side to the other.
//! Nothing here waits: `reply` and `service` decide what to do with an empty or a full ring.

use core::cell::Cell;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::abi;

const CONTROL_WORDS: usize = abi::CONTROL_BYTES as usize / 4;
const FRAME_ALIGN: u32 = 8;
/// A skip frame is at least this long: length and a zero id.
const SKIP_HEADER_BYTES: u32 = 8;

/// The words that both sides know the addresses of.
#[repr(C, align(64))]
pub struct Control {
    words: [AtomicU32; CONTROL_WORDS],
}

impl Control {
    fn word(&self, offset: u32) -> &AtomicU32 {
        &self.words[offset as usize / 4]
    }

    /// Whether the host asked to be rung since the last time; the question is answered once.
    pub fn take_notify(&self) -> bool {
        self.word(abi::CONTROL_NOTIFY).swap(0, Ordering::SeqCst) != 0
    }

    pub fn is_stopped(&self) -> bool {
        self.word(abi::CONTROL_STOP).load(Ordering::Acquire) != 0
    }
}

/// The 8-aligned bytes of one ring, never freed: the host holds their address.
struct Memory {
    start: *mut u8,
    size: u32,
}

impl Memory {
    fn allocate(size: u32) -> Self {
        assert!(size.is_power_of_two() && size >= FRAME_ALIGN);
        let words = vec![0_u64; size as usize / 8];
        Self {
            start: words.leak().as_mut_ptr().cast(),
            size,
        }
    }

    /// Where the frame at `position` starts, and how many bytes follow until the ring's end.
    fn at(&self, position: u32) -> (*mut u8, u32) {
        let offset = position & (self.size - 1);
        // SAFETY: the offset is below the size of the allocation.
        (
            unsafe { self.start.add(offset as usize) },
            self.size - offset,
        )
    }

    fn address(&self) -> u32 {
        self.start as usize as u32
    }
}

/// Both rings and their control block, for one instance.
pub struct Rings {
    pub control: &'static Control,
    pub requests: RequestRing,
    pub replies: ReplyRing,
}

impl Rings {
    pub fn allocate(request_bytes: u32, reply_bytes: u32) -> Self {
        let control: &'static Control = Box::leak(Box::new(Control {
            words: [const { AtomicU32::new(0) }; CONTROL_WORDS],
        }));
        let requests = Memory::allocate(request_bytes);
        let replies = Memory::allocate(reply_bytes);
        for (offset, value) in [
            (abi::CONTROL_ABI_VERSION, abi::ABI_VERSION),
            (abi::CONTROL_REQUEST_RING, requests.address()),
            (abi::CONTROL_REQUEST_RING + 4, requests.size),
            (abi::CONTROL_REPLY_RING, replies.address()),
            (abi::CONTROL_REPLY_RING + 4, replies.size),
            (abi::CONTROL_MAGIC, abi::MAGIC),
        ] {
            control.word(offset).store(value, Ordering::Release);
        }
        Self {
            control,
            requests: RequestRing {
                control,
                memory: requests,
                tail: Cell::new(0),
            },
            replies: ReplyRing {
                control,
                memory: replies,
                head: Cell::new(0),
            },
        }
    }
}

/// A frame as the host wrote it; it stays in the ring until `RequestRing::release`.
pub struct Request<'r> {
    length: u32,
    pub id: u32,
    pub op: u8,
    pub flags: u8,
    pub format: u16,
    pub sql_len: usize,
    pub params_len: usize,
    pub a: u32,
    pub b: u32,
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
        unsafe { (*self.cancel).load(Ordering::Relaxed) != 0 }
    }
}

pub struct RequestRing {
    control: &'static Control,
    memory: Memory,
    tail: Cell<u32>,
}

impl RequestRing {
    /// Whether the host has written anything since the last frame taken.
    pub fn is_empty(&self) -> bool {
        self.head() == self.tail.get()
    }

    fn head(&self) -> u32 {
        self.control
            .word(abi::CONTROL_REQUEST_HEAD)
            .load(Ordering::Acquire)
    }

    /// The next request, if there is one. Give it back with `release` once it is answered.
    ///
    /// # Panics
    /// If the frame contradicts the contract: the two sides would not find each other again.
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

    /// Hands the frame back to the host.
    pub fn release(&self, request: Request<'_>) {
        self.advance(request.length);
    }

    fn advance(&self, length: u32) {
        self.tail.set(self.tail.get().wrapping_add(length));
        self.control
            .word(abi::CONTROL_REQUEST_TAIL)
            .store(self.tail.get(), Ordering::Release);
    }
}

/// # Safety
/// `frame` is 4-aligned, and readable for `offset + 4` bytes.
unsafe fn read_u32(frame: *const u8, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le(unsafe { frame.add(offset).cast::<u32>().read() })
}

/// # Safety
/// `frame` is 8-aligned and starts `length` bytes that nobody writes, but for the cancel word, during `'r`.
unsafe fn parse<'r>(frame: *mut u8, length: u32, id: u32) -> Request<'r> {
    assert!(
        length >= abi::REQUEST_HEADER_BYTES,
        "malformed request frame: length {length}"
    );
    let header_len = abi::REQUEST_HEADER_BYTES as usize;
    // SAFETY: the header lies in the frame; the cancel word is left out of every slice.
    let (flags, sql_len, params_len, a, b) = unsafe {
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
        a,
        b,
        // SAFETY: in the header.
        cancel: unsafe { frame.add(8) }.cast(),
        // SAFETY: checked above to lie in the frame.
        body: unsafe { slice::from_raw_parts(frame.add(header_len), body_len) },
    }
}

/// A reply's header; lengths are those of the body's two parts.
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
    pub changes: i64,
    pub total_changes: i64,
    pub last_insert_rowid: i64,
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
        bytes[32..40].copy_from_slice(&self.changes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.total_changes.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.last_insert_rowid.to_le_bytes());
        bytes
    }
}

pub struct ReplyRing {
    control: &'static Control,
    memory: Memory,
    head: Cell<u32>,
}

/// Ways a reply does not get into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl ReplyRing {
    /// Writes one frame and publishes it; `Full` if the host has to free room first.
    pub fn put(&self, header: &ReplyHeader, parts: [&[u8]; 2]) -> Result<(), Full> {
        let length = frame_length(parts);
        debug_assert!(
            length <= self.memory.size / 2,
            "a frame that large is spilled"
        );
        let tail = self
            .control
            .word(abi::CONTROL_REPLY_TAIL)
            .load(Ordering::Acquire);
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
            .store(self.head.get(), Ordering::Release);
        Ok(())
    }

    /// Copies `pieces` one after the other to the head; the caller checked that they fit.
    fn write(&self, pieces: &[&[u8]]) {
        let (mut place, contiguous) = self.memory.at(self.head.get());
        assert!(pieces.iter().map(|piece| piece.len()).sum::<usize>() <= contiguous as usize);
        for piece in pieces {
            // SAFETY: within the ring, as just asserted, and the host does not read past the head.
            unsafe {
                place.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                place = place.add(piece.len());
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

/// Test double of the host's side of the rings; here because it must see the words.
#[cfg(test)]
mod tests {
    use super::*;

    struct Host<'r> {
        rings: &'r Rings,
        head: u32,
        tail: u32,
    }

    impl<'r> Host<'r> {
        fn new(rings: &'r Rings) -> Self {
            Self {
                rings,
                head: 0,
                tail: 0,
            }
        }

        fn send(&mut self, id: u32, body: &[u8]) -> bool {
            let ring = &self.rings.requests;
            let length = (32 + body.len() as u32).next_multiple_of(8);
            let tail = ring
                .control
                .word(abi::CONTROL_REQUEST_TAIL)
                .load(Ordering::Acquire);
            let free = ring.memory.size - self.head.wrapping_sub(tail);
            let (mut place, contiguous) = ring.memory.at(self.head);
            let skipped = if length > contiguous { contiguous } else { 0 };
            if free < length + skipped {
                return false;
            }
            if skipped > 0 {
                // SAFETY: at least 8 bytes are left before the end.
                unsafe { place.cast::<[u32; 2]>().write([skipped, 0]) };
                self.head = self.head.wrapping_add(skipped);
                place = ring.memory.at(self.head).0;
            }
            let mut frame = vec![0_u8; length as usize];
            frame[0..4].copy_from_slice(&length.to_le_bytes());
            frame[4..8].copy_from_slice(&id.to_le_bytes());
            frame[12] = 3;
            frame[14..16].copy_from_slice(&9_u16.to_le_bytes());
            frame[16..20].copy_from_slice(&(body.len() as u32).to_le_bytes());
            frame[24..28].copy_from_slice(&7_u32.to_le_bytes());
            frame[32..32 + body.len()].copy_from_slice(body);
            // SAFETY: checked above to fit.
            unsafe { place.copy_from_nonoverlapping(frame.as_ptr(), frame.len()) };
            self.head = self.head.wrapping_add(length);
            ring.control
                .word(abi::CONTROL_REQUEST_HEAD)
                .store(self.head, Ordering::Release);
            true
        }

        /// The id and body of the next reply.
        fn receive(&mut self) -> Option<(u32, Vec<u8>)> {
            let ring = &self.rings.replies;
            loop {
                let head = ring
                    .control
                    .word(abi::CONTROL_REPLY_HEAD)
                    .load(Ordering::Acquire);
                if head == self.tail {
                    return None;
                }
                let (frame, contiguous) = ring.memory.at(self.tail);
                // SAFETY: the frame lies before the head.
                let (length, id) = unsafe { (read_u32(frame, 0), read_u32(frame, 4)) };
                assert!(length <= contiguous && length <= head.wrapping_sub(self.tail));
                let body = (id != 0).then(|| {
                    // SAFETY: as above.
                    let (columns, rows) = unsafe { (read_u32(frame, 12), read_u32(frame, 16)) };
                    let len = (columns + rows) as usize;
                    // SAFETY: as above.
                    unsafe { slice::from_raw_parts(frame.add(56), len) }.to_vec()
                });
                self.tail = self.tail.wrapping_add(length);
                ring.control
                    .word(abi::CONTROL_REPLY_TAIL)
                    .store(self.tail, Ordering::Release);
                if let Some(body) = body {
                    return Some((id, body));
                }
            }
        }
    }

    fn reply(rings: &Rings, id: u32, columns: &[u8], rows: &[u8]) -> Result<(), Full> {
        let header = ReplyHeader {
            id,
            columns_len: columns.len() as u32,
            rows_len: rows.len() as u32,
            ..ReplyHeader::default()
        };
        rings.replies.put(&header, [columns, rows])
    }

    #[test]
    fn requests_of_all_sizes_survive_many_wraps() {
        let rings = Rings::allocate(1024, 1024);
        let mut host = Host::new(&rings);

        for id in 1..5000_u32 {
            let body: Vec<u8> = (0..id % 400).map(|byte| byte as u8 ^ id as u8).collect();
            assert!(host.send(id, &body), "the ring is empty again and has room");
            let request = rings.requests.next().expect("it was sent");
            assert_eq!((request.id, request.body), (id, &body[..]));
            assert_eq!(
                (request.op, request.format, request.a, request.b),
                (3, 9, 7, 0)
            );
            rings.requests.release(request);
            assert!(rings.requests.is_empty());
        }
    }

    #[test]
    fn a_queued_request_waits_for_the_one_before() {
        let rings = Rings::allocate(1024, 1024);
        let mut host = Host::new(&rings);
        assert!(host.send(1, b"first") && host.send(2, b"second"));

        let first = rings.requests.next().expect("two were sent");
        let id_before_release = rings.requests.next().map(|request| request.id);
        rings.requests.release(first);
        let id_after_release = rings.requests.next().map(|request| request.id);

        assert_eq!((id_before_release, id_after_release), (Some(1), Some(2)));
    }

    #[test]
    fn a_cancel_word_belongs_to_its_frame() {
        let rings = Rings::allocate(1024, 1024);
        let mut host = Host::new(&rings);
        assert!(host.send(1, b"x"));
        let request = rings.requests.next().expect("it was sent");
        let before = request.is_cancelled();

        // SAFETY: the frame is in the ring.
        unsafe { &*request.cancel_word() }.store(1, Ordering::Release);

        assert_eq!((before, request.is_cancelled()), (false, true));
    }

    #[test]
    #[should_panic(expected = "malformed request frame")]
    fn a_length_past_the_head_is_refused() {
        let rings = Rings::allocate(1024, 1024);
        let mut host = Host::new(&rings);
        assert!(host.send(1, b"x"));
        // SAFETY: the first frame starts the ring.
        unsafe { rings.requests.memory.start.cast::<u32>().write(48) };

        let _ = rings.requests.next();
    }

    #[test]
    #[should_panic(expected = "malformed request frame")]
    fn a_body_longer_than_its_frame_is_refused() {
        let rings = Rings::allocate(1024, 1024);
        let mut host = Host::new(&rings);
        assert!(host.send(1, b"x"));
        // SAFETY: the first frame starts the ring; this is its `sql_len`.
        unsafe {
            rings
                .requests
                .memory
                .start
                .add(16)
                .cast::<u32>()
                .write(u32::MAX)
        };

        let _ = rings.requests.next();
    }

    #[test]
    fn replies_of_all_sizes_survive_many_wraps() {
        let rings = Rings::allocate(1024, 1024);
        let mut host = Host::new(&rings);

        for id in 1..5000_u32 {
            let columns = vec![id as u8; id as usize % 50];
            let rows = vec![!id as u8; id as usize % 390];
            reply(&rings, id, &columns, &rows).expect("the ring is empty");
            assert_eq!(host.receive(), Some((id, [columns, rows].concat())));
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_and_loses_nothing() {
        let rings = Rings::allocate(1024, 1024);
        let mut host = Host::new(&rings);
        let mut sent = 0;
        while reply(&rings, sent + 1, b"", &[1; 100]).is_ok() {
            sent += 1;
        }

        let received: Vec<u32> = core::iter::from_fn(|| host.receive())
            .map(|(id, _)| id)
            .collect();

        assert_eq!(received, (1..=sent).collect::<Vec<_>>());
        assert_eq!(sent, 6);
        assert_eq!(reply(&rings, 99, b"", &[1; 100]), Ok(()));
    }

    #[test]
    fn notify_is_taken_once() {
        let rings = Rings::allocate(64, 64);
        rings
            .control
            .word(abi::CONTROL_NOTIFY)
            .store(1, Ordering::Release);

        assert!(rings.control.take_notify());
        assert!(!rings.control.take_notify());
    }
}
