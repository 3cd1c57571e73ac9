//! Errors of requests: result code, message, offset into the SQL, class.
//!
//! The host turns an error into an exception by `class` and `code` (docs/abi.md, "Errors"). Messages name columns,
//! parameters and statements, never values.

use std::borrow::Cow;

use crate::abi;

pub type Result<T> = core::result::Result<T, Error>;

/// SQLite result codes that the guest itself uses; all others come from SQLite unchanged.
pub mod code {
    pub const ERROR: i32 = 1;
    pub const INTERNAL: i32 = 2;
    pub const NOMEM: i32 = 7;
    pub const INTERRUPT: i32 = 9;
    pub const TOOBIG: i32 = 18;
    pub const MISUSE: i32 = 21;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: i32,
    pub message: Cow<'static, str>,
    /// Byte offset into the request's SQL, or -1.
    pub offset: i32,
    /// `abi::ERROR_*`.
    pub class: u8,
    /// Index of the parameter set of `MANY`, or -1.
    pub row: i32,
}

impl Error {
    pub fn new(class: u8, code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            offset: -1,
            class,
            row: -1,
        }
    }

    /// The caller used the API wrongly; the wording is Python's sqlite3's.
    pub fn programming(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(abi::ERROR_PROGRAMMING, code::MISUSE, message)
    }

    /// The number of parameters does not match the statement.
    pub fn binding_count(used: usize, supplied: usize) -> Self {
        Self::programming(format!(
            "Incorrect number of bindings supplied. The current statement uses {used}, and there are {supplied} supplied."
        ))
    }

    /// Values by position for named parameters, if the request rejects that.
    pub fn positions() -> Self {
        let message = "values by position were supplied for named parameters";
        Self::new(abi::ERROR_POSITIONS, code::MISUSE, message)
    }

    /// A limit set by the caller was reached.
    pub fn limit(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(abi::ERROR_DATA, code, message)
    }

    /// The host sent a request that violates the contract.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(abi::ERROR_INTERNAL, code::INTERNAL, message)
    }

    pub fn out_of_memory() -> Self {
        Self::new(abi::ERROR_SQLITE, code::NOMEM, "out of memory")
    }

    pub fn interrupted() -> Self {
        Self::new(abi::ERROR_SQLITE, code::INTERRUPT, "interrupted")
    }

    pub fn in_row(mut self, row: usize) -> Self {
        self.row = i32::try_from(row).unwrap_or(i32::MAX);
        self
    }

    /// Truncates the message to `max_bytes`, 0 for no limit.
    pub fn within(mut self, max_bytes: u64) -> Self {
        if max_bytes != 0 {
            let most = max_bytes.max(abi::ERROR_TEXT_BYTES.into());
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let mut end = most.min(self.message.len());
            while !self.message.is_char_boundary(end) {
                end -= 1;
            }
            match &mut self.message {
                Cow::Owned(text) => text.truncate(end),
                Cow::Borrowed(text) => *text = &text[..end],
            }
        }
        self
    }

    /// Converts the offset of an error in one statement of a script to an offset in the script.
    pub fn shifted_by(mut self, start: usize) -> Self {
        if self.offset >= 0 {
            let start = i32::try_from(start).unwrap_or(i32::MAX);
            self.offset = self.offset.saturating_add(start);
        }
        self
    }
}
