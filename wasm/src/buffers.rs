//! Buffers of arbitrary size: memory that is not available is an error, not a trap.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::CString;
use std::hash::{BuildHasher, Hash};

use crate::allocator::optional;
use crate::error::{Error, Result};

/// Of a name in a message.
const SHOWN_BYTES: usize = 500;

/// Reserves space for `more` items.
#[inline]
pub fn reserve<T>(items: &mut Vec<T>, more: usize) -> Result<()> {
    if items.capacity() - items.len() < more {
        return optional(|| items.try_reserve(more)).map_err(|_| Error::out_of_memory());
    }
    Ok(())
}

/// Reserves space for one more entry.
pub fn reserve_entry<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) -> Result<()> {
    optional(|| map.try_reserve(1)).map_err(|_| Error::out_of_memory())
}

/// Adds an item at the end.
pub fn push<T>(items: &mut Vec<T>, item: T) -> Result<()> {
    reserve(items, 1)?;
    items.push(item);
    Ok(())
}

/// An empty buffer with space for `len` items.
pub fn with_room<T>(len: usize) -> Result<Vec<T>> {
    let mut items = Vec::new();
    optional(|| items.try_reserve_exact(len)).map_err(|_| Error::out_of_memory())?;
    Ok(items)
}

pub fn zeroed(len: usize) -> Result<Vec<u8>> {
    let mut bytes = with_room(len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// The parts, concatenated.
pub fn joined(parts: &[&[u8]]) -> Result<Vec<u8>> {
    let mut bytes = with_room(parts.iter().map(|part| part.len()).sum())?;
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

pub fn copied(bytes: &[u8]) -> Result<Box<[u8]>> {
    Ok(joined(&[bytes])?.into())
}

/// A name in the form SQLite takes.
pub fn c_string(text: &[u8]) -> Result<CString> {
    CString::from_vec_with_nul(joined(&[text, b"\0"])?)
        .map_err(|_| Error::programming("a name contains a null character"))
}

/// Text, with invalid UTF-8 replaced.
pub fn lossy(text: &[u8]) -> Result<Cow<'_, str>> {
    if let Ok(text) = core::str::from_utf8(text) {
        return Ok(Cow::Borrowed(text));
    }
    let mut replaced = Vec::new();
    for chunk in text.utf8_chunks() {
        reserve(&mut replaced, chunk.valid().len() + 3)?;
        replaced.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            replaced.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    let replaced = String::from_utf8(replaced).expect("every piece is UTF-8");
    Ok(Cow::Owned(replaced))
}

/// A name, shortened for a message.
pub fn shown(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&name[..name.len().min(SHOWN_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_utf8_is_replaced_as_the_library_does() {
        for text in [
            &b"plain"[..],
            b"",
            b"a\xffb",
            b"\xe2\x82",
            b"\xf0\x9f\x98\x80\xff\xfe",
        ] {
            let replaced = lossy(text).expect("there is memory");
            assert_eq!(replaced, String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_name_ends_where_it_is_told_to() {
        assert_eq!(c_string(b"abc").as_deref(), Ok(c"abc"));
        assert!(c_string(b"a\0c").is_err());
    }
}
