//! What passes between guest and host when SQL calls the user's functions: `docs/abi.md`, "Callbacks".

// What `callback` is called for. The host holds an object under each handle.
/// The guest releases the handle; nothing is called.
pub const CALLBACK_RELEASE: i32 = 0;
pub const CALLBACK_FUNCTION: i32 = 1;
/// Of an aggregate or window function; the result is the handle of a new instance.
pub const CALLBACK_NEW: i32 = 2;
/// Deferred steps of any instances; handle 0.
pub const CALLBACK_STEPS: i32 = 3;
/// After the steps in its arguments.
pub const CALLBACK_VALUE: i32 = 4;
/// As `CALLBACK_VALUE`; also releases the instance's handle.
pub const CALLBACK_FINALIZE: i32 = 5;
/// Deferred calls of functions; handle 0.
pub const CALLBACK_CALLS: i32 = 6;
pub const CALLBACK_COLLATION: i32 = 7;
pub const CALLBACK_AUTHORIZER: i32 = 8;
pub const CALLBACK_PROGRESS: i32 = 9;
pub const CALLBACK_BUSY: i32 = 10;
pub const CALLBACK_TRACE: i32 = 11;
pub const CALLBACK_UPDATE: i32 = 12;
pub const CALLBACK_COMMIT: i32 = 13;
pub const CALLBACK_ROLLBACK: i32 = 14;
pub const CALLBACK_WAL: i32 = 15;
pub const CALLBACK_PREUPDATE: i32 = 16;
/// The next bytes of a changeset, up to a maximum.
pub const CALLBACK_INPUT: i32 = 17;
/// The next bytes of a changeset being written.
pub const CALLBACK_OUTPUT: i32 = 18;
/// Whether to apply the changes of a table.
pub const CALLBACK_FILTER: i32 = 19;
pub const CALLBACK_CONFLICT: i32 = 20;
// Of the extension loader.
pub const CALLBACK_EXTENSION_OPEN: i32 = 24;
pub const CALLBACK_EXTENSION_LINK: i32 = 25;
pub const CALLBACK_EXTENSION_SYMBOL: i32 = 26;
pub const CALLBACK_EXTENSION_CLOSE: i32 = 27;

// Words of the argument block, where a callback's arguments and answer are, in 8 bytes each.
/// Kind, and the handle above its eight bits.
pub const ARGUMENT_BLOCK_KEY: u32 = 0;
/// The form of the arguments, then of the result: `FORM_*`, or one of the failures.
pub const ARGUMENT_BLOCK_FORM: u32 = 1;
/// An integer, a float, a length, or the number of an exception.
pub const ARGUMENT_BLOCK_VALUE: u32 = 2;
/// The address of the arguments' text, blob or array, if they are far.
pub const ARGUMENT_BLOCK_ADDRESS: u32 = 3;
/// The number of callbacks so far.
pub const ARGUMENT_BLOCK_COUNT: u32 = 4;
/// Not 0: the guest requests a function in the table for this key. The host's reply: its index.
pub const ARGUMENT_BLOCK_SLOT: u32 = 5;
/// After the words: buffer for text, blob or array of the arguments, then for text or blob of the result.
pub const ARGUMENT_BLOCK_HEAD: u32 = 64;

// Forms. One argument is passed as it is, none or several as a MessagePack array.
pub const FORM_NULL: i64 = 0;
pub const FORM_INTEGER: i64 = 1;
pub const FORM_FLOAT: i64 = 2;
pub const FORM_TEXT: i64 = 3;
pub const FORM_BLOB: i64 = 4;
pub const FORM_ARRAY: i64 = 5;
/// One text in MessagePack, for arguments only and never far: the host decodes it fastest.
pub const FORM_PACKED_TEXT: i64 = 6;
/// Added to the form of arguments that the block has no room for: they are at `ARGUMENT_BLOCK_ADDRESS`.
pub const FORM_FAR: i64 = 8;

// Why `callback` has no result.
pub const CALLBACK_RAISED: i64 = -1;
pub const CALLBACK_NO_MEMORY: i64 = -2;
pub const CALLBACK_TOO_LARGE: i64 = -3;
pub const CALLBACK_NO_METHOD: i64 = -4;
/// Added if it was in a deferred step, or in a deferred inverse step.
pub const CALLBACK_IN_STEP: i64 = -16;
pub const CALLBACK_IN_INVERSE: i64 = -32;
/// Larger arguments are far; a larger result is fetched with `callback_answer`.
pub const ARGUMENT_BLOCK_ROOM: u32 = 1_024;

// Kinds of SQL functions.
pub const FUNCTION_SCALAR: i64 = 0;
pub const FUNCTION_AGGREGATE: i64 = 1;
pub const FUNCTION_WINDOW: i64 = 2;

/// The number with which `CALLBACK_EXTENSION_OPEN` answers for built-in extensions.
pub const EXTENSION_BUILT_IN: u32 = 4_294_967_295;
