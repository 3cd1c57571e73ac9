//! Sends the replies of one request: spills large bodies, waits for space, rings the bell.

use crate::abi;
use crate::buffers::joined;
use crate::error::{Error, Result, code};
use crate::host;
use crate::ring::Rings;
use crate::ring::reply::ReplyHeader;
use crate::ring::sleep;
use crate::vfs;

/// The counters of replies for `statistics`.
#[derive(Clone, Copy, Default)]
pub struct Counters {
    pub batches: u64,
    pub spills: u64,
    pub bells: u64,
    pub parks: u64,
    pub waits_for_room: u64,
}

/// The two parts of a reply's body.
#[derive(Clone, Copy, Default)]
pub struct Body<'a> {
    pub columns: &'a [u8],
    pub rows: &'a [u8],
}

pub struct Replies<'r> {
    rings: &'r Rings,
    left: bool,
    /// Bodies handed over outside the ring since it was last empty.
    spilled: u32,
    pub counters: Counters,
}

impl<'r> Replies<'r> {
    pub fn new(rings: &'r Rings) -> Self {
        Self {
            rings,
            left: false,
            spilled: 0,
            counters: Counters::default(),
        }
    }

    /// Whether the host wants the service loop to end.
    pub fn host_left(&self) -> bool {
        self.left
    }

    /// Puts a frame into the ring, once there is space, without notifying the host.
    pub fn put(&mut self, mut header: ReplyHeader, body: Body<'_>) -> Result<()> {
        let parts = match self.hand_over(&mut header, body)? {
            None => [body.columns, body.rows],
            Some(len) => [&body.columns[..len], &[]],
        };
        self.put_frame(&header, parts)
    }

    /// Writes the body's size to the header. A large body is handed over outside the ring: returned is how much of the columns
    /// goes into the frame all the same.
    pub fn hand_over(&mut self, header: &mut ReplyHeader, body: Body<'_>) -> Result<Option<usize>> {
        let too_large = |_| Error::limit(code::TOOBIG, "the result is too large for one reply");
        header.columns_len = u32::try_from(body.columns.len()).map_err(too_large)?;
        header.rows_len = u32::try_from(body.rows.len()).map_err(too_large)?;
        let inline = abi::REPLY_INLINE_BYTES as usize;
        if body.columns.len() + body.rows.len() <= inline {
            return Ok(None);
        }
        header.flags |= abi::REPLY_SPILLED;
        if body.columns.len() <= inline {
            self.spill(body.rows)?;
            return Ok(Some(body.columns.len()));
        }
        self.spill(&joined(&[body.columns, body.rows])?)?;
        Ok(Some(0))
    }

    pub fn put_frame(&mut self, header: &ReplyHeader, parts: [&[u8]; 2]) -> Result<()> {
        while self.rings.replies.put(header, parts).is_err() {
            self.wait_for_room()?;
        }
        Ok(())
    }

    /// Puts the last frame of a request into the ring; no lock of ours is held by the time its task gets it. `queued`:
    /// the next request is already in the ring.
    ///
    /// A host that polls for the frame releases the locks itself. Once it has stopped polling, it may take the frame
    /// much later: either it sees the frame after it has stopped, or the guest sees that it has stopped after it put
    /// the frame.
    pub fn put_last(
        &mut self,
        mut header: ReplyHeader,
        parts: [&[u8]; 2],
        queued: bool,
    ) -> Result<()> {
        let control = self.rings.control;
        if queued {
            vfs::between_statements();
            return self.put_frame(&header, parts);
        }
        // An empty ring has room for the frame, so nothing waits under the locks.
        let host_polls = self.rings.replies.is_empty() && control.host_polls();
        let Some(unlock) = vfs::after_statement(host_polls) else {
            return self.put_frame(&header, parts);
        };
        header.unlock_fd = unlock.fd.number();
        header.unlock_locks = unlock.locks;
        self.put_frame(&header, parts)?;
        if !control.host_polls() {
            host::unlock(header.id, unlock.fd, unlock.locks);
        }
        Ok(())
    }

    /// Hands a body over outside the ring, once the host has taken those before: it keeps but a few.
    fn spill(&mut self, body: &[u8]) -> Result<()> {
        while self.spilled >= abi::SPILLS_AT_ONCE && !self.rings.replies.is_empty() {
            self.wait_for_room()?;
        }
        if self.rings.replies.is_empty() {
            self.spilled = 0;
        }
        vfs::give_back_locks();
        self.counters.spills += 1;
        self.spilled += 1;
        let refused = |_| Error::limit(code::TOOBIG, "the host rejected a reply of that size");
        host::spill(body).map_err(refused)
    }

    /// Sleeps until the host has taken all replies.
    fn wait_for_room(&mut self) -> Result<()> {
        self.counters.waits_for_room += 1;
        self.ring_bell();
        vfs::give_back_locks();
        self.counters.parks += 1;
        let (control, replies) = (self.rings.control, &self.rings.replies);
        if control.is_stopped() || !sleep::park(control, abi::PARK_FULL, || replies.is_empty()) {
            self.left = true;
            return Err(Error::interrupted());
        }
        Ok(())
    }

    /// Notifies the host about what was put, if it waits for it.
    pub fn ring_bell(&mut self) {
        if self.rings.control.take_notify() {
            self.counters.bells += 1;
            sleep::ring(self.rings.control);
        }
    }

    /// Sends rows that more replies will follow.
    pub fn send_batch(&mut self, header: ReplyHeader, body: Body<'_>) -> Result<()> {
        self.counters.batches += 1;
        vfs::give_back_locks();
        self.put(header, body)?;
        self.ring_bell();
        Ok(())
    }
}
