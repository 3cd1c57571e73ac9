"""OpenTelemetry: a span for each statement, metrics for statements and pools. Needs ``opentelemetry-api``.

https://opentelemetry.io/docs/specs/semconv/database/database-spans/

Spans follow the semantic conventions for databases. They contain no values: neither parameters nor the literals of the
statement's text, which are replaced by ``?``.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import metrics, trace

from rapsqlite import __version__
from rapsqlite import _constants as abi
from rapsqlite._client.observers import observers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from rapsqlite._guest.guest import Guest
    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._wasm.rings import Reply, Request
    from rapsqlite.connection import Connection

__all__ = ["RapsqliteInstrumentor"]

_TRACED = frozenset(
    {
        abi.OP_EXECUTE,
        abi.OP_FETCH,
        abi.OP_MANY,
        abi.OP_SCRIPT,
        abi.OP_FETCH_PREPARED,
        abi.OP_EXECUTE_PREPARED,
        abi.OP_BLOCK_ENTER,
        abi.OP_BLOCK_KEEP,
        abi.OP_BLOCK_UNDO,
    }
)
# Quoted names and comments come first, so that nothing inside them matches as a literal.
_LITERAL = re.compile(
    r"""(?P<kept>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|[A-Za-z_$:@?\x80-\U0010ffff](?<![xX](?='))[\w$]*)"""
    r"""|\[[^\]]*\Z|--[^\n]*|/\*.*?(?:\*/|\Z)|[xX]?'(?:[^']|'')*'?|\d[\w.]*(?:(?<=[eE])[+-]\d+)?|\.\d\w*""",
    re.DOTALL,
)

# The first keyword, behind comments, each of which matches in one way only.
_OPERATION = re.compile(r"(?:[\s;\ufeff]|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*([A-Za-z]{1,20})")


class RapsqliteInstrumentor:
    """Traces all connections opened between `instrument` and `uninstrument`, or a single one.

    Has the methods of OpenTelemetry's ``BaseInstrumentor``, and is its entry point: ``opentelemetry-instrument`` finds
    it.
    """

    _observer: Callable[[Any], object] | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the packages that must be installed: none."""
        return []

    @property
    def is_instrumented_by_opentelemetry(self) -> bool:
        """Whether new connections are traced."""
        return RapsqliteInstrumentor._observer is not None

    def instrument(self, *, tracer_provider: Any = None, meter_provider: Any = None, **_: object) -> None:
        """Trace every connection opened from now on; idempotent."""
        if RapsqliteInstrumentor._observer is None:
            telemetry = _Telemetry(tracer_provider, meter_provider)
            RapsqliteInstrumentor._observer = telemetry.attach
            observers.append(telemetry.attach)

    def uninstrument(self, **_: object) -> None:
        """Trace no further connections. Open connections stay traced."""
        observer, RapsqliteInstrumentor._observer = RapsqliteInstrumentor._observer, None
        if observer is not None:
            observers.remove(observer)

    def instrument_connection(
        self, connection: Connection, *, tracer_provider: Any = None, meter_provider: Any = None
    ) -> None:
        """Trace an open connection; idempotent."""
        _Telemetry(tracer_provider, meter_provider).attach(connection)

    def instrument_pool(self, statistics: Callable[[], Mapping[str, float]], *, meter_provider: Any = None) -> None:
        """Report each number of a pool's ``statistics`` as a gauge: pass ``pool.statistics``."""
        meter = metrics.get_meter("rapsqlite", __version__, meter_provider)
        for name in statistics():
            meter.create_observable_gauge(f"rapsqlite.pool.{name}", callbacks=[_observed(statistics, name)])


def _observed(statistics: Callable[[], Mapping[str, float]], name: str) -> Callable[[Any], list[metrics.Observation]]:
    return lambda _: [metrics.Observation(statistics()[name])]


class _Telemetry:
    """A tracer and a meter's instruments."""

    def __init__(self, tracer_provider: Any, meter_provider: Any) -> None:
        self.tracer = trace.get_tracer("rapsqlite", __version__, tracer_provider)
        meter = metrics.get_meter("rapsqlite", __version__, meter_provider)
        self.duration = meter.create_histogram(
            "db.client.operation.duration", "s", "Duration of database client operations."
        )
        self.rows = meter.create_histogram(
            "db.client.response.returned_rows", "{row}", "The actual number of records returned by the operation."
        )

    def attach(self, connection: Connection) -> None:
        """Trace a connection unless it is already traced."""
        guest = connection._state.guest
        guest.state  # noqa: B018 - raises if the connection is not open
        if getattr(guest, "telemetry", None) is None:
            connection._state.guest = cast("Guest", _TracedGuest(guest, self, connection.path))


class _TracedGuest:
    """Passes everything on to ``guest``, with a span around each statement."""

    def __init__(self, guest: Guest, telemetry: _Telemetry, path: str) -> None:
        self.guest = guest
        self.telemetry = telemetry
        self._path = path
        self._last_end = 0.0  # when the latest reply arrived, which is when the next statement can start to run
        self._sent: dict[int, _Statement] = {}  # submitted requests, by identity

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guest, name)

    async def call(self, request: Request) -> Reply:
        """See `Guest.call`."""
        if request.op not in _TRACED:
            return await self.guest.call(request)
        with self._begin(request) as statement:
            reply = await self.guest.call(request)
            statement.note_reply(reply)
            return reply

    async def collect(self, request: Request, decode: Callable[[bytes], list[Any]]) -> tuple[list[Any], Reply]:
        """See `Guest.collect`."""
        with self._begin(request) as statement:
            rows, reply = await self.guest.collect(request, decode)
            statement.row_count = len(rows)
            return rows, reply

    def submit(self, pending: PendingRequest) -> None:
        """See `Guest.submit`."""
        self.guest.submit(pending)
        if pending.request.op in _TRACED:
            self._sent[id(pending)] = self._begin(pending.request)

    async def result(self, pending: PendingRequest) -> Reply:
        """See `Guest.result`."""
        statement = self._sent.pop(id(pending), None)
        if statement is None:
            return await self.guest.result(pending)
        with statement:
            reply = await self.guest.result(pending)
            statement.note_reply(reply)
            return reply

    def abandon(self, pending: PendingRequest) -> None:
        """See `Guest.abandon`."""
        statement = self._sent.pop(id(pending), None)
        if statement is not None:
            statement.__exit__(None, None)
        self.guest.abandon(pending)

    def _begin(self, request: Request) -> _Statement:
        sql = request.sql or self.guest.prepared.get(request.target, b"")
        text = sql.decode("utf-8", "replace") or "COMMIT"  # an empty script only commits
        return _Statement(self, text)

    def ran_from(self, begun: float) -> tuple[float, float]:
        """Return when a statement sent at ``begun`` could start to run, and the current time, its end."""
        now = time.perf_counter()
        started, self._last_end = max(begun, self._last_end), now
        return min(started, now), now

    def attributes(self, text: str) -> dict[str, str]:
        """Return a statement's record before it runs."""
        operation = _operation(text)
        return {
            "db.system.name": "sqlite",
            "db.namespace": self._path,
            "db.operation.name": operation,
            "db.query.summary": operation,
        }


class _Statement:
    """The span of one statement, from sending it to its reply; the current span of the task is its parent."""

    def __init__(self, guest: _TracedGuest, text: str) -> None:
        self.row_count: int | None = None
        self._guest = guest
        self._attributes = guest.attributes(text)
        self._begun = time.perf_counter()
        self._span = guest.telemetry.tracer.start_span(
            self._attributes["db.query.summary"],
            kind=trace.SpanKind.CLIENT,
            attributes={**self._attributes, "db.query.text": without_literals(text)},
        )

    def note_reply(self, reply: Reply) -> None:
        """Record how many rows a statement returned, if the reply has all of them."""
        if not reply.handle and reply.error is None and reply.column_count:
            self.row_count = reply.row_count

    def __enter__(self) -> _Statement:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        span, guest = self._span, self._guest
        started, now = guest.ran_from(self._begun)
        span.set_attribute("rapsqlite.wait_time", started - self._begun)
        span.set_attribute("rapsqlite.run_time", now - started)
        attributes = self._attributes
        if kind is not None:
            attributes = {**attributes, "error.type": getattr(error, "sqlite_errorname", None) or kind.__qualname__}
            span.set_attribute("error.type", attributes["error.type"])
            if isinstance(error, Exception):  # a cancellation is not an error
                span.set_attribute("db.response.status_code", attributes["error.type"])
                span.set_status(trace.StatusCode.ERROR, kind.__qualname__)
        elif self.row_count is not None:
            span.set_attribute("db.response.returned_rows", self.row_count)
            guest.telemetry.rows.record(self.row_count, attributes)
        span.end()
        guest.telemetry.duration.record(now - self._begun, attributes)


def _operation(text: str) -> str:
    """Return the first keyword of a statement."""
    match = _OPERATION.match(text)
    return match[1].upper() if match else "UNKNOWN"


def without_literals(text: str) -> str:
    """Return a statement with ``?`` for each string, blob and number in it, and without comments."""
    return _LITERAL.sub(_replaced, text).strip()


def _replaced(match: re.Match[str]) -> str:
    if match["kept"]:
        return match[0]
    return "" if match[0].startswith(("--", "/*")) else "?"
