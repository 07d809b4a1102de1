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
SWALLOWED_ROW = re.compile(r"\n.*\.(wav|flac|mp3|ogg|opus|sph|m4a|webm)\b", re.IGNORECASE)
"""The name of a sound file after a line break within a field: the field is not closed by a
quotation mark and holds the rows after it."""
DIGITS = re.compile(r"\d+")
OTHER_SEPARATORS = ";\t|"
"""Characters that separate columns in tables of other programs."""


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
    is_tsv = name.lower().removesuffix(".gz").endswith(".tsv")
    if is_tsv:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    columns: list[str] | None = None
    rows = []
    is_open = False
    # A field in quotation marks may hold line breaks, so rows and lines differ.
    first_line = 1
    try:
        for fields in reader:
            if columns is None:
                columns = _columns(name, fields)
            elif fields:
                _check(name, first_line, fields, columns)
                if is_open and len(fields) < len(columns):
                    raise _line_break(name, first_line - 1)
                is_open = is_tsv and _is_open(fields[-1])
                fields = [_unquoted(field) for field in fields] if is_tsv else fields
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
    for separator in OTHER_SEPARATORS:
        # Excel writes "sep=;" above the header.
        if columns[0].startswith("sep=") or (len(columns) == 1 and separator in columns[0]):
            raise ValueError(
                f"{name}, line 1: {', '.join(header)!r} does not name columns between commas; write "
                "the table with commas, or with tabs under a name that ends with .tsv"
            )
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
        if SWALLOWED_ROW.search(field) or _holds_row(field, fields[0]):
            raise ValueError(
                f"{name}, line {line}: a quotation mark opens a field that holds the rows after "
                "it; close it, or write it twice within quotation marks"
            )


def _holds_row(field: str, first_field: str) -> bool:
    """Whether a line within a field begins as the row does: with the same name but for its number."""
    lines = field.split("\n")[1:]
    beginnings = [line.partition(",") for line in lines]
    shape = DIGITS.sub("0", first_field)
    return any(comma and DIGITS.sub("0", name) == shape for name, comma, _ in beginnings)


def _is_open(field: str) -> bool:
    """Whether a quotation mark at the start of a field is not closed within it."""
    return field.startswith('"') and field.count('"') % 2 == 1


def _line_break(name: str, line: int) -> ValueError:
    return ValueError(
        f"{name}, line {line}: a quotation mark opens a field that goes on in the next line; in a "
        ".tsv a line is a row: replace the line break by a space"
    )


def _unquoted(field: str) -> str:
    """A field of a .tsv without the quotation marks of a writer that doubles those within."""
    inner = field[1:-1].replace('""', "")
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"'
    # Without doubled ones, the marks may be part of the text.
    if is_quoted and '""' in field[1:-1] and '"' not in inner:
        return field[1:-1].replace('""', '"')
    return field


def _row(columns: Sequence[str], fields: Sequence[str]) -> Row:
    row: Row = dict.fromkeys(columns)
    # A short row ends before the last columns; surplus fields are blank.
    row.update(zip(columns, fields, strict=False))
    return row
