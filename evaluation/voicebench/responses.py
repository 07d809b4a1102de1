"""Files of responses: JSON Lines, one line for each item.

A line has `prompt`, `response` and the fields of the item.

Lines written by this project also have `item`, the name of the item, and times. Files of other
systems, such as VoiceBench's own, may lack the name: if the items are known, a line is assigned to
an item by its prompt.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROBLEM_KINDS = ("broken", "double", "unknown", "missing")
LABEL_LETTERS = 60
"""Letters of a prompt that identify a line in messages."""

Fields = Mapping[str, Any]
"""Fields of an item or of a line."""


class Response(NamedTuple):
    """The response to one item."""

    name: str
    """Name of the item."""
    fields: Fields
    text: str

    @property
    def empty(self) -> bool:
        """Whether the response has no visible text."""
        return not self.text.strip()


class ResponseFile(NamedTuple):
    """Content of a file of responses."""

    responses: list[Response]
    problems: dict[str, list[str]]
    """Kind of problem -> descriptions. Lines with a problem are not scored."""


def read_responses(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the lines that have a prompt and a response.

    Returns:
        The fields of these lines, and descriptions of the other lines.

    Raises:
        ValueError: the file does not exist.
    """
    if not file.is_file():
        raise ValueError(
            f"no responses at {file}; give a JSONL file with `prompt` and `response` in each line"
        )
    entries = []
    broken = []
    for number, line in enumerate(split_lines(file), 1):
        if not line.strip():
            continue
        problem, fields = _parse(line)
        if problem:
            broken.append(f"{file.name}, line {number}: {problem}")
        else:
            name = str(fields.get("item", f"line {number}"))
            entries.append({**fields, "item": name})
    return entries, broken


def split_lines(file: Path) -> list[str]:
    """Lines of a JSONL file.

    Only line feeds separate lines: JSON strings may hold other characters at which
    `str.splitlines` splits.
    """
    return file.read_text("utf-8-sig", "replace").split("\n")


def append_lines(file: Path, entries: Iterable[Fields]) -> None:
    """Append lines to a JSONL file in a single write.

    If an interruption has left an incomplete last line, the new lines start after a line feed.
    """
    # An interruption of a single write can only cut off its end, which readers skip.
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    with file.open("a+b") as opened:
        if opened.tell() > 0:
            opened.seek(-1, os.SEEK_END)
            if opened.read() != b"\n":
                text = f"\n{text}"
        opened.write(text.encode())


def _parse(line: str) -> tuple[str, dict[str, Any]]:
    """The problem of a line, empty for none, and its fields."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error})", {}
    if not isinstance(fields, dict):
        return "no JSON object", {}
    for field in ("prompt", "response"):
        if not isinstance(fields.get(field), str):
            return f"{field} is no text", fields
    return "", fields


def match_responses(
    file: Path, needs: Sequence[str], items: Mapping[str, Fields] | None
) -> ResponseFile:
    """Assign the responses of a file to items.

    Args:
        file: JSONL file of responses.
        needs: fields that scoring needs.
        items: name -> fields of all items; None if they are not known, so that every line is an
            item.

    Returns:
        Responses in the order of the items. If several lines belong to an item, the first counts.

    Raises:
        ValueError: the file does not exist.
    """
    entries, broken = read_responses(file)
    problems: dict[str, list[str]] = {kind: [] for kind in PROBLEM_KINDS}
    problems["broken"] = broken
    known: Mapping[str, Fields] = items or {}
    if items is None:
        known = {entry["item"]: entry for entry in entries}
    # Several items may have the same prompt, so a prompt leads to a list of names.
    names_of_prompt: dict[str, list[str]] = {}
    for name, fields in known.items():
        names_of_prompt.setdefault(fields["prompt"], []).append(name)

    matched: dict[str, Response] = {}
    for entry in entries:
        name = _item_name(entry, known, names_of_prompt, matched)
        label = f"{entry['item']} ({entry['prompt'][:LABEL_LETTERS]!r})"
        # The item's own fields take precedence over those of the line.
        fields = {**entry, **(items or {}).get(name, {})}
        lacking = [need for need in needs if fields.get(need) is None]
        if name not in known:
            problems["unknown"].append(label)
        elif name in matched:
            problems["double"].append(label)
        elif lacking:
            problems["broken"].append(f"{label} has no {', '.join(lacking)}")
        else:
            matched[name] = Response(name, fields, entry["response"])
    if items is not None:
        problems["missing"] = [name for name in items if name not in matched]
    # In the order of the items, so that the scores do not depend on the order of the lines.
    responses = [matched[name] for name in known if name in matched]
    return ResponseFile(responses, problems)


def _item_name(
    entry: Fields,
    known: Mapping[str, Fields],
    names_of_prompt: Mapping[str, list[str]],
    matched: Mapping[str, Response],
) -> str:
    """Name of the item that a line belongs to; empty if there is none.

    It is the item with the name and prompt of the line, else the first item with the same prompt
    that has no response yet.
    """
    if known.get(entry["item"], {}).get("prompt") == entry["prompt"]:
        return str(entry["item"])
    candidates = names_of_prompt.get(entry["prompt"], [])
    for name in candidates:
        if name not in matched:
            return name
    # All have a response: the line is reported as a double of the first.
    if candidates:
        return candidates[0]
    return ""


class ResponseLog:
    """A file to which responses are appended one by one, so that an interrupted command resumes.

    Args:
        file: JSONL file; created with its folder if it does not exist.
        made_by: identifies configuration and weights.

    Raises:
        ValueError: the file holds responses of another configuration or other weights, which must
            not be scored together with new ones.
    """

    def __init__(self, file: Path, made_by: str):
        self.file = file
        self.made_by = made_by
        file.parent.mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        if file.exists():
            entries, _ = read_responses(file)
        others = sorted({str(entry.get("made_by")) for entry in entries} - {made_by})
        if others:
            raise ValueError(
                f"{file} was made by {others[0]}, not by {made_by}; move it away, or delete it"
            )
        self._prompts = {entry["item"]: entry["prompt"] for entry in entries}

    def contains(self, name: str, prompt: str) -> bool:
        """Whether an item has been answered.

        Raises:
            ValueError: the file has a response to another prompt under the name of the item.
        """
        if self._prompts.get(name, prompt) != prompt:
            raise ValueError(
                f"{self.file}: {name} is an answer to other data; move the file away, or delete it"
            )
        return name in self._prompts

    def write(self, name: str, fields: Fields) -> None:
        """Append the response to an item.

        Args:
            name: of the item.
            fields: of the item, with `response`.
        """
        append_lines(self.file, [{"item": name, **fields, "made_by": self.made_by}])
        self._prompts[name] = fields["prompt"]
