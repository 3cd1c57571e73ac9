//! The answer to a request, and the buffers for answers.

use crate::abi;
use crate::connection::Connection;
use crate::error::Result;
use crate::requests::replies::Body;
use crate::ring::reply::ReplyHeader;
use crate::sqlite::statement::Statement;
use crate::wire::rows::{Batch, Encoder};

/// A buffer that a large row made grow beyond this is freed after the request.
const KEPT_BYTES: usize = 4 * abi::BATCH_BYTES as usize;

/// What a reply contains besides its body.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub flags: u8,
    pub column_count: usize,
    pub handle: u32,
    pub changes: i64,
    pub content: Content,
}

/// Where the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Rows,
    Value,
}

impl Answer {
    pub fn nothing() -> Self {
        Self {
            flags: 0,
            column_count: 0,
            handle: 0,
            changes: -1,
            content: Content::Nothing,
        }
    }

    pub fn value() -> Self {
        Self {
            content: Content::Value,
            ..Self::nothing()
        }
    }

    /// A statement's answer, with its rows as the body if it has columns.
    pub fn of(statement: &Statement, connection: &Connection) -> Self {
        let column_count = statement.column_count();
        let (has_columns, content) = match column_count {
            0 => (0, Content::Nothing),
            _ => (abi::REPLY_HAS_COLUMNS, Content::Rows),
        };
        let (changes_data, changes) = match statement.changes_data {
            true => (abi::REPLY_CHANGES_DATA, connection.changes()),
            false => (0, -1),
        };
        Self {
            flags: has_columns | changes_data,
            column_count,
            handle: 0,
            changes,
            content,
        }
    }

    /// The header of a reply, from the connection's current state.
    pub fn header(
        &self,
        id: u32,
        kind: u8,
        connection: &Connection,
        row_count: u32,
    ) -> ReplyHeader {
        let in_transaction = match connection.in_transaction() {
            true => abi::REPLY_IN_TRANSACTION,
            false => 0,
        };
        ReplyHeader {
            id,
            kind,
            flags: self.flags | in_transaction,
            column_count: self.column_count as u16,
            row_count: if self.content == Content::Rows {
                row_count
            } else {
                0
            },
            handle: self.handle,
            failure: connection.watch.callbacks.failure(),
            changes: self.changes,
            total_changes: connection.total_changes(),
            last_insert_rowid: connection.last_insert_rowid(),
            ..ReplyHeader::default()
        }
    }
}

/// Bodies being built; reused from request to request.
#[derive(Default)]
pub struct Output {
    pub columns: Encoder,
    pub batch: Batch,
    /// Bodies other than columns and rows.
    pub value: Encoder,
}

impl Output {
    /// Starts over, before a request and after each batch.
    pub fn restart(&mut self) -> Result<()> {
        self.columns.clear(KEPT_BYTES);
        self.clear_rows();
        self.batch.begin()
    }

    /// Frees what is large, but for the columns.
    pub fn clear_rows(&mut self) {
        self.value.clear(KEPT_BYTES);
        self.batch.clear(KEPT_BYTES);
    }

    pub fn body(&mut self, content: Content) -> Body<'_> {
        match content {
            Content::Nothing => Body::default(),
            Content::Rows => Body {
                columns: self.columns.bytes(),
                rows: self.batch.bytes(),
            },
            Content::Value => Body {
                columns: &[],
                rows: self.value.bytes(),
            },
        }
    }
}
