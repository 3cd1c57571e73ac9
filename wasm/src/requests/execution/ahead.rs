//! An execution that puts calls of functions off: it reads rows ahead, has the calls made, and then sends the rows.

use crate::abi;
use crate::buffers::push;
use crate::callbacks::Callbacks;
use crate::connection::Connection;
use crate::error::{Result, code};
use crate::program::Plan;
use crate::requests::execution::rows::Ahead;
use crate::requests::execution::{Run, Stand};
use crate::sqlite::statement::Statement;
use crate::wire::rows::Batch;

impl Run {
    /// As `fill`, by way of rows that are read ahead. One more than is sent is read: it shows that there are more.
    pub(super) fn fill_ahead(
        &mut self,
        ahead: &mut Ahead,
        statement: &mut Statement,
        connection: &Connection,
        batch: &mut Batch,
        most: u64,
    ) -> Result<()> {
        let callbacks = &connection.watch.callbacks;
        let most_rows = match connection.options.max_rows {
            0 => most,
            limit => most.min(limit),
        };
        loop {
            while self.has_room(batch, most) && ahead.is_complete() {
                self.send(batch, &connection.options, |_, batch| ahead.send(batch))?;
            }
            if ahead.left() == 0 {
                if let Some(error) = self.error.take() {
                    return Err(error);
                }
                if self.stand == Stand::End {
                    return Ok(());
                }
                let rows = most_rows.saturating_sub(self.rows).saturating_add(1);
                let bytes = (abi::BATCH_BYTES as usize).saturating_sub(batch.len());
                let read = ahead.read(callbacks, |ahead, plan| {
                    self.read(ahead, plan, callbacks, statement, (rows, bytes))
                });
                match read {
                    // Calls that were put off are not made any more.
                    Err(error) if error.code & 0xff == code::INTERRUPT => return Err(error),
                    read => self.error = read.err(),
                }
            } else if self.has_room(batch, most) {
                let made = ahead.make_calls(callbacks);
                if !ahead.is_complete() {
                    made?;
                }
            } else {
                return Ok(());
            }
        }
    }

    /// Reads rows ahead, at least one and at most so many, until they have so many bytes or enough calls were put off.
    fn read(
        &mut self,
        ahead: &mut Ahead,
        plan: &Plan,
        callbacks: &Callbacks,
        statement: &mut Statement,
        (rows, bytes): (u64, usize),
    ) -> Result<()> {
        let columns = statement.column_count();
        loop {
            if !statement.step()? {
                self.stand = Stand::End;
                return Ok(());
            }
            ahead.add(callbacks.deferred_count(), |out, holes| {
                let mut next = plan.holes.iter().map(|(column, _)| *column).peekable();
                self.encode_row(columns, out, |column, out| match next.peek() {
                    Some(hole) if *hole == column => {
                        next.next();
                        push(holes, out.len())
                    }
                    _ => statement.encode_value(column, self.format, out),
                })
            })?;
            if ahead.left() as u64 >= rows || ahead.expected_bytes() >= bytes || callbacks.is_full()
            {
                return Ok(());
            }
        }
    }
}
