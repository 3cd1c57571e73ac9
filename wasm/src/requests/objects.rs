//! What outlives a request beside statements: backups, images on their way in, open blobs and sessions, each by its
//! handle.
//!
//! They hold on to the connection's `sqlite3*`, so all of them go before it is closed.

use core::any::Any;
use std::collections::HashMap;

use crate::buffers::reserve_entry;
use crate::error::Result;

/// Statements have smaller handles: a handle says by itself what it is not.
const FIRST_HANDLE: u32 = 1 << 31;

pub trait Object: Any {
    /// Whether SQLite takes it for a statement that runs.
    fn runs(&self) -> bool {
        false
    }

    /// Ends it.
    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
pub struct Objects {
    held: HashMap<u32, Box<dyn Object>>,
    last: u32,
}

impl Objects {
    /// Keeps an object under a new handle.
    pub fn hold(&mut self, object: impl Object) -> Result<u32> {
        reserve_entry(&mut self.held)?;
        loop {
            self.last = self.last.wrapping_add(1) | FIRST_HANDLE;
            if !self.held.contains_key(&self.last) {
                self.held.insert(self.last, Box::new(object));
                return Ok(self.last);
            }
        }
    }

    /// The object under a handle, if it is one of this kind.
    pub fn get<T: Object>(&mut self, handle: u32) -> Option<&mut T> {
        let object: &mut dyn Any = self.held.get_mut(&handle)?.as_mut();
        object.downcast_mut()
    }

    /// Removes the object under a handle, if it is one of this kind.
    pub fn take<T: Object>(&mut self, handle: u32) -> Option<Box<T>> {
        self.get::<T>(handle)?;
        let object: Box<dyn Any> = self.held.remove(&handle)?;
        object.downcast().ok()
    }

    /// Ends an object. An unknown handle is not an error: who drops one need not know that it has ended.
    pub fn close(&mut self, handle: u32) -> Result<()> {
        self.held.remove(&handle).map_or(Ok(()), Object::close)
    }

    /// Whether SQLite takes one of them for a statement that runs.
    pub fn run(&self) -> bool {
        self.held.values().any(|object| object.runs())
    }
}
