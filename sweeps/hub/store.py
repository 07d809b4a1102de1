"""Records of the hub in one SQLite file.

A request is one transaction, so the file is consistent after a kill at any time.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""Content of a run, a sweep, an agent, ..., which can be written as JSON."""
TABLES = """
create table if not exists record(kind, key, parent, value, primary key(kind, key));
create index if not exists children on record(kind, parent);
create table if not exists line(run, file, number integer, text, primary key(run, file, number));
"""
TIMEOUT_S = 30
"""Time to wait for another process that has locked the file."""


def read_json(text: str | bytes) -> Any:
    """Read JSON in which NaN and infinities, which JSON does not have, become text as in W&B.

    Args:
        text: JSON that may have been written by Python.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text, parse_constant=str)


class Store:
    """Records by kind and key, in the order of their creation, and lines of the runs' files.

    Args:
        path: the file, which is created if it is missing.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # `isolation_level=None`: transactions begin and end in `transaction` alone.
        self.db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=TIMEOUT_S
        )
        # Others can read while one process writes.
        self.db.execute("pragma journal_mode=wal")
        self.db.executescript(TABLES)
        # Kind -> key -> parent and record: to decode a thousand runs takes longer than a request may.
        self._records: dict[str, dict[str, tuple[str, Record]]] = {}
        self._version = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A context in which everything is written, or nothing if it ends with an exception."""
        self.db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self.db.execute("rollback")
            self._records.clear()
            raise
        self.db.execute("commit")

    def get(self, kind: str, key: str) -> Record | None:
        """A record; None if there is none of this kind and key."""
        _, record = self._of_kind(kind).get(key, ("", None))
        return None if record is None else dict(record)

    def _of_kind(self, kind: str) -> dict[str, tuple[str, Record]]:
        """Key -> parent and record of all records of a kind, oldest first."""
        # It changes when another process has written to the file.
        (version,) = self.db.execute("pragma data_version").fetchone()
        if version != self._version:
            self._records.clear()
            self._version = version
        if kind not in self._records:
            query = "select key, parent, value from record where kind=? order by rowid"
            rows = self.db.execute(query, (kind,))
            records = {key: (parent, read_json(value)) for key, parent, value in rows}
            self._records[kind] = records
        return self._records[kind]

    def put(self, kind: str, key: str, value: Record, parent: str = "") -> Record:
        """Insert or update a record; returns it.

        Args:
            kind: run, sweep, ...
            key: unique among records of its kind.
            value: the record.
            parent: key of the record that it belongs to; an update does not change it.
        """
        records = self._of_kind(kind)
        parent, _ = records.get(key, (parent, None))
        text = json.dumps(value)
        row = (kind, key, parent, text)
        # Other than `insert or replace`, this keeps the order of creation.
        update = "on conflict(kind, key) do update set value=excluded.value"
        self.db.execute(f"insert into record values(?, ?, ?, ?) {update}", row)
        records[key] = (parent, read_json(text))
        return value

    def all(self, kind: str, parent: str | None = None) -> list[Record]:
        """Records of a kind, oldest first.

        Args:
            kind: run, sweep, ...
            parent: key of the record that they belong to; None for any.
        """
        records = []
        for own_parent, record in self._of_kind(kind).values():
            if parent is None or own_parent == parent:
                # A copy, which the caller may change before it is put back.
                records.append(dict(record))
        return records

    def write(self, run: str, file: str, first: int, lines: Sequence[str]) -> None:
        """Write lines of a file; writing the same lines again changes nothing.

        Args:
            run: key of the run.
            file: name of the file.
            first: number of the first of these lines in the file.
            lines: the lines.
        """
        rows = [(run, file, number, line) for number, line in enumerate(lines, first)]
        self.db.executemany("insert or replace into line values(?, ?, ?, ?)", rows)

    def lines(self, run: str, file: str) -> list[str]:
        """All lines of a file of the run with this key."""
        query = "select text from line where run=? and file=? order by number"
        return [text for (text,) in self.db.execute(query, (run, file))]

    def last(self, run: str, file: str) -> list[str]:
        """The last line of a file; empty if there is none."""
        query = "select text from line where run=? and file=? order by number desc limit 1"
        return [text for (text,) in self.db.execute(query, (run, file))]

    def count(self, run: str, file: str) -> int:
        """Number of lines of a file, including the gap that a killed client may have left."""
        query = "select coalesce(max(number) + 1, 0) from line where run=? and file=?"
        return self.db.execute(query, (run, file)).fetchone()[0]
