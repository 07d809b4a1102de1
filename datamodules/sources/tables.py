"""Tables (CSV, TSV) -> one dict per row; a row that cannot be read as it is meant is an error that
names file and line."""

import csv
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
"""Column -> text; None where a short row ends before it."""
SWALLOWED_ROW = re.compile(r"\n.*\.(wav|flac|mp3|ogg|opus|sph)\b", re.IGNORECASE)
"""The name of a sound file after a line break within a field: the field is not closed by a
quotation mark and holds the rows after it."""


def parse_table(name: str, text: str) -> list[Row]:
    """Read a table whose first row names its columns.

    Args:
        name: ends with .tsv, or .tsv.gz, for columns separated by tabs, where quotation marks belong to
            the text; else commas separate columns, and a field may stand in quotation marks.
        text: the content.

    Returns:
        One dict per row that is not blank.

    Raises:
        ValueError: a quotation mark is not closed, a row has more fields than there are columns, or
            two columns have the same name.
    """
    # The default, 131,072 characters, is less than some answers have.
    csv.field_size_limit(sys.maxsize)
    lines = io.StringIO(text, newline="")
    if name.removesuffix(".gz").endswith(".tsv"):
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    columns: list[str] | None = None
    rows = []
    # A field in quotation marks may hold line breaks, so rows and lines differ.
    first_line = 1
    try:
        for fields in reader:
            if columns is None:
                columns = _columns(name, fields)
            elif fields:
                _check(name, first_line, fields, columns)
                rows.append(_row(columns, fields))
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {first_line}: {error}; close every quotation mark, and write one within "
            'quotation marks twice ("")'
        ) from None
    return rows


def _columns(name: str, header: Sequence[str]) -> list[str]:
    columns = [column.strip() for column in header]
    for column in columns:
        if column and columns.count(column) > 1:
            raise ValueError(f"{name}, line 1: two columns are called {column!r}; rename one")
    return columns


def _check(name: str, line: int, fields: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ValueError where the fields of a row are not those that its writer meant."""
    surplus = fields[len(columns) :]
    if any(field.strip() for field in surplus):
        raise ValueError(
            f"{name}, line {line}: {len(fields)} columns where the header has {len(columns)}; put "
            "quotation marks around a text that holds the separator"
        )
    for field in fields:
        if SWALLOWED_ROW.search(field):
            raise ValueError(
                f"{name}, line {line}: a quotation mark opens a field that holds the rows after "
                "it; close it, or write it twice within quotation marks"
            )


def _row(columns: Sequence[str], fields: Sequence[str]) -> Row:
    row: Row = dict.fromkeys(columns)
    # A short row ends before the last columns; surplus fields are blank.
    row.update(zip(columns, fields, strict=False))
    return row
