"""What MkDocs needs to know about this repository's pages; mkdocs.yml names this file.

- Links to files outside docs/ lead to pages that show those files.
- The table of SQLite's constants is read from the package's source.
- In the reference, each name links to a program that uses it, and names in docstrings link to their entries.
"""

from __future__ import annotations

import logging
import os
import re
from html import unescape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from markdown.extensions.toc import slugify
from mkdocs.structure.files import File, Files, InclusionLevel

log = logging.getLogger("mkdocs.hooks.site")

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
FRAGMENT = re.compile(r"^```python fragment$", re.MULTILINE)
HEADING_OR_PROGRAM = re.compile(r"^#+ (?P<heading>[^\n]+)$|^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^::: rapsqlite\.(\w+)$", re.MULTILINE)
CODE = re.compile(r"<code>(?P<name>(?P<owner>\w+)(?:\.\w+)?)</code>")
BODY = re.compile(
    r'id="rapsqlite\.(?P<owner>\w+)(?:\.(?P<member>\w+))?".*?<div class="doc doc-contents[^"]*">', re.DOTALL
)
PAGE = re.compile(r"\bdocs/(\w+)\.md\b")
PARAGRAPH = re.compile(r"<p>(<code>.*?)</p>", re.DOTALL)
OPTION = re.compile(
    r"^((?:<code>\w+</code>(?:, )?)+) {2,}", re.MULTILINE
)  # names set apart by spaces, as docstrings have them
CONSTANTS = "<!-- constants -->"
SHOWN = "files"  # the folder of the site for files from outside docs/
# What a program calls to have an object of the class; other classes are named by programs that use them.
MAKERS = {"Connection": "connect", "MemoryConnection": "connect_memory", "Blob": "blobopen", "Pool": "create_pool",
          "PreparedStatement": "prepare", "RowStream": "stream", "ChunkStream": "execute_iter", "Dump": "iterdump",
          "Cursor": "execute|cursor", "ChangeSession": "session", "Conflict": "apply_changeset",
          "Row": "row_factory=Row", "Savepoint": "savepoint", "Transaction": "transaction", "Limits": "limits",
          "Page": "paginate"}  # fmt: skip
# Where to look first for an example of a class, and last: programs there compare, or are about something else.
HOMES = {"Connection": "connection.md", "Cursor": "cursor.md", "Pool": "pool.md", "Blob": "backup.md",
         "RowStream": "quickstart.md", "ChunkStream": "cursor.md", "PreparedStatement": "connection.md",
         "Transaction": "transactions.md", "Savepoint": "transactions.md",
         "Limits": "sandbox.md"}  # fmt: skip
ASIDES = {"comparison.md", "compatibility.md", "litestream.md", "migration.md", "observability.md"}


class Program(NamedTuple):
    """A whole program in the pages, and the heading above it."""

    uri: str
    heading: str
    code: str


programs: list[Program] = []
entries: dict[str, str] = {}  # a public name and the page of the reference that has it


def on_files(files: Files, config: Any) -> Files:
    """Read the pages, and add one for each file outside docs/ that a page links to, or such a page itself."""
    programs.clear()
    for page in files.documentation_pages():
        text = page.content_string
        entries.update(dict.fromkeys(ENTRY.findall(text), page.src_uri))
        programs.extend(programs_of(page.src_uri, text))
    waiting = [("docs/" + page.src_uri, page.content_string) for page in files.documentation_pages()]
    known: set[str] = set()
    while waiting:
        name, text = waiting.pop()
        for match in LINK.finditer(text):
            target = resolve(name, match["target"])
            if target in known or target.startswith(("docs/", "..")) or not (ROOT / target).exists():
                continue
            known.add(target)
            content = shown(target)
            if target.endswith(".md"):
                waiting.append((target, content))
            files.append(File.generated(config, page_of(target), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mark fragments as Python, lead links to their pages, and fill in the constants."""
    uri: str = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]  # a list of one page
    own = uri.removeprefix(SHOWN + "/").removesuffix(".md") if uri.startswith(SHOWN + "/") else "docs/" + uri

    def led(match: re.Match[str]) -> str:
        target = resolve(own, match["target"])
        if not (ROOT / target).exists():
            return match[0]  # MkDocs reports it
        place = target.removeprefix("docs/") if target.startswith("docs/") else page_of(target)
        return f"]({os.path.relpath(place, PurePosixPath(uri).parent)}{match['anchor'] or ''})"

    return LINK.sub(led, FRAGMENT.sub("```python", markdown)).replace(CONSTANTS, constants())


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Add links to the pages of the reference."""
    uri: str = page.file.src_uri
    if not uri.startswith("reference/"):
        return html
    html = PARAGRAPH.sub(as_list, html)
    html = PAGE.sub(lambda match: f'<a href="{address(match[1] + ".md", uri)}">{match[1]}</a>', html)

    def linked(match: re.Match[str]) -> str:
        if match["owner"] not in entries:
            return match[0]
        return f'<a href="{address(entries[match["owner"]], uri)}#rapsqlite.{match["name"]}">{match[0]}</a>'

    def with_program(match: re.Match[str]) -> str:
        program = program_for(match["owner"], match["member"])
        if program is None:
            return match[0]
        anchor = slugify(program.heading, "-")
        where = f"{address(program.uri, uri)}#{anchor}"
        return f'{match[0]}<p><small>Example: <a href="{where}">{program.heading}</a></small></p>'

    return BODY.sub(with_program, CODE.sub(linked, html))


def as_list(match: re.Match[str]) -> str:
    """Return a docstring's lines of options, which Markdown takes for one paragraph, as a list."""
    _, *options = OPTION.split(match[1])
    if len(options) < 4:
        return match[0]
    items = (f"<li>{names}: {text.strip()}</li>" for names, text in zip(options[::2], options[1::2], strict=True))
    return f"<ul>{''.join(items)}</ul>"


def on_post_build(config: Any) -> None:
    """Warn of links inside the site that lead nowhere, which ends a strict build."""
    site = Path(config.site_dir)
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', html)) for path, html in pages.items()}
    links = {(path, link) for path, html in pages.items() for link in re.findall(r'\bhref="([^"]+)"', html)}
    checked = 0
    for path, link in sorted(links):
        target, _, anchor = unescape(link).partition("#")
        if ":" in target or target.startswith(("//", "/")) or path.name == "404.html":
            continue
        checked += 1
        place = Path(os.path.normpath(path.parent / target)) if target else path
        if not place.exists() or (anchor and anchor not in anchors.get(place, set())):
            log.warning("%s: broken link: %s", path.relative_to(site), link)
    log.info("%d pages, %d programs, %d links inside the site", len(pages), len(programs), checked)


def programs_of(uri: str, text: str) -> list[Program]:
    found, heading = [], ""
    for match in HEADING_OR_PROGRAM.finditer(text):
        if match["code"] is None:
            heading = match["heading"].replace("`", "")
        elif heading:
            found.append(Program(uri, heading, match["code"]))
    return found


def program_for(owner: str, member: str | None) -> Program | None:
    """Return the shortest program on the best page that uses a name; for a member, one with an object of its class."""
    has_owner = re.compile(rf"\b(?:{MAKERS.get(owner, owner)}|{owner})\b")
    uses = re.compile(rf"\.{member}\b" if member else "")
    using = [program for program in programs if has_owner.search(program.code) and uses.search(program.code)]
    home = HOMES.get(owner)
    return min(using, key=lambda found: (found.uri != home, found.uri in ASIDES, len(found.code)), default=None)


def address(target: str, uri: str) -> str:
    return os.path.relpath(target.removesuffix(".md") + ".html", PurePosixPath(uri).parent)


def resolve(name: str, target: str) -> str:
    """Return the target of a link in the file ``name``; both are relative to the repository."""
    return os.path.normpath(PurePosixPath(name).parent / target)


def page_of(target: str) -> str:
    return f"{SHOWN}/{target}.md"


def shown(target: str) -> str:
    """Return the page that shows a file, or the Python files of a folder."""
    path = ROOT / target
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    paths = sorted(path.glob("*.py")) if path.is_dir() else [path]
    parts = [f"# {target}"]
    for file in paths:
        language = "python" if file.suffix == ".py" else ""
        heading = f"\n## {file.name}\n" if path.is_dir() else ""
        parts.append(f"{heading}\n````{language}\n{file.read_text(encoding='utf-8')}````")
    return "\n".join(parts) + "\n"


def constants() -> str:
    """Return a table of the public constants of SQLite and their values."""
    source = {name: (ROOT / f"rapsqlite/{name}.py").read_text(encoding="utf-8") for name in
              ("_sqlite_names", "_public", "_constants")}  # fmt: skip
    public = set(re.findall(r'"(SQLITE_\w+)"', source["_sqlite_names"] + source["_public"]))
    values = dict(re.findall(r"^(SQLITE_\w+).*= (-?\d+)$", source["_constants"], re.MULTILINE))
    return "\n".join(["| name | value |", "|---|---|", *(f"| `{name}` | {values[name]} |" for name in sorted(public))])
