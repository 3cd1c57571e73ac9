"""The workload for the profile: typical SQL, each kind weighted by how much time programs spend in it.

Counters tell the compiler which code is hot, which is warm, and which never runs, so rare features appear a few times
here: code that never runs is compiled for size. All data are computed, so that each run counts the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.profile_database import Database, Value

ROWS = 20_000
WORDS = "amber birch cedar dune ember fjord grove heath islet juniper knoll lagoon meadow nectar orchid pebble".split()

SCHEMA = """
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT, born REAL, score INTEGER DEFAULT 0);
CREATE TABLE item(id INTEGER PRIMARY KEY, person_id INTEGER REFERENCES person(id) ON DELETE CASCADE, title TEXT,
                  price REAL CHECK (price >= 0), amount INTEGER, payload BLOB, made TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX item_person ON item(person_id, price);
CREATE UNIQUE INDEX person_name ON person(name COLLATE NOCASE);
CREATE INDEX person_partial ON person(score) WHERE score > 50;
CREATE INDEX person_city ON person(lower(city));
CREATE TABLE pair(a TEXT, b INTEGER, c, PRIMARY KEY(a, b)) WITHOUT ROWID;
CREATE TABLE strict_one(i INTEGER, r REAL, t TEXT, b BLOB, a ANY, twice INTEGER AS (i * 2) STORED) STRICT;
CREATE VIEW expensive AS SELECT p.name, i.title, i.price FROM person p JOIN item i ON i.person_id = p.id WHERE
  i.price > 90;
CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT, item_id INTEGER);
CREATE TRIGGER item_changed AFTER UPDATE OF price ON item BEGIN
  INSERT INTO log(what, item_id) VALUES ('price ' || old.price || ' to ' || new.price, new.id);
END;
"""


def text(number: int, count: int) -> str:
    """Return ``count`` words, always the same for the same number."""
    return " ".join(WORDS[(number * (step + 3) + step * step) % len(WORDS)] for step in range(count))


def people(count: int) -> Iterator[tuple[Value, ...]]:
    """Yield the rows of the table person."""
    for number in range(1, count + 1):
        city = WORDS[number * 7 % 16].title() if number % 11 else None
        yield number, f"{text(number, 2)} {number}", city, 1900 + number * 0.37 % 120, number * 31 % 101


def items(count: int) -> Iterator[tuple[Value, ...]]:
    """Yield the rows of the table item, with small and large payloads."""
    for number in range(1, count + 1):
        size = 9000 if number % 500 == 0 else number % 40
        yield number * 17 % count + 1, text(number, 4), number % 997 / 7, number % 13, bytes([number % 251]) * size


def write(db: Database) -> None:
    """Insert, update, delete, upsert: with parameters, in transactions and one by one."""
    db.script(SCHEMA)
    db.script("BEGIN")
    db.many("INSERT INTO person VALUES (?, ?, ?, ?, ?)", people(ROWS))
    db.many("INSERT INTO item(person_id, title, price, amount, payload) VALUES (?, ?, ?, ?, ?)", items(2 * ROWS))
    db.script("COMMIT")
    db.many("INSERT INTO log(what) VALUES (?)", ((text(n, 3),) for n in range(300)))
    db.many("INSERT OR REPLACE INTO pair VALUES (?, ?, ?)", ((text(n, 1), n % 500, n / 3) for n in range(3000)))
    upsert = "INSERT INTO pair VALUES (?, ?, 1) ON CONFLICT(a, b) DO UPDATE SET c = c + excluded.c RETURNING c"
    db.many(upsert, ((text(n, 1), n % 700) for n in range(2000)))
    db.many(
        "INSERT INTO strict_one(i, r, t, b, a) VALUES (?, ?, ?, ?, ?)", ((n, n / 7, "t", b"b", n) for n in range(500))
    )
    db.script("BEGIN")
    db.many("UPDATE person SET score = score + ? WHERE id = ?", ((n % 5, n * 13 % ROWS + 1) for n in range(3000)))
    db.many("UPDATE item SET price = price * 1.1 WHERE id = ?", ((n * 19 % ROWS + 1,) for n in range(1500)))
    db.many("DELETE FROM item WHERE id = ?", ((n * 23 % ROWS + 1,) for n in range(1500)))
    db.script(
        "SAVEPOINT one; UPDATE person SET city = upper(city) WHERE id % 10 = 0; ROLLBACK TO one; RELEASE one; COMMIT"
    )
    db.script("PRAGMA foreign_keys = ON; DELETE FROM person WHERE id % 400 = 0; PRAGMA foreign_keys = OFF")
    db.fails("INSERT INTO person(id, name) VALUES (1, 'taken')")
    db.fails("INSERT INTO item(price) VALUES (-1)")
    db.script("ANALYZE")


POINT_QUERIES = (
    "SELECT id, name, city, born, score FROM person WHERE id = ?",
    "SELECT title, price, amount FROM item WHERE id = ?",
    "SELECT count(*), sum(price) FROM item WHERE person_id = ?",
    "SELECT i.title, p.name FROM item i JOIN person p ON p.id = i.person_id WHERE i.id = ? ORDER BY i.price LIMIT 5",
    "SELECT EXISTS (SELECT 1 FROM item WHERE person_id = ? AND price > 50)",
)

QUERIES = """
SELECT id, name, city, born, score FROM person;
SELECT sum(length(payload)) FROM item;
SELECT count(*), avg(price), min(title), max(title), total(amount), group_concat(DISTINCT amount) FROM item WHERE
  amount <> 3;
SELECT city, count(*), sum(score), avg(born) FROM person GROUP BY city HAVING count(*) > 5 ORDER BY 3 DESC, 1;
SELECT name FROM person WHERE name LIKE '%birch%' AND born BETWEEN 1920.5 AND 1990 ORDER BY name;
SELECT name FROM person WHERE name GLOB 'c*9' OR city IN ('Amber', 'Dune', 'Heath') LIMIT 500 OFFSET 20;
SELECT title, price FROM item ORDER BY title, price DESC;
SELECT * FROM item ORDER BY price LIMIT 20;
SELECT DISTINCT title FROM item;
SELECT p.name, i.title FROM person p JOIN item i ON i.person_id = p.id WHERE i.price > 60 AND p.score > 30;
SELECT p.city, sum(i.price * i.amount) FROM person p LEFT JOIN item i ON i.person_id = p.id GROUP BY p.city;
SELECT a.id, b.id FROM person a, person b WHERE a.score = b.score AND a.id < 60 AND b.id < 60;
SELECT count(*) FROM item a JOIN (SELECT title, max(price) AS top FROM item GROUP BY title) b USING (title) WHERE
  a.price = b.top;
SELECT count(*) FROM person WHERE id IN (SELECT person_id FROM item WHERE amount = 5);
SELECT name, (SELECT max(price) FROM item WHERE person_id = person.id) FROM person WHERE id < 3000;
SELECT name FROM person WHERE NOT EXISTS (SELECT 1 FROM item WHERE person_id = person.id) LIMIT 10;
SELECT city FROM person UNION SELECT title FROM item WHERE id < 900 EXCEPT SELECT a FROM pair;
SELECT id FROM person WHERE id < 2000 INTERSECT SELECT person_id FROM item;
SELECT * FROM expensive WHERE name > 'e' ORDER BY price DESC LIMIT 50;
WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 60000) SELECT sum(x % 7), max(x * 3 - 1),
  count(x / 2) FROM n;
WITH RECURSIVE f(a, b) AS (VALUES (0, 1) UNION SELECT b, a + b FROM f WHERE b < 100000000) SELECT a FROM f;
WITH RECURSIVE tree(id, depth) AS (VALUES (1, 0) UNION ALL SELECT id * 2 + k, depth + 1 FROM tree, (SELECT 0 AS k
  UNION ALL SELECT 1) WHERE depth < 9) SELECT count(*), max(depth) FROM tree;
SELECT row_number() OVER (PARTITION BY city ORDER BY score DESC), rank() OVER (ORDER BY score), lag(name) OVER (ORDER
  BY id) FROM person WHERE id < 4000;
SELECT sum(price) OVER (ORDER BY id ROWS BETWEEN 5 PRECEDING AND CURRENT ROW), ntile(4) OVER (ORDER BY price),
  first_value(title) OVER (PARTITION BY amount ORDER BY price) FROM item WHERE id < 2500;
SELECT name, CASE WHEN score > 80 THEN 'high' WHEN score > 40 THEN 'middle' ELSE 'low' END, coalesce(city, 'none'),
  nullif(score, 3), iif(born > 1950, 1, 0) FROM person;
SELECT upper(name), lower(city), substr(name, 2, 5), replace(name, 'a', 'b'), trim(name), instr(name, 'e'),
  length(name), hex(name), quote(city), printf('%05d %8.3f %s', id, born, name), name || ' ' || city, round(born, 1),
  abs(-score), typeof(city), unicode(name) FROM person WHERE id < 3000;
SELECT date(born), datetime(born * 1000, 'unixepoch', '+1 day', 'start of month'), strftime('%Y-%m-%d %H:%M', id *
  86400, 'unixepoch'), julianday('2020-02-03 04:05:06') FROM person WHERE id < 1500;
SELECT CAST(born AS TEXT), CAST(name AS INTEGER), CAST(id AS REAL), CAST('12.5e3' AS REAL), born || '', sqrt(born),
  pow(score, 2), ln(id), floor(born), id & 255 | 7, id << 2, ~id FROM person WHERE id < 3000;
SELECT max(id), min(born), max(name) FROM person;
SELECT a, sum(b), sum(c) FILTER (WHERE b > 5) FROM pair GROUP BY a;
SELECT count(*) FROM pair WHERE (a, b) > ('dune', 50);
SELECT i, twice, r, t, a FROM strict_one WHERE twice > 100;
SELECT id FROM person ORDER BY name COLLATE NOCASE DESC LIMIT 100;
SELECT id FROM person WHERE lower(city) = 'dune' AND score > 50;
SELECT count(*) FROM item WHERE title IS NOT NULL AND payload > x'10' AND made >= '2000-01-01';
SELECT total_changes(), changes(), last_insert_rowid(), sqlite_version();
EXPLAIN QUERY PLAN SELECT * FROM expensive WHERE name = 'x';
EXPLAIN SELECT * FROM person WHERE id = 3;
SELECT name, sql FROM sqlite_schema;
PRAGMA table_info(item); PRAGMA table_xinfo(strict_one); PRAGMA index_list(item); PRAGMA index_xinfo(item_person);
PRAGMA foreign_key_list(item); PRAGMA database_list; PRAGMA user_version; PRAGMA user_version = 4; PRAGMA quick_check;
"""

CHANGES = """
CREATE INDEX item_title ON item(title); CREATE INDEX item_mixed ON item(amount, title, price); DROP INDEX item_mixed;
ALTER TABLE person ADD COLUMN note TEXT DEFAULT 'none'; ALTER TABLE person RENAME COLUMN note TO remark;
ALTER TABLE person DROP COLUMN remark; ALTER TABLE pair RENAME TO pairs;
CREATE TEMP TABLE scratch AS SELECT id, name FROM person WHERE id % 3 = 0; CREATE INDEX temp.si ON scratch(name);
UPDATE person SET score = s.c FROM (SELECT person_id, count(*) AS c FROM item GROUP BY person_id) AS s WHERE
  s.person_id = person.id;
INSERT INTO scratch SELECT id + 100000, title FROM item WHERE price < 40;
DELETE FROM scratch WHERE name < 'd'; DELETE FROM log; REINDEX item_title; VACUUM; PRAGMA integrity_check; PRAGMA
  optimize;
"""

JSON = """
CREATE TABLE doc(id INTEGER PRIMARY KEY, body TEXT, packed BLOB);
WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 2500)
INSERT INTO doc(body) SELECT json_object('id', x, 'name', 'name ' || x, 'tags', json_array('red', 'green', x % 9),
  'on', json('true'),
  'nested', json_object('size', x * 1.5, 'list', json_array(1, 2, x, null), 'text', 'with "quotes" and ' ||
  char(233))) FROM n;
UPDATE doc SET packed = jsonb(body);
SELECT json_extract(body, '$.nested.size'), body ->> '$.name', body -> '$.tags[1]', body ->> 'id' FROM doc;
SELECT packed ->> '$.nested.list[2]', json(packed) FROM doc WHERE id < 800;
SELECT count(*), sum(e.value) FROM doc, json_each(doc.body, '$.nested.list') e WHERE e.type = 'integer';
SELECT t.fullkey, t.atom FROM doc, json_tree(doc.body) t WHERE doc.id < 60;
SELECT json_group_array(id), json_group_object(body ->> 'name', id) FROM doc WHERE id < 500;
UPDATE doc SET body = json_set(body, '$.nested.size', 7, '$.added', 'new') WHERE id % 4 = 0;
UPDATE doc SET body = json_remove(json_insert(body, '$.more', json('[1,2,{"a":3}]')), '$.on') WHERE id % 5 = 0;
SELECT json_patch(body, '{"name":null}'), json_type(body, '$.tags'), json_array_length(body, '$.tags'),
  json_valid(body), json_quote(id) FROM doc WHERE id < 300;
CREATE INDEX doc_name ON doc(body ->> '$.name'); SELECT id FROM doc WHERE body ->> '$.name' = 'name 77';
"""

FULL_TEXT_QUERIES = (
    "amber", "cedar AND grove", "dune OR fjord", "heath NOT islet", "jun*", '"knoll lagoon"', "NEAR(meadow nectar, 5)",
    "title: orchid", "^pebble", "(amber OR birch) AND ember",
)  # fmt: skip

TREES = """
CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, y0, y1);
WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 1200)
INSERT INTO box SELECT x, x % 97, x % 97 + 3, x % 89, x % 89 + 2 FROM n;
SELECT count(*) FROM box WHERE x0 > 20 AND x1 < 60 AND y0 >= 5 AND y1 <= 70;
SELECT id FROM box WHERE id = 40; DELETE FROM box WHERE id % 9 = 0; UPDATE box SET x1 = x1 + 1 WHERE id < 90;
CREATE VIRTUAL TABLE shape USING geopoly(name);
INSERT INTO shape(_shape, name) VALUES ('[[0,0],[4,0],[4,3],[0,0]]', 'a'), ('[[1,1],[3,1],[2,2],[1,1]]', 'b');
SELECT name, geopoly_area(_shape) FROM shape WHERE geopoly_overlap(_shape, '[[1,0],[2,0],[2,2],[1,0]]');
SELECT name, pgsize FROM dbstat LIMIT 50;
"""


def read(db: Database) -> None:
    """Point queries by the thousand, then one large query of each kind, twice."""
    for index, sql in enumerate(POINT_QUERIES):
        db.many(sql, ((number * 37 % ROWS + 1,) for number in range(6000 if index < 2 else 1500)))
    db.script(QUERIES)
    db.script(QUERIES)


def parse(db: Database) -> None:
    """Statements that differ in their literals, so that each one is parsed and planned again."""
    for number in range(700):
        db.script(
            f"SELECT p.id, p.name AS n, i.price * {number} + 1, "
            f"CASE WHEN i.amount > {number % 7} THEN 'x{number}' ELSE 'y' END "
            f"FROM person AS p JOIN item AS i ON i.person_id = p.id LEFT JOIN log ON log.item_id = i.id "
            f"WHERE p.id = {number + 1} AND i.price BETWEEN 0 AND {number}.5 AND p.name <> 'it''s' "
            f"ORDER BY i.price DESC LIMIT 3"
        )
        db.script(f"SELECT name FROM person WHERE id = {number}")
        db.script(f"INSERT INTO log(what, item_id) VALUES ('entry {number}', {number}), ('second', NULL)")
        db.script(f"UPDATE person SET score = {number} WHERE id = {number}; /* a comment */ SELECT 1 -- and another\n")
    for wrong in ("SELEC 1", "SELECT nothing FROM person", "SELECT * FROM missing", "SELECT (1"):
        db.fails(wrong)


def full_text(db: Database) -> None:
    """An FTS5 index: filled, searched in every syntax, ranked, changed, merged."""
    db.script("CREATE VIRTUAL TABLE page USING fts5(title, body, tokenize = 'porter unicode61')")
    db.script("BEGIN")
    db.many("INSERT INTO page VALUES (?, ?)", ((text(n, 3), f"{text(n * 5, 30)} caf\u00e9 {n}") for n in range(2500)))
    db.script("COMMIT")
    for query in FULL_TEXT_QUERIES:
        db.many("SELECT rowid, title FROM page WHERE page MATCH ? ORDER BY rank LIMIT 20", [(query,)] * 4)
        db.many("SELECT count(*), min(bm25) FROM (SELECT rank AS bm25 FROM page WHERE page MATCH ?)", [(query,)] * 3)
    db.script("SELECT snippet(page, 1, '<', '>', '...', 8), highlight(page, 0, '[', ']') FROM page('ember') LIMIT 60")
    db.script("UPDATE page SET title = 'changed' WHERE rowid % 50 = 0; DELETE FROM page WHERE rowid % 70 = 0")
    db.script("INSERT INTO page(page) VALUES ('optimize')")


def run(db: Database) -> None:
    """Run everything on one database."""
    write(db)
    read(db)
    parse(db)
    db.script(CHANGES)
    db.script(JSON)
    full_text(db)
    db.script(TREES)
