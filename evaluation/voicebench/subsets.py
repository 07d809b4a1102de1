"""The subsets of VoiceBench, and their items: from the hub, from a folder of the same schema, or the embedded ones.

The data set is `hlt-lab/voicebench` (arXiv 2410.17196): a folder for each subset, parquet files for each split, rows
of `audio` (bytes of a sound file), `prompt` and what the subset's scorer needs. The embedded items were written
for this project; they have the same fields and no audio.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HUB = "hlt-lab/voicebench"
HUB_TIMEOUT_S = 5.0
ACCENTS = ("usa", "aus", "gbr", "ind_n", "ind_s", "irl", "kenya", "nga", "nzl", "phl", "zaf")
DOMAINS = {
    "law": 51, "engineering": 107, "other": 546, "biology": 172, "business": 236, "economics": 280, "health": 406,
    "philosophy": 305, "psychology": 317, "history": 104, "chemistry": 167, "physics": 383,
}  # fmt: skip


class Subset(NamedTuple):
    """A part of the benchmark."""

    scorer: str
    splits: dict[str, int]
    """Numbers of items."""
    needs: tuple[str, ...] = ()
    """Fields without which an item cannot be scored, beside its prompt."""

    @property
    def size(self) -> int:
        return sum(self.splits.values())


LEADERBOARD = {
    "alpacaeval_full": Subset("open", {"test": 636}),
    "commoneval": Subset("open", {"test": 200}),
    "wildvoice": Subset("open", {"test": 1000}),
    "sd-qa": Subset("qa", {"usa": 553}, ("reference",)),
    "mmsu": Subset("mcq", DOMAINS, ("reference",)),
    "openbookqa": Subset("mcq", {"test": 455}, ("reference",)),
    "bbh": Subset("bbh", {"test": 1000}, ("reference", "id")),
    "ifeval": Subset("ifeval", {"test": 345}, ("instruction_id_list", "kwargs")),
    "advbench": Subset("harm", {"test": 520}),
}
MORE = {f"sd-qa/{accent}": Subset("qa", {accent: 553}, ("reference",)) for accent in ACCENTS[1:]}
SUBSETS = {**LEADERBOARD, **MORE}


class Item(NamedTuple):
    """One question."""

    name: str
    """`<split>/<row>`."""
    fields: dict[str, Any]
    """All columns but the audio."""
    audio: bytes | None
    """A sound file; None: the prompt is to be spoken."""


def chosen(names: str) -> list[str]:
    """Subsets by their names, separated by commas; all of the leaderboard where there is none. Raises ValueError."""
    wanted = [name for name in names.replace(" ", ",").split(",") if name] or list(LEADERBOARD)
    unknown = [name for name in wanted if name not in SUBSETS]
    if unknown:
        raise ValueError(
            f"SUBSETS: VoiceBench has no {unknown[0]!r}; there are {', '.join(SUBSETS)}"
        )
    return wanted


def embedded(name: str) -> Iterator[Item]:
    """Those of this project, in the place of the subset's."""
    rows = json.loads(Path(__file__).with_name("items.json").read_text("utf-8"))[name.split("/")[0]]
    return (Item(f"embedded/{i}", row, None) for i, row in enumerate(rows))


def stored(name: str, folder: Path) -> Iterator[Item]:
    """The subset's items in a folder of the data set's schema, split by split.

    Raises:
        ValueError: a split is not there, or a file is no parquet or lacks a column.
    """
    return itertools.chain.from_iterable(
        _rows(name, split, folder) for split in SUBSETS[name].splits
    )


def _rows(name: str, split: str, folder: Path) -> Iterator[Item]:
    where = folder / name.split("/")[0]
    files = sorted(where.glob(f"{split}-*.parquet")) or sorted(where.glob(f"{split}.parquet"))
    if not files:
        raise ValueError(
            f"{where}: no {split}-*.parquet; give a folder of the schema of {HUB}, or leave subset {name} out"
        )
    rows = itertools.chain.from_iterable(map(_read, files))
    for number, row in enumerate(rows):
        audio = row.pop("audio", None) or {}
        lacking = [field for field in ("prompt", *SUBSETS[name].needs) if row.get(field) is None]
        if lacking or not (audio.get("bytes") or audio.get("path")):
            raise ValueError(
                f"{files[0]}: row {number} has no {(lacking or ['audio'])[0]}; it is not of {HUB}'s schema"
            )
        yield Item(
            f"{split}/{number}",
            row,
            audio.get("bytes") or (files[0].parent / audio["path"]).read_bytes(),
        )


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file, a few at a time."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError(
            "VoiceBench's data are parquet files: pip install -e '.[voicebench]'"
        ) from None
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=16):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
        raise ValueError(
            f"{file} is not a readable parquet file ({error}); fetch it again"
        ) from None


def fetch(names: Sequence[str]) -> Path | None:
    """The folder of the hub's copy, with these subsets; None where neither the network nor the cache has it."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        HfApi().dataset_info(HUB, timeout=HUB_TIMEOUT_S)
        cached = False
    except Exception:  # whatever keeps the hub away, the cache is what is left
        cached = True
    patterns = [
        f"{name.split('/')[0]}/{split}-*" for name in names for split in SUBSETS[name].splits
    ]
    try:
        return Path(
            snapshot_download(
                HUB, repo_type="dataset", allow_patterns=patterns, local_files_only=cached
            )
        )
    except LocalEntryNotFoundError:
        return None
