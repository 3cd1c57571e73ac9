//! The control block and the two rings in linear memory: take a request, put a reply.
//!
//! Layout: docs/abi.md, "Control block" and the two frames. Words that the host writes are read only by atomic
//! loads; the bytes of a frame are plain memory whose ownership the counters transfer. Each side publishes and
//! then checks what the other has published, so the words are sequentially consistent (docs/architecture.md, "No
//! lost wake-up").
//!
//! Nothing here waits: `reply` and `service` handle an empty or a full ring.

pub mod sleep;

pub mod reply;
pub mod request;

use core::sync::atomic::{AtomicU32, Ordering};
use std::alloc::{Layout, alloc};

use crate::abi;
use crate::host::Fd;
use reply::ReplyRing;
use request::RequestRing;

const CONTROL_WORDS: usize = abi::CONTROL_BYTES as usize / 4;
const FRAME_ALIGN: u32 = 8;

/// The words whose addresses both sides know, alone in their page: the host may map that page a second time.
#[repr(C, align(4096))]
pub struct Control {
    words: [AtomicU32; CONTROL_WORDS],
}

impl Control {
    fn word(&self, offset: u32) -> &AtomicU32 {
        &self.words[offset as usize / 4]
    }

    /// Whether the host has requested a bell since the last call; resets the request.
    pub fn take_notify(&self) -> bool {
        self.word(abi::CONTROL_NOTIFY).swap(0, Ordering::SeqCst) != 0
    }

    pub fn is_stopped(&self) -> bool {
        self.word(abi::CONTROL_STOP).load(Ordering::SeqCst) != 0
    }

    /// How many times to check for a request before sleeping; the host may change it at any time.
    pub fn spins(&self) -> u32 {
        self.word(abi::CONTROL_SPINS).load(Ordering::Relaxed)
    }

    /// The table index of the host's sleep function, 0 if it has none.
    pub fn sleep_function(&self) -> u32 {
        self.word(abi::CONTROL_SLEEP).load(Ordering::Relaxed)
    }

    /// Whether to ring by writing a byte to the standard output instead of calling the import.
    pub fn rings_by_writing(&self) -> bool {
        self.word(abi::CONTROL_BELL).load(Ordering::SeqCst) == abi::BELL_WRITES
    }

    /// Whether the host polls for the reply, and so can release locks as soon as it is there.
    pub fn host_polls(&self) -> bool {
        self.word(abi::CONTROL_POLLS).load(Ordering::SeqCst) != 0
    }

    /// Returns, once, the locks that the host has taken for the request sent after them.
    pub fn take_prelock(&self) -> Option<Prelock> {
        let load = |offset| self.word(offset).load(Ordering::SeqCst);
        let fd = self.word(abi::CONTROL_PRELOCK_FD).swap(0, Ordering::SeqCst);
        let [low, high] = [0, 4].map(|half| u64::from(load(abi::CONTROL_PRELOCK_SIZE + half)));
        (fd != 0).then(|| Prelock {
            fd: Fd::new(fd.cast_signed()),
            locks: load(abi::CONTROL_PRELOCK_LOCKS),
            companions: load(abi::CONTROL_PRELOCK_COMPANIONS).cast_signed(),
            size_bytes: (low | high << 32).cast_signed(),
        })
    }

    /// Announces that the guest is about to sleep, before its last check for news; or that it is awake.
    pub fn set_parked(&self, parked: bool) {
        self.word(abi::CONTROL_PARKED)
            .swap(parked.into(), Ordering::SeqCst);
    }
}

/// Locks on one database that the host has taken for a request, with the facts it saw under them.
#[derive(Clone, Copy, Debug)]
pub struct Prelock {
    pub fd: Fd,
    /// As in the control block: locks on the WAL index, and `abi::LOCKS_FILE`.
    pub locks: u32,
    pub companions: i32,
    pub size_bytes: i64,
}

/// The 8-aligned bytes of one ring, never freed: the host holds their address.
struct Memory {
    start: *mut u8,
    size: u32,
}

impl Memory {
    fn allocate(size: u32) -> Self {
        assert!(size.is_power_of_two() && size >= FRAME_ALIGN);
        let layout = Layout::from_size_align(size as usize, FRAME_ALIGN as usize)
            .expect("a ring's size and alignment are powers of two");
        // SAFETY: the layout is not empty. The bytes are not zeroed: that would touch pages that a short-lived
        // connection never uses, and a frame is only read once it was written.
        let start = unsafe { alloc(layout) };
        assert!(!start.is_null(), "there is no memory for the rings");
        Self { start, size }
    }

    /// The start of the frame at `position`, and the number of bytes from there to the ring's end.
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
    /// `argument_block` is published to the host with the rest.
    pub fn allocate(request_bytes: u32, reply_bytes: u32, argument_block: u32) -> Self {
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
            (abi::CONTROL_ARGUMENT_BLOCK, argument_block),
            (abi::CONTROL_MAGIC, abi::MAGIC),
        ] {
            control.word(offset).store(value, Ordering::Release);
        }
        Self {
            control,
            requests: RequestRing::new(control, requests),
            replies: ReplyRing::new(control, replies),
        }
    }
}

/// Test double of the host's side of the rings; here because it needs access to the words.
#[cfg(test)]
mod tests {
    use core::slice;

    use super::reply::{Full, ReplyHeader};
    use super::request::read_u32;
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
            let (mut start, contiguous) = ring.memory.at(self.head);
            let skipped = if length > contiguous { contiguous } else { 0 };
            if free < length + skipped {
                return false;
            }
            if skipped > 0 {
                // SAFETY: at least 8 bytes are left before the end.
                unsafe { start.cast::<[u32; 2]>().write([skipped, 0]) };
                self.head = self.head.wrapping_add(skipped);
                start = ring.memory.at(self.head).0;
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
            unsafe { start.copy_from_nonoverlapping(frame.as_ptr(), frame.len()) };
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
                    unsafe {
                        slice::from_raw_parts(frame.add(abi::REPLY_HEADER_BYTES as usize), len)
                    }
                    .to_vec()
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
        let rings = Rings::allocate(1024, 1024, 0);
        let mut host = Host::new(&rings);

        for id in 1..5000_u32 {
            let body: Vec<u8> = (0..id % 400).map(|byte| byte as u8 ^ id as u8).collect();
            assert!(host.send(id, &body), "the ring is empty again and has room");
            let request = rings.requests.next().expect("it was sent");
            assert_eq!((request.id, request.body), (id, &body[..]));
            assert_eq!(
                (request.op, request.format, request.target, request.argument),
                (3, 9, 7, 0)
            );
            rings.requests.release(request);
            assert!(rings.requests.is_empty());
        }
    }

    #[test]
    fn a_queued_request_waits_for_the_one_before() {
        let rings = Rings::allocate(1024, 1024, 0);
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
        let rings = Rings::allocate(1024, 1024, 0);
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
        let rings = Rings::allocate(1024, 1024, 0);
        let mut host = Host::new(&rings);
        assert!(host.send(1, b"x"));
        // SAFETY: the first frame starts the ring.
        unsafe { rings.requests.memory.start.cast::<u32>().write(48) };

        let _ = rings.requests.next();
    }

    #[test]
    #[should_panic(expected = "malformed request frame")]
    fn a_body_longer_than_its_frame_is_refused() {
        let rings = Rings::allocate(1024, 1024, 0);
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
        let rings = Rings::allocate(1024, 1024, 0);
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
        let rings = Rings::allocate(1024, 1024, 0);
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
        let rings = Rings::allocate(64, 64, 0);
        rings
            .control
            .word(abi::CONTROL_NOTIFY)
            .store(1, Ordering::Release);

        assert!(rings.control.take_notify());
        assert!(!rings.control.take_notify());
    }
}
