//! Why a callback of the user's has no answer.

use crate::abi;

/// Why a callback has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Raised,
    NoMemory,
    TooLarge,
    NoMethod,
    /// It was not called any more.
    Interrupted,
}

/// What the host was about when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    Call,
    /// A step that had been put off.
    Step,
    Inverse,
}

/// A failure, and which of the methods it was in.
pub type Failed = (Failure, During);

/// What the host's code for a failure says.
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

/// Where the guest itself finds no room for what it passes.
pub const NO_MEMORY: Failed = (Failure::NoMemory, During::Call);

/// Where nobody waits for the answer any more.
pub const INTERRUPTED: Failed = (Failure::Interrupted, During::Call);
