//! The service loop: take a request, dispatch it, reply, park.
//!
//! The guest's thread enters `rapsqlite_run` once and leaves it when the connection is closed.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::panic;

use crate::abi;
use crate::connection::{Connection, Options};
use crate::control::control;
use crate::error::{Error, Result};
use crate::executor::{Answer, Content, Executor, Input};
use crate::host::{self, Parked};
use crate::library;
use crate::reply::{Body, Replies};
use crate::ring::{ReplyHeader, Request, Rings};
use crate::wire::rows::Encoder;

/// Looks at the request ring before parking: 20 to 40 µs, about what it costs the host to wake a parked
/// guest. A host that answers at once, as under load, never finds it asleep.
const LOOKS_BEFORE_PARKING: u32 = 30_000;

static RINGS: AtomicPtr<Rings> = AtomicPtr::new(ptr::null_mut());

/// The rings of this instance, allocated by the first call.
fn rings() -> &'static Rings {
    let mut rings = RINGS.load(Ordering::Relaxed);
    if rings.is_null() {
        rings = Box::leak(Box::new(Rings::allocate(
            abi::REQUEST_RING_BYTES,
            abi::REPLY_RING_BYTES,
        )));
        RINGS.store(rings, Ordering::Relaxed);
    }
    // SAFETY: leaked above, never changed or freed, and an instance runs on one thread.
    unsafe { &*rings }
}

#[unsafe(no_mangle)]
pub extern "C" fn rapsqlite_abi_version() -> u32 {
    abi::ABI_VERSION
}

/// The address of the control block.
#[unsafe(no_mangle)]
pub extern "C" fn rapsqlite_control() -> u32 {
    ptr::from_ref(rings().control) as usize as u32
}

/// Serves requests until `CLOSE` was answered or the host wants the guest to leave.
#[unsafe(no_mangle)]
pub extern "C" fn rapsqlite_run() -> i32 {
    // The trap that follows a panic carries no message.
    panic::set_hook(Box::new(|info| {
        host::log(format!("the guest panicked: {info}").as_bytes())
    }));
    let rings = rings();
    let mut service = Service {
        rings,
        replies: Replies::new(rings),
        executor: None,
        scratch: Encoder::default(),
    };
    while let Some(request) = service.wait() {
        if service.serve(request) {
            break;
        }
    }
    0
}

struct Service<'r> {
    rings: &'r Rings,
    replies: Replies<'r>,
    executor: Option<Executor>,
    /// Bodies of errors.
    scratch: Encoder,
}

impl<'r> Service<'r> {
    /// The next request, or `None` if the host wants the guest to leave.
    fn wait(&self) -> Option<Request<'r>> {
        let mut looks = 0;
        loop {
            if self.rings.control.is_stopped() {
                return None;
            }
            if let Some(request) = self.rings.requests.next() {
                return Some(request);
            }
            while looks < LOOKS_BEFORE_PARKING && self.rings.requests.is_empty() {
                looks += 1;
                core::hint::spin_loop();
            }
            if self.rings.requests.is_empty() {
                if host::park(abi::PARK_IDLE) == Parked::Leave {
                    return None;
                }
                looks = 0;
            }
        }
    }

    /// Answers one request; `true` if it was the last.
    fn serve(&mut self, request: Request<'r>) -> bool {
        if let Some(executor) = &self.executor {
            executor.connection.enter(request.cancel_word());
        }
        let result = self.dispatch(&request);
        let closes = request.op == abi::OP_CLOSE;
        self.answer(request.id, result);
        if let Some(executor) = &self.executor {
            executor.connection.leave();
        }
        // The frame goes back before the bell: a host that waits for room looks for it when it is rung.
        self.rings.requests.release(request);
        self.replies.ring_bell();
        closes || self.replies.host_left()
    }

    fn dispatch(&mut self, request: &Request<'_>) -> Result<Answer> {
        let cleans_up = matches!(request.op, abi::OP_CLOSE | abi::OP_FINISH | abi::OP_RELEASE);
        if request.is_cancelled() && !cleans_up {
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
        library::initialize()?;
        let options = Options::decode(options)?;
        let mut executor = Executor::new(Connection::open(name, options)?);
        executor.restart()?;
        self.executor = Some(executor);
        Ok(Answer::nothing())
    }

    fn run(&mut self, request: &Request<'_>, input: Input<'_>) -> Result<Answer> {
        let no_connection = || Error::programming("Cannot operate on a closed database.");
        let executor = self.executor.as_mut().ok_or_else(no_connection)?;
        executor.restart()?;
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
            abi::OP_CONTROL => control(executor, request.a, input.params, replies.counters),
            abi::OP_FINISH => {
                executor.finish(request.a);
                Ok(Answer::nothing())
            }
            abi::OP_RELEASE => {
                executor.release(request.a);
                Ok(Answer::nothing())
            }
            op => Err(Error::internal(format!("unknown operation {op}"))),
        };
        result.map_err(|error| executor.connection.explained(error))
    }

    /// Puts the one final reply of a request into the ring.
    fn answer(&mut self, id: u32, result: Result<Answer>) {
        let sent = match result {
            Ok(answer) => self.done(id, answer),
            Err(error) => Err(error),
        };
        let Err(error) = sent else { return };
        if !self.replies.host_left() {
            self.error(id, &error);
        }
    }

    fn done(&mut self, id: u32, answer: Answer) -> Result<()> {
        match &mut self.executor {
            Some(executor) => {
                let header = executor.header(id, abi::REPLY_DONE, &answer);
                self.replies.put(header, executor.body(answer.content))
            }
            None => {
                let header = ReplyHeader {
                    id,
                    kind: abi::REPLY_DONE,
                    changes: -1,
                    ..ReplyHeader::default()
                };
                self.replies.put(header, Body::default())
            }
        }
    }

    fn error(&mut self, id: u32, error: &Error) {
        self.scratch.clear(abi::BATCH_BYTES as usize);
        if error.encode(&mut self.scratch).is_err() {
            // No memory for the message; the code alone always fits into what `clear` kept.
            self.scratch.clear(0);
        }
        let nothing = Answer {
            content: Content::Value,
            ..Answer::nothing()
        };
        let header = match &self.executor {
            Some(executor) => executor.header(id, abi::REPLY_ERROR, &nothing),
            None => ReplyHeader {
                id,
                kind: abi::REPLY_ERROR,
                changes: -1,
                ..ReplyHeader::default()
            },
        };
        let body = Body {
            columns: &[],
            rows: self.scratch.bytes(),
        };
        let sent = self.replies.put(header, body);
        assert!(
            sent.is_ok() || self.replies.host_left(),
            "an error that could not be told: {error:?}"
        );
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
    let mut body = Vec::new();
    body.try_reserve_exact(len)
        .map_err(|_| Error::out_of_memory())?;
    body.resize(len, 0);
    host::payload(request.id, &mut body).map_err(|code| {
        Error::new(
            abi::ERROR_INTERNAL,
            code,
            "the host did not hand over the request's body",
        )
    })?;
    Ok(Some(body))
}
