"""Items of Full-Duplex-Bench: a folder with `input.wav` and an annotation each."""

import json
from pathlib import Path
from typing import Any, NamedTuple

KINDS = {
    "pause.json": "pause_handling",
    "turn_taking.json": "smooth_turn_taking",
    "interrupt.json": "user_interruption",
    "metadata.json": "overlap",
    "transcription.json": "backchannel",
}
"""Annotation file -> kind of item. If an item has several, the first one in this order counts."""
LISTENERS_FILE = "icc_gt_distribution.json"
"""When 118 listeners gave back-channels, beside the items of that kind."""


class Item(NamedTuple):
    """A recording and its annotation."""

    folder: Path
    group: str
    """Folder of the data set that the item belongs to, relative to the root."""
    kind: str
    annotation: Any

    @property
    def file(self) -> Path:
        """File of the annotation, for messages."""
        [name] = [name for name, kind in KINDS.items() if kind == self.kind]
        return self.folder / name

    @property
    def has_clean_input(self) -> bool:
        """Whether the same recording without the event is there, as in v1.5."""
        return (self.folder / "clean_input.wav").exists()


def find_items(root: Path) -> list[Item]:
    """Find all items below a folder.

    Raises:
        ValueError: there is no item, or an item has no readable annotation.
    """
    folders = sorted(wav.parent for wav in root.rglob("input.wav"))
    if not folders:
        raise ValueError(
            f"{root}: no input.wav below it; give the folder of a Full-Duplex-Bench data set"
        )
    return [_read_item(folder, root) for folder in folders]


def _read_item(folder: Path, root: Path) -> Item:
    """The item in a folder."""
    names = [name for name in KINDS if (folder / name).exists()]
    if not names:
        raise ValueError(
            f"{folder}: none of {', '.join(KINDS)} beside input.wav; put the item's annotation "
            "there"
        )
    annotation = read_json(folder / names[0])
    # Items are in subfolders of their group, except if the root itself is an item.
    group = root if folder == root else folder.parent
    group_name = root.name if group == root else group.relative_to(root).as_posix()
    return Item(folder, group_name, KINDS[names[0]], annotation)


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises ValueError: its content is not JSON."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); fetch it again") from None


def time_at(item: Item, *path: str | int) -> float:
    """The time at a path of keys and indices in the annotation of an item.

    Raises:
        ValueError: there is none.
    """
    value = item.annotation
    try:
        for key in path:
            value = value[key]
        return float(value)
    except (KeyError, IndexError, TypeError, ValueError):
        where = "".join(f"[{key!r}]" for key in path)
        raise ValueError(f"{item.file} has no time at {where}; fetch it again") from None


def listeners_of(root: Path) -> dict[str, list[float]]:
    """Distribution of the listeners' back-channels in each item, by the name of its folder.

    Returns:
        Nothing if the file is not below the root.

    Raises:
        ValueError: the file holds something else.
    """
    for file in sorted(root.rglob(LISTENERS_FILE)):
        values = read_json(file)
        is_valid = isinstance(values, dict) and all(
            isinstance(shares, list) and shares for shares in values.values()
        )
        if not is_valid:
            raise ValueError(f"{file} holds no list of shares for each item; fetch it again")
        return values
    return {}
