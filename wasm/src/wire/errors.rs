//! The body of an `ERROR` reply: docs/abi.md, "Errors".

use super::rows::Encoder;
use crate::error::{Error, Result};

/// The body of an `ERROR` reply.
pub fn encode_error(error: &Error, out: &mut Encoder) -> Result<()> {
    out.array(5)?;
    out.integer(error.code.into())?;
    out.text(error.message.as_bytes())?;
    out.integer(error.offset.into())?;
    out.integer(error.class.into())?;
    out.integer(error.row.into())
}
