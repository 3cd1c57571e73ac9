//! Prepared statements that are not in use, by SQL text. <https://sqlite.org/c3ref/prepare.html>
//!
//! A statement in use is not in here: `take` removes it, `put` returns it. So two cursors with the same text run
//! two statements. The least recently used one is evicted first.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::buffers::reserve_entry;

/// An item of the cache, whose text is the key.
pub trait Keyed {
    fn key(&self) -> &[u8];
}

struct Slot<V> {
    value: V,
    last_use: u64,
}

pub struct Cache<V> {
    /// By the hash of the text; of two texts with the same hash only the later one stays.
    slots: HashMap<u64, Slot<V>, BuildHasherDefault<Identity>>,
    capacity: usize,
    clock: u64,
}

impl<V: Keyed> Cache<V> {
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: HashMap::default(),
            capacity,
            clock: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn take(&mut self, key: &[u8]) -> Option<V> {
        let hash = hash_of(key);
        if self.slots.get(&hash)?.value.key() != key {
            return None;
        }
        self.slots.remove(&hash).map(|slot| slot.value)
    }

    /// Stores `value`; returns what was evicted, which may be `value` itself.
    pub fn put(&mut self, value: V) -> Option<V> {
        if self.capacity == 0 {
            return Some(value);
        }
        self.clock += 1;
        let hash = hash_of(value.key());
        let evicted = if self.slots.len() >= self.capacity && !self.slots.contains_key(&hash) {
            self.remove_oldest()
        } else {
            None
        };
        if reserve_entry(&mut self.slots).is_err() {
            return Some(value);
        }
        let replaced = self.slots.insert(
            hash,
            Slot {
                value,
                last_use: self.clock,
            },
        );
        evicted.or(replaced.map(|slot| slot.value))
    }

    pub fn clear(&mut self) {
        self.slots.clear();
    }

    fn remove_oldest(&mut self) -> Option<V> {
        // A scan, because it only runs together with a `prepare`, which costs more.
        let (&hash, _) = self.slots.iter().min_by_key(|(_, slot)| slot.last_use)?;
        self.slots.remove(&hash).map(|slot| slot.value)
    }
}

/// The keys are already hashes.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Mixes eight bytes at a time. It need not resist an attacker: a collision costs a `prepare`.
fn hash_of(text: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = text.as_chunks::<8>();
    let mut hash = words.iter().fold(text.len() as u64, |hash, word| {
        mix(hash, u64::from_le_bytes(*word))
    });
    for byte in rest {
        hash = mix(hash, (*byte).into());
    }
    // The table takes its tag from the top bits and its index from the bottom ones.
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Text(String, u32);

    impl Keyed for Text {
        fn key(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    fn text(key: &str) -> Text {
        Text(key.to_owned(), 0)
    }

    #[test]
    fn a_taken_value_is_gone_until_it_is_put_back() {
        let mut cache = Cache::new(2);
        cache.put(text("a"));

        assert_eq!(cache.take(b"a"), Some(text("a")));
        assert_eq!(cache.take(b"a"), None);
        assert!(cache.is_empty());
    }

    #[test]
    fn the_least_recently_used_value_leaves_first() {
        let mut cache = Cache::new(2);
        cache.put(text("a"));
        cache.put(text("b"));
        let a = cache.take(b"a").expect("it was put");
        cache.put(a);

        assert_eq!(cache.put(text("c")), Some(text("b")));
        assert_eq!(cache.len(), 2);
        assert!(cache.take(b"a").is_some() && cache.take(b"c").is_some());
    }

    #[test]
    fn a_second_value_of_the_same_text_replaces_the_first() {
        let mut cache = Cache::new(2);
        cache.put(Text("a".into(), 1));
        cache.put(text("b"));

        assert_eq!(cache.put(Text("a".into(), 2)), Some(Text("a".into(), 1)));
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.take(b"a"), Some(Text("a".into(), 2)));
    }

    #[test]
    fn no_capacity_keeps_nothing() {
        let mut cache = Cache::new(0);

        assert_eq!(cache.put(text("a")), Some(text("a")));
        assert_eq!(cache.take(b"a"), None);
    }

    #[test]
    fn texts_that_differ_anywhere_hash_apart() {
        let base = "SELECT value FROM t WHERE id = ?";
        for index in 0..base.len() {
            let mut other = base.as_bytes().to_vec();
            other[index] ^= 1;
            assert_ne!(hash_of(base.as_bytes()), hash_of(&other), "byte {index}");
        }
        assert_ne!(hash_of(b"a"), hash_of(b"a\0"));
    }
}
