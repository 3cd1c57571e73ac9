//! The argument block: where the arguments of a callback and its answer pass.
//!
//! The host knows its address from the start, so the import takes and returns nothing: reading arguments of an import
//! is most of what one costs in Python. Layout: docs/abi.md, "Callbacks". One instance runs on one thread and is not
//! entered while the host runs a callback, so one block serves them all.

use core::cell::{Cell, UnsafeCell};

use crate::abi;
use crate::callbacks::Callee;
use crate::error::Result;
use crate::host;
use crate::vfs;
use crate::wire::params::Value;
use crate::wire::rows::Encoder;

const HEAD_BYTES: usize = abi::ARGUMENT_BLOCK_HEAD as usize;
const ROOM_BYTES: usize = abi::ARGUMENT_BLOCK_ROOM as usize;
const WORDS: usize = (HEAD_BYTES + ROOM_BYTES) / 8;

struct ArgumentBlock(UnsafeCell<[i64; WORDS]>);

// SAFETY: an instance runs on one thread.
unsafe impl Sync for ArgumentBlock {}

static BLOCK: ArgumentBlock = ArgumentBlock(UnsafeCell::new([0; WORDS]));

fn word(index: u32) -> *mut i64 {
    // SAFETY: the indexes lie in the head, which lies within the array.
    unsafe { BLOCK.0.get().cast::<i64>().add(index as usize) }
}

fn read(index: u32) -> i64 {
    // SAFETY: valid and aligned; volatile because the host writes there during the import.
    unsafe { word(index).read_volatile() }
}

fn write(index: u32, value: i64) {
    // SAFETY: valid and aligned; volatile because the host reads there during the import.
    unsafe { word(index).write_volatile(value) }
}

/// Its address, for the control block.
pub fn address() -> u32 {
    BLOCK.0.get() as usize as u32
}

/// The number of callbacks so far.
pub fn count() -> i64 {
    read(abi::ARGUMENT_BLOCK_COUNT)
}

/// A callback's arguments.
#[derive(Clone, Copy)]
pub enum Arguments<'a> {
    One(Value<'a>),
    /// A MessagePack array.
    Array(&'a [u8]),
}

/// What the host answered, where the answer is not a value that fits the block.
pub(super) enum Answered {
    Value(Value<'static>),
    /// A text or blob that must still be fetched.
    Large {
        form: i64,
        len: usize,
    },
    Failed {
        code: i64,
        number: u32,
    },
}

/// The host's key for a callback.
pub fn key(kind: i32, number: u32) -> i64 {
    i64::from(kind) | i64::from(number) << 8
}

/// Calls the host. A text or blob in the result is valid until the next call.
pub(super) fn call_host(callee: Callee<'_>, arguments: Arguments<'_>) -> Answered {
    // The callback may take as long as it likes.
    vfs::give_back_locks();
    write(abi::ARGUMENT_BLOCK_KEY, key(callee.kind, callee.number));
    let bytes = |form: i64, bytes: &[u8]| (form + put(bytes), bytes.len() as i64);
    let (form, value) = match arguments {
        Arguments::One(Value::Integer(value)) => (abi::FORM_INTEGER, value),
        Arguments::One(Value::Float(value)) => (abi::FORM_FLOAT, value.to_bits() as i64),
        Arguments::One(Value::Text(text)) => match put_packed(text) {
            Some(length) => (abi::FORM_PACKED_TEXT, length),
            None => bytes(abi::FORM_TEXT, text),
        },
        Arguments::One(Value::Blob(blob)) => bytes(abi::FORM_BLOB, blob),
        Arguments::One(_) => (abi::FORM_NULL, 0),
        Arguments::Array(array) => bytes(abi::FORM_ARRAY, array),
    };
    write(abi::ARGUMENT_BLOCK_VALUE, value);
    write(abi::ARGUMENT_BLOCK_FORM, form);
    write(abi::ARGUMENT_BLOCK_COUNT, count() + 1);
    enter(callee.slot);
    let (form, value) = (
        read(abi::ARGUMENT_BLOCK_FORM),
        read(abi::ARGUMENT_BLOCK_VALUE),
    );
    match form {
        abi::FORM_INTEGER => Answered::Value(Value::Integer(value)),
        abi::FORM_FLOAT => Answered::Value(Value::Float(f64::from_bits(value as u64))),
        abi::FORM_TEXT | abi::FORM_BLOB => bytes_of_answer(form, value as usize),
        code if code < 0 => Answered::Failed {
            code,
            number: value as u32,
        },
        _ => Answered::Value(Value::Null),
    }
}

/// Writes a text as MessagePack into the buffer; returns its length, `None` if it does not fit.
fn put_packed(text: &[u8]) -> Option<i64> {
    let length = text.len();
    let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
    let head: &[u8] = match length {
        0..32 => &[0xa0 | low],
        32..256 => &[0xd9, low],
        _ => &[0xda, high, low],
    };
    if head.len() + length > ROOM_BYTES {
        return None;
    }
    // SAFETY: as in `put`; both together fit.
    unsafe {
        room().copy_from_nonoverlapping(head.as_ptr(), head.len());
        room()
            .add(head.len())
            .copy_from_nonoverlapping(text.as_ptr(), length);
    }
    Some((head.len() + length) as i64)
}

/// Writes arguments into the buffer; returns what that adds to their form.
fn put(bytes: &[u8]) -> i64 {
    if bytes.len() > ROOM_BYTES {
        write(abi::ARGUMENT_BLOCK_ADDRESS, bytes.as_ptr() as usize as i64);
        return abi::FORM_FAR;
    }
    // SAFETY: `ROOM_BYTES` follow the head. No borrow of a result there is left (`bytes_of_answer`).
    unsafe { room().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    0
}

fn room() -> *mut u8 {
    // SAFETY: the head lies within the array.
    unsafe { BLOCK.0.get().cast::<u8>().add(HEAD_BYTES) }
}

/// Enters the host through the function that it has put into the table for this callee; the first time, requests
/// one.
fn enter(slot: Option<&Cell<u32>>) {
    let known = slot.and_then(|slot| host::table_function(slot.get()));
    if let Some(function) = known {
        return function();
    }
    write(abi::ARGUMENT_BLOCK_SLOT, slot.is_some().into());
    host::callback();
    if let Some(slot) = slot {
        slot.set(read(abi::ARGUMENT_BLOCK_SLOT) as u32);
    }
}

fn bytes_of_answer(form: i64, len: usize) -> Answered {
    if len > ROOM_BYTES {
        return Answered::Large { form, len };
    }
    // SAFETY: behind the head there are `ROOM_BYTES`, and the host writes there during the import alone. The reference
    // is gone before the next call: `Callbacks::call_host`, the only reader of results, lends them to a closure.
    let bytes = unsafe { core::slice::from_raw_parts(room(), len) };
    Answered::Value(value_of(form, bytes))
}

/// A text or blob, according to the form.
pub fn value_of(form: i64, bytes: &[u8]) -> Value<'_> {
    if form == abi::FORM_TEXT {
        Value::Text(bytes)
    } else {
        Value::Blob(bytes)
    }
}

/// Writes a value as MessagePack, anything else as null.
pub fn encode(value: &Value<'_>, out: &mut Encoder) -> Result<()> {
    match *value {
        Value::Integer(value) => out.integer(value),
        Value::Float(value) => out.float(value),
        Value::Text(text) => out.text(text),
        Value::Blob(blob) => out.blob(blob),
        _ => out.null(),
    }
}
