//! Buffers as large as somebody asks for: memory that cannot be had is an error, not a trap.

use crate::error::{Error, Result};

/// Adds an item at the end.
pub fn push<T>(items: &mut Vec<T>, item: T) -> Result<()> {
    items.try_reserve(1).map_err(|_| Error::out_of_memory())?;
    items.push(item);
    Ok(())
}

pub fn zeroed(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| Error::out_of_memory())?;
    bytes.resize(len, 0);
    Ok(bytes)
}
