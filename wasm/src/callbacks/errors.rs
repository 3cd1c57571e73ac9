//! Failures of the user's callbacks.

use crate::abi;

/// Why a callback has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Raised,
    NoMemory,
    TooLarge,
    NoMethod,
    /// It was not called.
    Interrupted,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    Call,
    /// A deferred step.
    Step,
    Inverse,
}

/// A failure, and what failed.
pub type Failed = (Failure, During);

/// Decodes the host's code for a failure.
pub fn failed(code: i64) -> Failed {
    let during = if code < abi::CALLBACK_IN_INVERSE {
        During::Inverse
    } else if code < abi::CALLBACK_IN_STEP {
        During::Step
    } else {
        During::Call
    };
    let failure = match code % abi::CALLBACK_IN_STEP {
        abi::CALLBACK_NO_MEMORY => Failure::NoMemory,
        abi::CALLBACK_TOO_LARGE => Failure::TooLarge,
        abi::CALLBACK_NO_METHOD => Failure::NoMethod,
        _ => Failure::Raised,
    };
    (failure, during)
}

/// The guest itself has no memory for the arguments.
pub const NO_MEMORY: Failed = (Failure::NoMemory, During::Call);

/// The result is no longer wanted.
pub const INTERRUPTED: Failed = (Failure::Interrupted, During::Call);
