//! Objects other than statements that outlive a request: backups, incoming images, open blobs and sessions, by
//! handle.
//!
//! They use the connection's `sqlite3*`, so all of them are closed before it.

use core::any::Any;
use std::collections::HashMap;

use crate::buffers::reserve_entry;
use crate::error::Result;

/// Statements have smaller handles, so the ranges are disjoint.
const FIRST_HANDLE: u32 = 1 << 31;

pub trait Object: Any {
    /// Whether SQLite counts it as a running statement.
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
    /// Stores an object under a new handle.
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

    /// The object with this handle, if it is of this kind.
    pub fn get<T: Object>(&mut self, handle: u32) -> Option<&mut T> {
        let object: &mut dyn Any = self.held.get_mut(&handle)?.as_mut();
        object.downcast_mut()
    }

    /// Removes the object with this handle, if it is of this kind.
    pub fn take<T: Object>(&mut self, handle: u32) -> Option<Box<T>> {
        self.get::<T>(handle)?;
        let object: Box<dyn Any> = self.held.remove(&handle)?;
        object.downcast().ok()
    }

    /// Closes an object. An unknown handle is not an error: the caller need not know that the object has ended.
    pub fn close(&mut self, handle: u32) -> Result<()> {
        self.held.remove(&handle).map_or(Ok(()), Object::close)
    }

    /// Whether SQLite counts one of them as a running statement.
    pub fn run(&self) -> bool {
        self.held.values().any(|object| object.runs())
    }
}
