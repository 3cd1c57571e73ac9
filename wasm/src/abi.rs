//! Numbers shared with the host, explained in `docs/abi.md`.
//!
//! `scripts/generate_constants.py` reads this file and `abi/` and writes `rapsqlite/_constants.py`, so each
//! constant is one line: `pub const NAME: TYPE = VALUE;`.

mod callback;

pub use callback::*;

pub const ABI_VERSION: u32 = 4;
pub const MAGIC: u32 = 0x5350_4152;

// Offsets in the control block.
pub const CONTROL_BYTES: u32 = 512;
pub const CONTROL_MAGIC: u32 = 0;
pub const CONTROL_ABI_VERSION: u32 = 4;
pub const CONTROL_REQUEST_RING: u32 = 8;
pub const CONTROL_REPLY_RING: u32 = 16;
pub const CONTROL_ARGUMENT_BLOCK: u32 = 24;
pub const CONTROL_REQUEST_HEAD: u32 = 64;
pub const CONTROL_REQUEST_TAIL: u32 = 128;
pub const CONTROL_REPLY_HEAD: u32 = 192;
pub const CONTROL_REPLY_TAIL: u32 = 256;
pub const CONTROL_NOTIFY: u32 = 320;
pub const CONTROL_STOP: u32 = 384;
pub const CONTROL_SPINS: u32 = 388;
pub const CONTROL_SLEEP: u32 = 392;
pub const CONTROL_BELL: u32 = 396;
pub const CONTROL_POLLS: u32 = 400;
pub const CONTROL_PRELOCK_FD: u32 = 404;
pub const CONTROL_PRELOCK_LOCKS: u32 = 408;
pub const CONTROL_PRELOCK_COMPANIONS: u32 = 412;
pub const CONTROL_PRELOCK_SIZE: u32 = 416;
pub const CONTROL_PARKED: u32 = 448;
/// At `CONTROL_SLEEP`: use the import instead.
pub const NO_FUNCTION: u32 = 0;
// At `CONTROL_BELL`: call the import, or write a byte to the standard output.
pub const BELL_CALLS: u32 = 0;
pub const BELL_WRITES: u32 = 1;
// Locks on one database: shared ones on its WAL index are the bits 0 to 7, exclusive ones the bits 8 to 15.
pub const LOCKS_EXCLUSIVE: u32 = 256;
/// The lock on the file itself, SHARED.
pub const LOCKS_FILE: u32 = 16_777_216;

// Where files are mapped, and nothing else: the memory never grows to there.
pub const WINDOWS_START: u32 = 3_221_225_472;
pub const WINDOWS_BYTES: u32 = 1_056_964_608;
// The page behind them that the compiled code reads, again and again: without it, the guest ends.
pub const POLLING_PAGE: u32 = 4_278_190_080;
const _: () = assert!(POLLING_PAGE == WINDOWS_START + WINDOWS_BYTES);

// Sizes, in bytes.
pub const REQUEST_RING_BYTES: u32 = 262_144;
pub const REPLY_RING_BYTES: u32 = 262_144;
pub const REQUEST_HEADER_BYTES: u32 = 32;
pub const REPLY_HEADER_BYTES: u32 = 64;
/// A request with a larger body is sent as EXTERNAL. In an empty ring there is space for a skip frame and this.
pub const REQUEST_INLINE_BYTES: u32 = 114_688;
/// A reply with a larger body is spilled.
pub const REPLY_INLINE_BYTES: u32 = 98_304;
/// A batch of rows is closed once it reaches this size.
pub const BATCH_BYTES: u32 = 65_536;

/// An error's text is never truncated below this, whatever the limit on the bytes of a result.
pub const ERROR_TEXT_BYTES: u32 = 1_024;

/// For the import `busy_timeout`: leave it unchanged.
pub const BUSY_TIMEOUT_KEEP: i32 = -1;

/// Spilled bodies of replies that the host keeps at a time.
pub const SPILLS_AT_ONCE: u32 = 4;

// Operations.
pub const OP_OPEN: u8 = 1;
pub const OP_CLOSE: u8 = 2;
pub const OP_EXECUTE: u8 = 3;
pub const OP_NEXT: u8 = 4;
pub const OP_FINISH: u8 = 5;
pub const OP_FETCH: u8 = 6;
pub const OP_MANY: u8 = 7;
pub const OP_SCRIPT: u8 = 8;
pub const OP_PREPARE: u8 = 9;
pub const OP_FETCH_PREPARED: u8 = 10;
pub const OP_EXECUTE_PREPARED: u8 = 11;
pub const OP_RELEASE: u8 = 12;
pub const OP_CONTROL: u8 = 13;
pub const OP_BLOCK_ENTER: u8 = 14;
pub const OP_BLOCK_KEEP: u8 = 15;
pub const OP_BLOCK_UNDO: u8 = 16;
pub const OP_BACKUP_OPEN: u8 = 32;
pub const OP_BACKUP_STEP: u8 = 33;
pub const OP_DESERIALIZE: u8 = 34;
pub const OP_BLOB_OPEN: u8 = 35;
pub const OP_BLOB_READ: u8 = 36;
pub const OP_BLOB_WRITE: u8 = 37;
/// Drops a backup, an incoming image, a blob or a session.
pub const OP_DROP: u8 = 38;

pub const OP_SESSION_OPEN: u8 = 39;
pub const OP_SESSION: u8 = 40;
pub const OP_APPLY: u8 = 41;
pub const OP_INVERT: u8 = 42;
pub const OP_COMBINE: u8 = 43;

// Operations of `SESSION`, in `argument`.
/// `[table]`, or `[nil]` for all: records its changes from now on.
pub const SESSION_ATTACH: u32 = 0;
/// `[1 or 0]`, or any other number to query: records changes; body is the current setting.
pub const SESSION_ENABLE: u32 = 1;
/// As `SESSION_ENABLE`: marks changes as indirect.
pub const SESSION_INDIRECT: u32 = 2;
/// `[database, table]`: records the difference from that table to this connection's.
pub const SESSION_DIFF: u32 = 3;
/// Body is `[1 if nothing was recorded, bytes of memory used]`.
pub const SESSION_STATE: u32 = 4;
/// `[handle]` of the callback that takes the bytes, piece by piece.
pub const SESSION_CHANGESET: u32 = 5;
pub const SESSION_PATCHSET: u32 = 6;

// Which way `BACKUP_OPEN` copies, in `target`.
pub const BACKUP_TO_IMAGE: u32 = 0;
pub const BACKUP_FROM_IMAGE: u32 = 1;

// Stages of `DESERIALIZE`, in `argument`.
pub const DESERIALIZE_BEGIN: u32 = 0;
pub const DESERIALIZE_PIECE: u32 = 1;
pub const DESERIALIZE_END: u32 = 2;

// Operations of OP_CONTROL: `a`.
/// `[timeout_ms]`: statistics of the guest; body is a map of counters.
pub const CONTROL_OP_STATISTICS: u32 = 1;
/// `[category]` or `[category, value]`: `sqlite3_limit`; body is the previous value.
pub const CONTROL_OP_LIMIT: u32 = 2;
/// `[option]` or `[option, value]`: `sqlite3_db_config` flags; body is the value now.
pub const CONTROL_OP_CONFIG: u32 = 3;
/// No arguments: body is `sqlite3_changes64`.
pub const CONTROL_OP_CHANGES: u32 = 4;
/// No arguments: ends the statements with rows left; fetching these is an error from then on.
pub const CONTROL_OP_INTERRUPT: u32 = 5;
/// `[handle, name, argument count, flags, kind]`: defines a function; handle 0 removes it.
pub const CONTROL_OP_FUNCTION: u32 = 16;
/// `[handle, name]`: defines a collation; handle 0 removes it.
pub const CONTROL_OP_COLLATION: u32 = 17;
/// `[kind, handle, number]`: sets a hook, `CALLBACK_AUTHORIZER` or above; handle 0 removes it.
pub const CONTROL_OP_HOOK: u32 = 18;
/// `[handle of the loader, allowed]`: whether extensions may be loaded.
pub const CONTROL_OP_EXTENSIONS: u32 = 24;
/// `[handle of the loader, name, entry point or nil]`: `sqlite3_load_extension`.
pub const CONTROL_OP_LOAD_EXTENSION: u32 = 25;

// Request flags.
pub const REQUEST_EXTERNAL: u8 = 1;

// Bits of `format`.
pub const FORMAT_SHAPE_MASK: u16 = 0x3;
pub const FORMAT_ARRAYS: u16 = 0;
pub const FORMAT_MAPS: u16 = 1;
pub const FORMAT_TEXT_AS_BYTES: u16 = 0x4;
pub const FORMAT_COLUMNS: u16 = 0x8;
pub const FORMAT_DECLARED_TYPES: u16 = 0x10;
pub const FORMAT_BEGIN_SHIFT: u16 = 5;
pub const FORMAT_BEGIN_MASK: u16 = 0xe0;
pub const FORMAT_TEXT_AS_EXTENSION: u16 = 0x100;
pub const FORMAT_SCRIPT_COMMITS: u16 = 0x200;
pub const FORMAT_REFUSE_POSITIONS: u16 = 0x400;
pub const FORMAT_UNINTERRUPTIBLE: u16 = 0x800;
pub const FORMAT_BEGIN_FOR_CHANGES: u16 = 0x1000;
pub const FORMAT_BEGIN_FOR_READS: u16 = 0x2000;

// Reply kinds and flags.
pub const REPLY_BATCH: u8 = 1;
pub const REPLY_DONE: u8 = 2;
pub const REPLY_ERROR: u8 = 3;
pub const REPLY_FAILED: u8 = 4;
pub const REPLY_IN_TRANSACTION: u8 = 1;
pub const REPLY_SPILLED: u8 = 2;
pub const REPLY_CHANGES_DATA: u8 = 4;
pub const REPLY_HAS_COLUMNS: u8 = 8;
pub const REPLY_NO_STATEMENT: u8 = 16;

// Error classes.
pub const ERROR_SQLITE: u8 = 0;
pub const ERROR_PROGRAMMING: u8 = 1;
pub const ERROR_OVERFLOW: u8 = 2;
pub const ERROR_UNSUPPORTED: u8 = 3;
pub const ERROR_TEXT: u8 = 4;
pub const ERROR_DATA: u8 = 5;
pub const ERROR_INTERNAL: u8 = 6;
pub const ERROR_POSITIONS: u8 = 7;

/// MessagePack extension type of a parameter that cannot be bound; its payload names the type.
pub const EXT_UNSUPPORTED: i8 = 1;
/// MessagePack extension type of unchecked text in rows, used with `FORMAT_TEXT_AS_EXTENSION`.
pub const EXT_TEXT: i8 = 2;
/// MessagePack extension type, without payload, of a value that a change leaves unchanged.
pub const EXT_NO_CHANGE: i8 = 3;

// Why the guest parks.
pub const PARK_IDLE: i32 = 0;
pub const PARK_FULL: i32 = 1;

// Results of `park`: check for a request again, or leave the service loop.
pub const PARKED_AGAIN: i32 = 0;
pub const PARKED_STOP: i32 = 1;

/// Bit in the flags of `file_open`: the WAL index of this database is only read.
pub const OPEN_INDEX_READONLY: i32 = 0x4000_0000;
/// Bit in the flags that `file_open` returns: calls for this database's locks may block.
pub const OPEN_REMOTE: i32 = 0x2000_0000;

/// Bit in the flags of `file_sync`: sync the directory as well.
pub const SYNC_DIRECTORY: i32 = 0x100;

/// In what `file_lock` writes for SHARED: the database may have a journal.
pub const FACT_JOURNAL: i32 = 1;
/// The same for a WAL.
pub const FACT_WAL: i32 = 2;
