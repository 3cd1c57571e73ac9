//! Rows of one reply: counted, complete, in order.

use rapsqlite_engine::error::Error;
use rapsqlite_engine::wire::params::Reader;
use rapsqlite_engine::wire::rows::Batch;

#[test]
fn a_batch_is_an_array_of_its_rows() {
    let mut batch = Batch::default();
    for round in 0..3_u32 {
        batch.clear(1 << 20);
        batch.begin().expect("there is memory");
        let rows = round * 70_000;
        for row in 0..rows {
            batch
                .row(|out| out.integer(row.into()))
                .expect("there is memory");
        }

        assert_eq!((batch.row_count(), batch.is_empty()), (rows, rows == 0));
        let mut reader = Reader::new(batch.bytes());
        assert_eq!(reader.array(), Ok(rows as usize));
        for row in 0..rows {
            assert_eq!(reader.integer(), Ok(row.into()));
        }
        assert!(reader.is_empty());
    }
}

#[test]
fn a_row_that_fails_leaves_no_trace() {
    let mut batch = Batch::default();
    batch.clear(1 << 20);
    batch.begin().expect("there is memory");
    batch.row(|out| out.text(b"kept")).expect("there is memory");

    let failed = batch.row(|out| {
        out.array(2)?;
        Err(Error::interrupted())
    });

    assert_eq!(failed, Err(Error::interrupted()));
    let mut reader = Reader::new(batch.bytes());
    assert_eq!((reader.array(), reader.text()), (Ok(1), Ok(&b"kept"[..])));
    assert!(reader.is_empty());
}
