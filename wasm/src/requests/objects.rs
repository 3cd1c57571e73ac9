//! What outlives a request beside statements: backups, images on their way in, open blobs and sessions, each by its
//! handle.
//!
//! They hold on to the connection's `sqlite3*`, so all of them go before it is closed.

use std::collections::HashMap;

use crate::abi;
use crate::buffers::reserve_entry;
use crate::error::{Error, Result};
use crate::requests::answer::Answer;
use crate::requests::backup;
use crate::requests::backup::Backup;
use crate::requests::blob;
use crate::requests::blob::Blob;
use crate::requests::changeset;
use crate::requests::executor::{Executor, Input};
use crate::requests::image;
use crate::requests::image::Image;
use crate::requests::replies::Replies;
use crate::requests::session;
use crate::requests::session::Session;
use crate::ring::request::Request;

/// Statements have smaller handles: a handle says by itself what it is not.
const FIRST_HANDLE: u32 = 1 << 31;

pub enum Object {
    Backup(Backup),
    Image(Image),
    Blob(Blob),
    Session(Session),
}

#[derive(Default)]
pub struct Objects {
    held: HashMap<u32, Object>,
    last: u32,
}

impl Objects {
    /// Keeps an object under a new handle.
    pub fn hold(&mut self, object: Object) -> Result<u32> {
        reserve_entry(&mut self.held)?;
        loop {
            self.last = self.last.wrapping_add(1) | FIRST_HANDLE;
            if !self.held.contains_key(&self.last) {
                self.held.insert(self.last, object);
                return Ok(self.last);
            }
        }
    }

    /// Removes an object; an unknown handle is not an error, for whoever drops one need not know that it ended.
    pub fn take(&mut self, handle: u32) -> Option<Object> {
        self.held.remove(&handle)
    }

    pub fn has_blobs(&self) -> bool {
        self.held
            .values()
            .any(|object| matches!(object, Object::Blob(_)))
    }

    pub fn take_unless(&mut self, stays: bool, handle: u32) -> Option<Object> {
        if stays { None } else { self.take(handle) }
    }

    pub fn backup(&mut self, handle: u32) -> Result<&mut Backup> {
        match self.held.get_mut(&handle) {
            Some(Object::Backup(backup)) => Ok(backup),
            _ => Err(Error::programming("the backup has ended")),
        }
    }

    pub fn image(&mut self, handle: u32) -> Result<&mut Image> {
        match self.held.get_mut(&handle) {
            Some(Object::Image(image)) => Ok(image),
            _ => Err(Error::programming("the image has been dropped")),
        }
    }

    pub fn blob(&mut self, handle: u32) -> Result<&mut Blob> {
        match self.held.get_mut(&handle) {
            Some(Object::Blob(blob)) => Ok(blob),
            _ => Err(Error::programming("Cannot operate on a closed blob.")),
        }
    }

    pub fn session(&mut self, handle: u32) -> Result<&mut Session> {
        match self.held.get_mut(&handle) {
            Some(Object::Session(session)) => Ok(session),
            _ => Err(Error::programming("Cannot operate on a closed session.")),
        }
    }
}

/// Answers the requests that are about these objects.
pub fn serve(
    executor: &mut Executor,
    request: &Request<'_>,
    input: Input<'_>,
    replies: &mut Replies<'_>,
) -> Result<Answer> {
    let changes = match request.op {
        abi::OP_APPLY | abi::OP_DESERIALIZE => true,
        abi::OP_BACKUP_OPEN => request.a == abi::BACKUP_FROM_IMAGE,
        _ => false,
    };
    if changes {
        executor.connection.blocks.check()?;
    }
    match request.op {
        abi::OP_BACKUP_OPEN => backup::open(executor, request, input),
        abi::OP_BACKUP_STEP => backup::step(executor, request),
        abi::OP_DESERIALIZE => image::deserialize(executor, request, input.params),
        abi::OP_BLOB_OPEN => blob::open(executor, input.params),
        abi::OP_BLOB_READ => blob::read(executor, request, input.params, replies),
        abi::OP_BLOB_WRITE => blob::write(executor, request, input.params),
        abi::OP_SESSION_OPEN => session::open(executor, input.params),
        abi::OP_SESSION => session::serve(executor, request, input.params),
        abi::OP_APPLY => changeset::apply(executor, input.params),
        abi::OP_INVERT => changeset::invert(executor, input.params),
        abi::OP_COMBINE => changeset::combine(executor, input.params),
        abi::OP_DROP => {
            if let Some(Object::Blob(blob)) = executor.objects.take(request.a) {
                blob.close()?;
            }
            Ok(Answer::nothing())
        }
        op => Err(Error::internal(format!("unknown operation {op}"))),
    }
}
