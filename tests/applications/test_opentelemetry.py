"""Spans and metrics: one span per statement with the caller's span as its parent, and no values anywhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import rapsqlite
from rapsqlite import connect, opentelemetry
from rapsqlite.opentelemetry import RapsqliteInstrumentor, without_literals
from tests.callbacks.lingering import Blocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Telemetry:
    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def spans(self) -> list[Any]:
        found = list(self._spans.get_finished_spans())
        self._spans.clear()
        return found

    def metrics(self) -> dict[str, Any]:
        data: Any = self._reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    found = Telemetry()
    yield found
    found.tracers.shutdown()
    found.meters.shutdown()


@pytest.fixture
async def conn(telemetry: Telemetry) -> AsyncIterator[rapsqlite.Connection]:
    instrumentor = RapsqliteInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
    try:
        async with connect(":memory:") as connection:
            await connection.execute("CREATE TABLE t (a)")
            telemetry.spans()
            yield connection
    finally:
        instrumentor.uninstrument()


async def test_a_span_started_in_a_callback_has_the_span_of_the_statements_task_as_its_parent(
    conn: rapsqlite.Connection, telemetry: Telemetry
) -> None:
    """Callbacks run in another thread, where OpenTelemetry would otherwise find no current span."""
    tracer = telemetry.tracers.get_tracer("test")

    def check(value: int) -> int:
        with tracer.start_as_current_span(f"check {value}"):
            return value

    await conn.create_function("check_value", 1, check)
    telemetry.spans()

    async def request(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            await conn.fetch_scalar("SELECT check_value(?)", (number,))

    async with anyio.create_task_group() as tasks:
        for number in (1, 2, 3):
            tasks.start_soon(request, number)

    by_name = {span.name: span for span in telemetry.spans()}
    for number in (1, 2, 3):
        assert by_name[f"check {number}"].parent.span_id == by_name[f"request {number}"].context.span_id


async def test_statement_has_a_span_that_follows_the_conventions(
    conn: rapsqlite.Connection, telemetry: Telemetry
) -> None:
    await conn.fetch_all("SELECT 1, 'secret' UNION SELECT ?, ?", [2, "hidden"])

    (span,) = telemetry.spans()
    attributes = dict(span.attributes)
    assert attributes.pop("rapsqlite.run_time") > 0
    assert attributes.pop("rapsqlite.wait_time") >= 0
    assert (span.name, span.kind.name, span.status.status_code.name) == ("SELECT", "CLIENT", "UNSET")
    assert attributes == {
        "db.system.name": "sqlite",
        "db.namespace": ":memory:",
        "db.operation.name": "SELECT",
        "db.query.summary": "SELECT",
        "db.query.text": "SELECT ?, ? UNION SELECT ?, ?",
        "db.response.returned_rows": 2,
    }


async def test_every_way_to_run_a_statement_is_traced(conn: rapsqlite.Connection, telemetry: Telemetry) -> None:
    cursor = await conn.execute("INSERT INTO t VALUES (1) RETURNING a")
    await cursor.fetchall()
    await conn.executemany("INSERT INTO t VALUES (?)", [(2,), (3,)])
    await conn.commit()
    await conn.executescript("DELETE FROM t; SELECT 1")
    assert [row async for row in conn.stream("SELECT a FROM t")] == []
    prepared = conn.prepare("SELECT count(*) FROM t")
    await prepared.fetch_scalar()
    async with conn.transaction(), conn.savepoint():
        pass

    names = [span.name for span in telemetry.spans()]
    assert names == [
        "INSERT",
        "INSERT",
        "COMMIT",
        "DELETE",
        "SELECT",
        "SELECT",
        "BEGIN",
        "SAVEPOINT",
        "RELEASE",
        "COMMIT",
    ]


async def test_parent_is_the_span_of_the_calling_task(conn: rapsqlite.Connection, telemetry: Telemetry) -> None:
    tracer = telemetry.tracers.get_tracer("test")

    async def work(number: int) -> None:
        with tracer.start_as_current_span(f"task {number}"):
            await anyio.lowlevel.checkpoint()
            await conn.fetch_scalar("SELECT ?", [number])

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(work, number)

    spans = telemetry.spans()
    parents = {span.context.span_id for span in spans if span.name.startswith("task")}
    assert [span.parent.span_id for span in spans if span.name == "SELECT"] == [
        span.context.span_id for span in spans if span.name.startswith("task")
    ] or {span.parent.span_id for span in spans if span.name == "SELECT"} == parents
    assert len(parents) == 8


async def test_span_of_a_failed_statement_shows_no_values(conn: rapsqlite.Connection, telemetry: Telemetry) -> None:
    with pytest.raises(rapsqlite.OperationalError):
        await conn.execute("SELECT 'secret' FROM missing WHERE a = ?", ["hidden"])
    await conn.execute("CREATE UNIQUE INDEX u ON t (a)")
    await conn.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(rapsqlite.IntegrityError):
        await conn.execute("INSERT INTO t VALUES (?)", [1])

    failed = [span for span in telemetry.spans() if span.status.status_code.name == "ERROR"]
    assert [span.attributes["error.type"] for span in failed] == ["SQLITE_ERROR", "SQLITE_CONSTRAINT_UNIQUE"]
    assert not [span for span in failed if "secret" in span.to_json() or "hidden" in span.to_json()]


async def test_cancelled_statement_ends_its_span(conn: rapsqlite.Connection, telemetry: Telemetry) -> None:
    """A span that never ends is never exported."""
    with anyio.move_on_after(0.05):
        await conn.fetch_all("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n")

    (span,) = telemetry.spans()
    assert span.attributes["error.type"] in {"CancelledError", "Cancelled"}


async def test_wait_behind_another_statement_does_not_count_as_run_time(
    conn: rapsqlite.Connection, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1e9  # later than any reply
    slow, quick = Blocked(1), Blocked(1)
    await conn.create_function("slow", 0, slow)
    await conn.create_function("quick", 0, quick)
    monkeypatch.setattr(opentelemetry, "time", SimpleNamespace(perf_counter=lambda: now))
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as first:
            first.start_soon(conn.fetch_all, "SELECT slow()")
            await anyio.wait_all_tasks_blocked()  # it is sent
            tasks.start_soon(conn.fetch_all, "VALUES (quick())")
            await anyio.wait_all_tasks_blocked()
            now += 5
            slow.let_go.set()
        now += 1
        quick.let_go.set()

    times = {span.name: span.attributes for span in telemetry.spans()}
    assert (times["SELECT"]["rapsqlite.wait_time"], times["SELECT"]["rapsqlite.run_time"]) == (0, 5)
    assert (times["VALUES"]["rapsqlite.wait_time"], times["VALUES"]["rapsqlite.run_time"]) == (5, 1)


async def test_durations_and_rows_are_measured(conn: rapsqlite.Connection, telemetry: Telemetry) -> None:
    """By operation and error, as the semantic conventions for databases say."""
    for _ in range(3):
        await conn.fetch_all("SELECT 1 UNION SELECT 2")
    with pytest.raises(rapsqlite.OperationalError):
        await conn.fetch_all("SELECT x")

    found = telemetry.metrics()
    selects = [
        point for point in found["db.client.operation.duration"] if point.attributes["db.operation.name"] == "SELECT"
    ]
    assert sorted((point.count, point.attributes.get("error.type")) for point in selects) == [
        (1, "SQLITE_ERROR"),
        (3, None),
    ]
    assert [(point.count, point.sum) for point in found["db.client.response.returned_rows"]] == [(3, 6)]


def test_pool_statistics_are_gauges(telemetry: Telemetry) -> None:
    """They are read when metrics are collected, not when the pool is registered."""
    statistics = {"size": 2, "wait_s": 0.5}
    RapsqliteInstrumentor().instrument_pool(lambda: statistics, meter_provider=telemetry.meters)
    statistics["size"] = 3

    found = telemetry.metrics()

    assert {name: points[0].value for name, points in found.items()} == {
        "rapsqlite.pool.size": 3,
        "rapsqlite.pool.wait_s": 0.5,
    }


@pytest.mark.parametrize(
    "sql, operation",
    [
        ("/* a comment */ " * 5000, "UNKNOWN"),
        ("/* a comment **/-- another\n;\ufeff" * 500 + "select 1", "SELECT"),
        ("-- a comment without an end", "UNKNOWN"),
    ],
    ids=["comments alone", "comments first", "no end"],
)
async def test_name_of_a_span_is_found_behind_any_number_of_comments(
    sql: str, operation: str, conn: rapsqlite.Connection, telemetry: Telemetry
) -> None:
    """In time that grows with their number, not with its power: the event loop waits for it."""
    await conn.executescript(sql)

    assert [span.name for span in telemetry.spans()] == [operation]


async def test_only_instrumented_connections_are_traced_and_only_once(telemetry: Telemetry) -> None:
    instrumentor = RapsqliteInstrumentor()
    async with connect(":memory:") as conn, connect(":memory:") as other:
        for _ in range(2):
            instrumentor.instrument_connection(conn, tracer_provider=telemetry.tracers)
        await conn.execute("SELECT 1")
        await other.execute("SELECT 2")
        conn.set_slow_query_threshold(1000)
        conn.set_slow_query_threshold(None)
        await conn.execute("SELECT 3")

    assert len(telemetry.spans()) == 3  # and the commit at the end
    assert not instrumentor.is_instrumented_by_opentelemetry


@pytest.mark.parametrize(
    "text, expected",
    [
        ("SELECT 'a''b', x'00ff', 1.5e-3, .5, 0x1F FROM t1", "SELECT ?, ?, ?, ?, ? FROM t1"),
        (
            'SELECT "n\'1", [a 1], `b2` /* 5 */ FROM t WHERE a1 = :p1 -- 6',
            'SELECT "n\'1", [a 1], `b2`  FROM t WHERE a1 = :p1',
        ),
        ("SELECT ?2, @a3, $b4, 'unfinished", "SELECT ?2, @a3, $b4, ?"),
        ("INSERT INTO t VALUES (1,'x'),(-2,'é1')", "INSERT INTO t VALUES (?,?),(-?,?)"),
    ],
)
def test_recorded_sql_has_no_literals(text: str, expected: str) -> None:
    """They may be personal data, which must not reach a tracing service."""
    assert without_literals(text) == expected


def test_recording_a_statement_takes_time_that_grows_with_its_length() -> None:
    """The event loop waits for it, and the statement may be anybody's."""
    for part in ("[", '"a""', "`", "'", "/*", "x'", "1e+", "a.$"):
        assert without_literals(part * 300_000)
