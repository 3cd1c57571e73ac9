//! Answers of one deterministic function to arguments that come again.
//!
//! SQLite may call such a function as often or as seldom as it likes, but only leaves out calls with constant
//! arguments. Here an answer serves for the rest of the request, so that a column of few different values takes
//! few crossings to the host. Small answers to small arguments are kept; the newest replaces what was in its slot.

use crate::buffers::reserve;
use crate::error::Result;
use crate::wire::rows::Encoder;

/// A power of two.
const SLOTS: usize = 256;
const KEY_BYTES: usize = 40;
const ANSWER_BYTES: usize = 38;
/// An encoder that a large result made grow beyond this is freed.
const KEPT_BYTES: usize = 1024;

#[derive(Clone, Copy)]
struct Slot {
    /// 0: empty. No key is empty: the arguments' array has a head.
    key_len: u8,
    answer_len: u8,
    key: [u8; KEY_BYTES],
    answer: [u8; ANSWER_BYTES],
}

const EMPTY: Slot = Slot {
    key_len: 0,
    answer_len: 0,
    key: [0; KEY_BYTES],
    answer: [0; ANSWER_BYTES],
};

/// Arguments and results in MessagePack, of one request.
#[derive(Default)]
pub struct Memo {
    slots: Vec<Slot>,
    request: u32,
    /// The newest result.
    encoder: Encoder,
}

impl Memo {
    /// The result for these arguments, if there is one from this request.
    pub fn answer(&mut self, request: u32, key: &[u8]) -> Option<&[u8]> {
        if self.request != request {
            self.request = request;
            self.slots.fill(EMPTY);
        }
        let slot = self.slots.get(slot_of(key))?;
        let known = &slot.key[..usize::from(slot.key_len)];
        (!key.is_empty() && known == key).then(|| &slot.answer[..usize::from(slot.answer_len)])
    }

    /// Keeps the result that `encode` writes, for the request that `answer` was last called for.
    pub fn keep(&mut self, key: &[u8], encode: impl FnOnce(&mut Encoder) -> Result<()>) {
        if key.is_empty() || key.len() > KEY_BYTES {
            return;
        }
        self.encoder.clear(KEPT_BYTES);
        let encoded = encode(&mut self.encoder);
        let answer = self.encoder.bytes();
        if encoded.is_err() || answer.len() > ANSWER_BYTES {
            return;
        }
        if self.slots.is_empty() {
            if reserve(&mut self.slots, SLOTS).is_err() {
                return;
            }
            self.slots.resize(SLOTS, EMPTY);
        }
        let slot = &mut self.slots[slot_of(key)];
        slot.key_len = key.len() as u8;
        slot.key[..key.len()].copy_from_slice(key);
        slot.answer_len = answer.len() as u8;
        slot.answer[..answer.len()].copy_from_slice(answer);
    }
}

/// FNV-1a, folded: <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
fn slot_of(key: &[u8]) -> usize {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ hash >> 16) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_serves_for_one_request() {
        let mut memo = Memo::default();
        assert_eq!(memo.answer(1, b"\x91\x05"), None);
        memo.keep(b"\x91\x05", |out| out.raw(b"\x06"));
        assert_eq!(memo.answer(1, b"\x91\x05"), Some(&b"\x06"[..]));
        assert_eq!(memo.answer(1, b"\x91\x06"), None);
        assert_eq!(memo.answer(2, b"\x91\x05"), None);
    }

    #[test]
    fn every_answer_is_that_to_its_own_arguments() {
        let mut memo = Memo::default();
        let mut kept = 0;
        for number in 0..5000_u32 {
            let key = number.to_be_bytes();
            assert_eq!(memo.answer(1, &key), None);
            memo.keep(&key, |out| out.raw(&key[2..]));
            let earlier = (number / 2).to_be_bytes();
            if let Some(answer) = memo.answer(1, &earlier) {
                assert_eq!(answer, &earlier[2..]);
                kept += 1;
            }
        }
        assert!(kept > 0);
    }

    #[test]
    fn what_is_large_is_not_kept() {
        let mut memo = Memo::default();
        memo.keep(&[1; KEY_BYTES + 1], |out| out.raw(b"a"));
        memo.keep(b"a", |out| out.raw(&[1; ANSWER_BYTES + 1]));
        memo.keep(b"", |out| out.raw(b"a"));
        assert_eq!(memo.answer(0, &[1; KEY_BYTES + 1]), None);
        assert_eq!(memo.answer(0, b"a"), None);
        assert_eq!(memo.answer(0, b""), None);
        memo.keep(&[1; KEY_BYTES], |out| out.raw(&[2; ANSWER_BYTES]));
        assert_eq!(
            memo.answer(0, &[1; KEY_BYTES]),
            Some(&[2; ANSWER_BYTES][..])
        );
    }
}
