"""Alembic's command line on a small project: ``init -t async``, autogenerate, batch mode, upgrade, downgrade."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.programs import run_python

if TYPE_CHECKING:
    from pathlib import Path

FIRST_MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
})
author = sa.Table(
    "author", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(50), nullable=False, index=True),
    sa.Column("born", sa.Integer),
    sa.CheckConstraint("born > 0", name="born_after_christ"),
)
book = sa.Table(
    "book", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("author_id", sa.ForeignKey("author.id", ondelete="CASCADE"), nullable=False),
    sa.Column("title", sa.Text),
)
"""
SECOND_MODELS = FIRST_MODELS.replace(
    'sa.Column("born", sa.Integer),', 'sa.Column("born", sa.BigInteger, nullable=False),'
).replace(
    'sa.Column("title", sa.Text),',
    'sa.Column("title", sa.Text, nullable=False),\n    sa.UniqueConstraint("author_id", "title"),',
)
VIEW = "CREATE VIEW titles AS SELECT author.name, book.title FROM author JOIN book ON book.author_id = author.id"
FAILING = '''"""Fails halfway."""
from alembic import op

revision, down_revision, branch_labels, depends_on = "fails", {down!r}, None, None

def upgrade():
    op.execute("CREATE TABLE half (a)")
    op.execute("INSERT INTO author (name) VALUES ('half')")
    op.execute("SELECT * FROM missing")
'''


def alembic(project: Path, *arguments: str, fails: bool = False) -> str:
    done = run_python("-m", "alembic", *arguments, cwd=project)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def schema(project: Path) -> list[tuple[str, str]]:
    """Every table, index and view with its SQL, as native SQLite reads them."""
    with closing(sqlite3.connect(project / "app.db")) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return [(name, re.sub(r"\s+", " ", sql)) for name, sql in rows]


def rows(project: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(project / "app.db")) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    alembic(tmp_path, "init", "-t", "async", "migrations")
    settings = tmp_path / "alembic.ini"
    text = settings.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^sqlalchemy\.url = .*$", "sqlalchemy.url = sqlite+rapsqlite:///app.db", text)
    settings.write_text(text, encoding="utf-8")
    environment = tmp_path / "migrations" / "env.py"
    text = environment.read_text(encoding="utf-8")
    text = text.replace("target_metadata = None", "from models import metadata as target_metadata")
    text = text.replace(
        "target_metadata=target_metadata)", "target_metadata=target_metadata, render_as_batch=True, compare_type=True)"
    )
    environment.write_text(text, encoding="utf-8")
    (tmp_path / "models.py").write_text(FIRST_MODELS, encoding="utf-8")
    return tmp_path


def revise(project: Path, message: str, extra_upgrade: str = "", extra_downgrade: str = "") -> Path:
    """Let Alembic write a revision, and add what it does not detect."""
    alembic(project, "revision", "--autogenerate", "-m", message)
    [script] = (project / "migrations" / "versions").glob(f"*_{message}.py")
    text = script.read_text(encoding="utf-8")
    upgrade, downgrade = text.split("def downgrade()")
    upgrade = upgrade.replace("    # ### end", f"    {extra_upgrade or 'pass'}\n    # ### end")
    downgrade = downgrade.replace("    # ### commands", f"    {extra_downgrade or 'pass'}\n    # ### commands", 1)
    script.write_text(f"{upgrade}def downgrade(){downgrade}", encoding="utf-8")
    return script


def test_project_upgrades_and_downgrades(project: Path) -> None:
    """Batch mode rebuilds tables that have foreign keys, indexes and CHECK constraints, below a view and with rows."""
    revise(project, "first", f'op.execute("{VIEW}")', 'op.execute("DROP VIEW titles")')
    alembic(project, "upgrade", "head")
    first = schema(project)
    with closing(sqlite3.connect(project / "app.db")) as connection, connection:
        connection.execute("INSERT INTO author VALUES (1, 'Ada', 1815)")
        connection.execute("INSERT INTO book VALUES (1, 1, 'Notes')")

    (project / "models.py").write_text(SECOND_MODELS, encoding="utf-8")
    revise(project, "second", f'op.execute("{VIEW}")', 'op.execute("DROP VIEW titles")')
    [script] = (project / "migrations" / "versions").glob("*_second.py")
    text = script.read_text(encoding="utf-8")
    assert "batch_alter_table" in text
    text = text.replace("    # ### commands auto", '    op.execute("DROP VIEW titles")\n    # ### commands auto', 1)
    before, after = text.split("def downgrade()")
    after = after.replace("    # ### end", f'    op.execute("{VIEW}")\n    # ### end')
    script.write_text(f"{before}def downgrade(){after}", encoding="utf-8")
    alembic(project, "upgrade", "head")
    second = schema(project)

    assert "No new upgrade operations detected" in alembic(project, "check")
    assert {name for name, _ in second} == {name for name, _ in first}
    assert "born BIGINT NOT NULL" in dict(second)["author"]
    assert "CHECK (born > 0)" in dict(second)["author"]
    assert "ON DELETE CASCADE" in dict(second)["book"]
    assert "uq_book_author_id" in dict(second)["book"]
    assert rows(project, "titles") == [("Ada", "Notes")]

    alembic(project, "downgrade", "-1")
    assert [name for name, _ in schema(project)] == [name for name, _ in first]
    assert "born INTEGER," in dict(schema(project))["author"]
    assert rows(project, "titles") == [("Ada", "Notes")]
    alembic(project, "downgrade", "base")
    assert [name for name, _ in schema(project)] == ["alembic_version"]


def test_failed_migration_changes_nothing(project: Path) -> None:
    """With pysqlite's defaults its CREATE TABLE stays, and the next attempt fails on it."""
    script = revise(project, "first")
    alembic(project, "upgrade", "head")
    before = schema(project)
    down = re.search(r"^revision: str = '(\w+)'", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert down
    (script.parent / "fails.py").write_text(FAILING.format(down=down[1]), encoding="utf-8")

    assert "no such table: missing" in alembic(project, "upgrade", "head", fails=True)

    assert schema(project) == before
    assert rows(project, "author") == []
