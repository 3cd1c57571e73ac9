//! The service loop: take a request, dispatch it, reply, park.
//!
//! The guest's thread stays in here from the connection's start to its end.

use crate::abi;
use crate::buffers::zeroed;
use crate::callbacks::extensions;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::host;
use crate::requests::answer::Answer;
use crate::requests::control::control;
use crate::requests::executor::{Executor, Input};
use crate::requests::many;
use crate::requests::replies::{Body, Replies};
use crate::requests::{backup, blob, changeset, image, session};
use crate::ring::Rings;
use crate::ring::reply::ReplyHeader;
use crate::ring::request::Request;
use crate::ring::sleep;
use crate::sqlite::init;
use crate::sqlite::options::Options;
use crate::vfs;
use crate::wire::rows::Encoder;

/// Reserved for an error's body, so that running out of memory can be reported.
const SCRATCH_BYTES: usize = 4096;

/// Serves requests until `CLOSE` was answered or the host wants the guest to stop.
pub fn serve(rings: &Rings) {
    let mut service = Service {
        rings,
        replies: Replies::new(rings),
        executor: None,
        scratch: Encoder::with_capacity(SCRATCH_BYTES),
    };
    while let Some(request) = service.wait() {
        if service.serve(request) {
            break;
        }
    }
}

struct Service<'r> {
    rings: &'r Rings,
    replies: Replies<'r>,
    executor: Option<Executor>,
    /// Bodies of errors.
    scratch: Encoder,
}

impl<'r> Service<'r> {
    /// The next request, or `None` if the host wants the guest to stop.
    fn wait(&mut self) -> Option<Request<'r>> {
        let mut spins = 0;
        loop {
            if self.rings.control.is_stopped() {
                return None;
            }
            if let Some(request) = self.rings.requests.next() {
                return Some(request);
            }
            let (control, requests) = (self.rings.control, &self.rings.requests);
            while spins < control.spins() && requests.is_empty() {
                spins += 1;
                core::hint::spin_loop();
            }
            if requests.is_empty() {
                vfs::give_back_locks();
                self.replies.counters.parks += 1;
                if !sleep::park(control, abi::PARK_IDLE, || !requests.is_empty()) {
                    return None;
                }
                spins = 0;
            }
        }
    }

    /// Answers one request; `true` if it was the last.
    fn serve(&mut self, request: Request<'r>) -> bool {
        if let Some(executor) = &self.executor {
            executor
                .connection
                .watch
                .begin_request(request.cancel_word());
        }
        if let Some(prelock) = self.rings.control.take_prelock() {
            vfs::prelock(prelock);
        }
        let result = self.dispatch(&request);
        if let Some(executor) = &self.executor {
            executor.connection.watch.apply_busy_timeout();
        }
        let closes = request.op == abi::OP_CLOSE;
        let queued = self.rings.requests.has_more_than(&request);
        self.answer(&request, result, queued);
        if let Some(executor) = &self.executor {
            executor.connection.watch.end_request();
        }
        // The frame is released before the bell: a host that waits for space checks for it when the bell rings.
        self.rings.requests.release(request);
        self.replies.ring_bell();
        closes || self.replies.host_left()
    }

    fn dispatch(&mut self, request: &Request<'_>) -> Result<Answer> {
        // A script may begin with statements that always run.
        let goes_on = matches!(
            request.op,
            abi::OP_CLOSE
                | abi::OP_FINISH
                | abi::OP_RELEASE
                | abi::OP_DROP
                | abi::OP_SCRIPT
                | abi::OP_BLOCK_UNDO
        );
        if request.is_cancelled() && !goes_on {
            return Err(Error::interrupted());
        }
        let external = external_body(request)?;
        let body = external.as_deref().unwrap_or(request.body);
        let (sql, params) = body.split_at(request.sql_len);
        match request.op {
            abi::OP_OPEN => self.open(sql, params),
            abi::OP_CLOSE => {
                self.executor = None;
                Ok(Answer::nothing())
            }
            _ => self.run(request, Input { sql, params }),
        }
    }

    fn open(&mut self, name: &[u8], options: &[u8]) -> Result<Answer> {
        if self.executor.is_some() {
            return Err(Error::internal("this guest already has a connection"));
        }
        init::initialize()?;
        extensions::install();
        let options = Options::decode(options)?;
        vfs::limit_size(options.file_bytes);
        let mut executor = Executor::new(Connection::open(name, options)?);
        executor.output.restart()?;
        self.executor = Some(executor);
        Ok(Answer::nothing())
    }

    fn run(&mut self, request: &Request<'_>, input: Input<'_>) -> Result<Answer> {
        let no_connection = || Error::programming("Cannot operate on a closed database.");
        let executor = self.executor.as_mut().ok_or_else(no_connection)?;
        executor.output.restart()?;
        if !matches!(request.op, abi::OP_EXECUTE..=abi::OP_MANY | abi::OP_FETCH_PREPARED..=abi::OP_RELEASE)
        {
            vfs::give_back_locks();
        }
        let replies = &mut self.replies;
        let result = match request.op {
            abi::OP_EXECUTE => executor.execute(request, input),
            abi::OP_NEXT => executor.next(request),
            abi::OP_FETCH => executor.fetch(request, input, replies),
            abi::OP_MANY => executor.many(request, input),
            abi::OP_SCRIPT => executor.script(request, input.sql),
            abi::OP_PREPARE => executor.prepare(input.sql),
            abi::OP_FETCH_PREPARED => executor.fetch_prepared(request, input.params, replies),
            abi::OP_EXECUTE_PREPARED => executor.execute_prepared(request, input.params),
            abi::OP_BLOCK_ENTER | abi::OP_BLOCK_KEEP | abi::OP_BLOCK_UNDO => {
                many::block(&mut executor.connection, request, input.sql)
            }
            abi::OP_CONTROL => control(executor, request.target, input.params, replies.counters),
            abi::OP_FINISH => {
                executor.finish(request.target);
                Ok(Answer::nothing())
            }
            abi::OP_RELEASE => {
                executor.release(request.target);
                Ok(Answer::nothing())
            }
            _ => serve_object(executor, request, input, replies),
        };
        executor.checked(result)
    }

    /// Puts the one final reply of a request into the ring.
    fn answer(&mut self, request: &Request<'_>, result: Result<Answer>, queued: bool) {
        let id = request.id;
        let sent = result.and_then(|answer| {
            self.done(id, &answer, queued)
                .inspect_err(|_| self.forget(&answer, request.target))
        });
        let Err(error) = sent else { return };
        if !self.replies.host_left() {
            let executor = self.executor.as_ref();
            let max_bytes = executor.map_or(0, |executor| executor.connection.options.max_bytes);
            self.error(id, &error.within(max_bytes), queued);
        }
    }

    /// Ends what has a handle that the host will never know, and the execution of what the request was about.
    fn forget(&mut self, answer: &Answer, known: u32) {
        if let Some(executor) = &mut self.executor {
            executor.finish(answer.handle);
            if answer.handle != known {
                executor.release(answer.handle);
                drop(executor.objects.close(answer.handle));
            }
        }
        vfs::give_back_locks();
    }

    fn done(&mut self, id: u32, answer: &Answer, queued: bool) -> Result<()> {
        let Some(executor) = &mut self.executor else {
            return self
                .replies
                .put_last(bare_header(id, abi::REPLY_DONE), [&[], &[]], queued);
        };
        let batch = &executor.output.batch;
        let kind = match batch.is_failed() {
            true => abi::REPLY_FAILED,
            false => abi::REPLY_DONE,
        };
        let mut header = answer.header(id, kind, &executor.connection, batch.row_count());
        let body = executor.output.body(answer.content);
        let Some(len) = self.replies.hand_over(&mut header, body)? else {
            let parts = [body.columns, body.rows];
            return self.replies.put_last(header, parts, queued);
        };
        // Their memory is freed before the host has the answer.
        executor.output.clear_rows();
        let columns = &executor.output.columns.bytes()[..len];
        self.replies.put_last(header, [columns, &[]], queued)
    }

    fn error(&mut self, id: u32, error: &Error, queued: bool) {
        self.scratch.clear(SCRATCH_BYTES);
        if self.scratch.error(error).is_err() {
            self.scratch.clear(SCRATCH_BYTES);
            let short = self.scratch.error(&Error::out_of_memory());
            short.expect("a short message fits into what was reserved");
        }
        let mut header = match &self.executor {
            Some(executor) => Answer::value().header(id, abi::REPLY_ERROR, &executor.connection, 0),
            None => bare_header(id, abi::REPLY_ERROR),
        };
        let rows = self.scratch.bytes();
        let body = Body { columns: &[], rows };
        let sent = self.replies.hand_over(&mut header, body);
        let sent = sent.and_then(|handed_over| {
            let rows = if handed_over.is_some() { &[][..] } else { rows };
            self.replies.put_last(header, [&[], rows], queued)
        });
        assert!(
            sent.is_ok() || self.replies.host_left(),
            "an error that could not be sent: {error:?}"
        );
    }
}

/// Answers the requests about objects other than statements.
fn serve_object(
    executor: &mut Executor,
    request: &Request<'_>,
    input: Input<'_>,
    replies: &mut Replies<'_>,
) -> Result<Answer> {
    let changes = match request.op {
        abi::OP_APPLY | abi::OP_DESERIALIZE => true,
        abi::OP_BACKUP_OPEN => request.target == abi::BACKUP_FROM_IMAGE,
        _ => false,
    };
    if changes {
        executor.connection.blocks.check()?;
    }
    match request.op {
        abi::OP_BACKUP_OPEN => backup::open(executor, request, input),
        abi::OP_BACKUP_STEP => backup::step(executor, request),
        abi::OP_DESERIALIZE => image::deserialize(executor, request, input.params),
        abi::OP_BLOB_OPEN => blob::open(executor, input.params),
        abi::OP_BLOB_READ => blob::read(executor, request, input.params, replies),
        abi::OP_BLOB_WRITE => blob::write(executor, request, input.params),
        abi::OP_SESSION_OPEN => session::open(executor, input.params),
        abi::OP_SESSION => session::serve(executor, request, input.params),
        abi::OP_APPLY => changeset::apply(executor, input.params),
        abi::OP_INVERT => changeset::invert(executor, input.params),
        abi::OP_COMBINE => changeset::combine(executor, input.params),
        abi::OP_DROP => {
            executor.objects.close(request.target)?;
            Ok(Answer::nothing())
        }
        op => Err(Error::internal(format!("unknown operation {op}"))),
    }
}

/// The header of a reply without a connection.
fn bare_header(id: u32, kind: u8) -> ReplyHeader {
    ReplyHeader {
        id,
        kind,
        changes: -1,
        ..ReplyHeader::default()
    }
}

/// The body of an `EXTERNAL` request, fetched from the host.
fn external_body(request: &Request<'_>) -> Result<Option<Vec<u8>>> {
    if request.flags & abi::REQUEST_EXTERNAL == 0 {
        return Ok(None);
    }
    let len = request
        .sql_len
        .checked_add(request.params_len)
        .ok_or_else(Error::out_of_memory)?;
    let mut body = zeroed(len)?;
    host::payload(request.id, &mut body).map_err(|code| {
        Error::new(
            abi::ERROR_INTERNAL,
            code,
            "the host did not provide the request's body",
        )
    })?;
    Ok(Some(body))
}
