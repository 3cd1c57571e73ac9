//! Checks of a statement's text that SQLite leaves to its caller.

use crate::error::{Error, Result};

/// SQLite would stop reading at a NUL and run what precedes it.
pub fn refuse_nul(sql: &[u8]) -> Result<()> {
    if sql.contains(&0) {
        return Err(Error::programming("the query contains a null character"));
    }
    Ok(())
}

/// Whether `sql` contains no statement: only whitespace, comments and semicolons.
///
/// What SQLite's tokenizer skips: <https://sqlite.org/lang_comment.html>; a comment may be unterminated.
pub fn is_blank(sql: &[u8]) -> bool {
    let mut rest = sql;
    loop {
        rest = match rest {
            [] => return true,
            [b' ' | b'\t' | b'\n' | b'\x0c' | b'\r' | b';', after @ ..] => after,
            [b'-', b'-', after @ ..] => after_first(after, b"\n"),
            [b'/', b'*', after @ ..] => after_first(after, b"*/"),
            _ => return false,
        };
    }
}

/// Whether the URI in an ATTACH requests a shared in-memory database.
/// <https://sqlite.org/inmemorydb.html#sharedmemdb>
pub fn shares_memory(attach: &[u8]) -> bool {
    let holds = |part: &[u8]| attach.windows(part.len()).any(|window| window == part);
    let is_memory = holds(b"mode=memory") || holds(b"file::memory:");
    (holds(b"cache=shared") && is_memory) || (holds(b"vfs=memdb") && holds(b"file:/"))
}

fn after_first<'a>(text: &'a [u8], end: &[u8]) -> &'a [u8] {
    match text.windows(end.len()).position(|window| window == end) {
        Some(start) => &text[start + end.len()..],
        None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_databases_in_memory_share_memory() {
        for (uri, expected) in [
            ("file:x?mode=memory&cache=shared", true),
            ("file:x?cache=shared&mode=memory", true),
            ("file::memory:?cache=shared", true),
            ("file:/x?vfs=memdb", true),
            ("file:x?vfs=memdb", false),
            ("file:x?mode=memory", false),
            ("file:x?cache=shared", false),
            ("x.db", false),
        ] {
            let attach = format!("ATTACH '{uri}' AS x");
            assert_eq!(shares_memory(attach.as_bytes()), expected, "{uri}");
        }
    }

    #[test]
    fn whitespace_comments_and_semicolons_are_blank() {
        for sql in [
            "",
            " \t\r\n\x0c",
            ";;",
            "-- a",
            "-- a\n;",
            "/* a */ ",
            "/* a",
            "/**/--\n--",
        ] {
            assert!(is_blank(sql.as_bytes()), "{sql:?}");
        }
    }

    #[test]
    fn anything_else_is_not_blank() {
        for sql in [
            "x", "-", "- -", "/", "/ *", "--\nx", "/* */x", "/*/x*/ y", "\x0b", "\0",
        ] {
            assert!(!is_blank(sql.as_bytes()), "{sql:?}");
        }
    }

    #[test]
    fn a_nul_is_refused_wherever_it_stands() {
        assert!(refuse_nul(b"SELECT 1").is_ok());
        assert!(refuse_nul(b"SELECT 1;\0").is_err());
    }
}
