"""Files of responses: JSON, a line for each item, with the item's own fields, its `prompt` and the `response`.

Those made here also have `item`, the name by which a line is known, and the times. Files made elsewhere, such as
VoiceBench's own, need not: where the items are known, a line is known by its prompt.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TROUBLES = ("broken", "double", "unknown", "missing")


class Response(NamedTuple):
    """What was answered to one item."""

    name: str
    fields: Mapping[str, Any]
    text: str

    @property
    def empty(self) -> bool:
        return not self.text.strip()


class Found(NamedTuple):
    """What a file holds."""

    responses: list[Response]
    troubles: dict[str, list[str]]
    """By kind: what is wrong, in words; nothing of it is scored."""


def read(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines with a prompt and a response, and what is wrong with the others.

    Raises:
        ValueError: there is no such file.
    """
    if not file.is_file():
        raise ValueError(
            f"no responses at {file}; give a JSONL file with `prompt` and `response` in each line"
        )
    rows, broken = [], []
    for number, line in enumerate(lines(file), 1):
        if not line.strip():
            continue
        trouble, row = _parsed(line)
        if trouble:
            broken.append(f"{file.name}, line {number}: {trouble}")
        else:
            rows.append({**row, "item": str(row.get("item", f"line {number}"))})
    return rows, broken


def lines(file: Path) -> list[str]:
    """Of a JSONL file: cut at line feeds alone, for JSON may hold what Python also calls the end of a line."""
    return file.read_text("utf-8", "replace").split("\n")


def append(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Lines, at once on disk, behind what is there; a line that was cut off there stays one by itself."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with file.open("a+b") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            text = text if opened.read() == b"\n" else f"\n{text}"
        opened.write(text.encode())


def _parsed(line: str) -> tuple[str, dict[str, Any]]:
    """What is wrong with a line, if anything, and its fields."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"no JSON ({error})", {}
    if not isinstance(row, dict):
        return "no JSON object", {}
    lacking = [field for field in ("prompt", "response") if not isinstance(row.get(field), str)]
    return (f"{lacking[0]} is no text" if lacking else ""), row


def find(file: Path, needs: Sequence[str], items: Mapping[str, Mapping[str, Any]] | None) -> Found:
    """The responses of a file, each to one item.

    Args:
        needs: fields that scoring needs.
        items: the fields of all items, by name; None: not known, so that every line is an item.

    Returns:
        Responses in the order of the items; of several to one item the first.
    """
    rows, broken = read(file)
    troubles: dict[str, list[str]] = {kind: [] for kind in TROUBLES} | {"broken": broken}
    known = {row["item"]: row for row in rows} if items is None else items
    by_prompt: dict[str, list[str]] = {}
    for name, fields in known.items():
        by_prompt.setdefault(fields["prompt"], []).append(name)
    taken: dict[str, Response] = {}
    for row in rows:
        name = _name(row, known, by_prompt, taken)
        label = f"{row['item']} ({row['prompt'][:60]!r})"
        fields = {**row, **(items or {}).get(name, {})}
        lacking = [need for need in needs if fields.get(need) is None]
        if name not in known:
            troubles["unknown"].append(label)
        elif name in taken:
            troubles["double"].append(label)
        elif lacking:
            troubles["broken"].append(f"{label} has no {', '.join(lacking)}")
        else:
            taken[name] = Response(name, fields, row["response"])
    troubles["missing"] = [] if items is None else [name for name in items if name not in taken]
    return Found([taken[name] for name in known if name in taken], troubles)


def _name(
    row: Mapping[str, Any],
    known: Mapping[str, Any],
    by_prompt: Mapping[str, list[str]],
    taken: Mapping[str, Any],
) -> str:
    """The item a line belongs to: by its name and prompt, else the first of its prompt that has no response yet."""
    if known.get(row["item"], {}).get("prompt") == row["prompt"]:
        return str(row["item"])
    same = by_prompt.get(row["prompt"], [])
    return next((name for name in same if name not in taken), same[0] if same else "")


class Log:
    """The file that responses are written to, as they come; whoever was stopped goes on behind the last of them."""

    def __init__(self, file: Path, made_by: str):
        """Raises ValueError: it holds responses of another configuration, which would be scored as one with these."""
        self.file, self.made_by = file, made_by
        file.parent.mkdir(parents=True, exist_ok=True)
        rows, _ = read(file) if file.exists() else ([], [])
        others = sorted({str(row.get("made_by")) for row in rows} - {made_by})
        if others:
            raise ValueError(
                f"{file} was made by {others[0]}, not by {made_by}; move it away, or delete it"
            )
        self.prompts = {row["item"]: row["prompt"] for row in rows}

    def holds(self, name: str, prompt: str) -> bool:
        """Whether an item has been answered. Raises ValueError: another question has, under its name."""
        if self.prompts.get(name, prompt) != prompt:
            raise ValueError(
                f"{self.file}: {name} is an answer to other data; move the file away, or delete it"
            )
        return name in self.prompts

    def write(self, name: str, fields: Mapping[str, Any]) -> None:
        """One line."""
        append(self.file, [{"item": name, **fields, "made_by": self.made_by}])
        self.prompts[name] = fields["prompt"]
