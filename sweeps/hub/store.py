"""Records of the hub, in one SQLite file: whole after a kill at any moment, since a request is one transaction."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
TABLES = """
create table if not exists record(kind, key, parent, value, primary key(kind, key));
create index if not exists children on record(kind, parent);
create table if not exists line(run, file, number integer, text, primary key(run, file, number));
"""


class Store:
    """Records by kind and key, in the order in which they were made, and the lines of the runs' files."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self.db.execute("pragma journal_mode=wal")
        self.db.executescript(TABLES)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written while it is open, or nothing."""
        self.db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self.db.execute("rollback")
            raise
        self.db.execute("commit")

    def get(self, kind: str, key: str) -> Record | None:
        row = self.db.execute(
            "select value from record where kind=? and key=?", (kind, key)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, kind: str, key: str, value: Record, parent: str = "") -> Record:
        """Insert or update; the parent is that of the first time."""
        words = (kind, key, parent, json.dumps(value))
        update = "on conflict(kind, key) do update set value=excluded.value"
        self.db.execute(f"insert into record values(?, ?, ?, ?) {update}", words)
        return value

    def all(self, kind: str, parent: str | None = None) -> list[Record]:
        """Oldest first."""
        where, words = ("", (kind,)) if parent is None else (" and parent=?", (kind, parent))
        rows = self.db.execute(
            f"select value from record where kind=?{where} order by rowid", words
        )
        return [json.loads(value) for (value,) in rows]

    def write(self, run: str, file: str, first: int, lines: Sequence[str]) -> None:
        """Lines of a file from number `first` on; the same lines again change nothing."""
        rows = [(run, file, first + i, line) for i, line in enumerate(lines)]
        self.db.executemany("insert or replace into line values(?, ?, ?, ?)", rows)

    def lines(self, run: str, file: str) -> list[str]:
        query = "select text from line where run=? and file=? order by number"
        return [text for (text,) in self.db.execute(query, (run, file))]

    def last(self, run: str, file: str) -> list[str]:
        """The last line, if there is one."""
        query = "select text from line where run=? and file=? order by number desc limit 1"
        return [text for (text,) in self.db.execute(query, (run, file))]

    def count(self, run: str, file: str) -> int:
        """Lines, those before a gap that a killed client has left included."""
        query = "select coalesce(max(number) + 1, 0) from line where run=? and file=?"
        return self.db.execute(query, (run, file)).fetchone()[0]
