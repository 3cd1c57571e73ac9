//! MessagePack: parameters in, rows out. Pure code over bytes, tested on the build machine.
//!
//! <https://github.com/msgpack/msgpack/blob/master/spec.md>

pub mod params;
pub mod rows;
