"""The subsets of VoiceBench and their items.

The data set is `hlt-lab/voicebench` (arXiv 2410.17196): a folder for each subset, with parquet
files for each split. Their columns are `audio` (bytes of a sound file), `prompt`, and the fields
that the subset's scorer needs. Items come from the hub, from a folder of the same schema, or from
items.json, whose few items were written for this project; they have the same fields and no audio.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HUB = "hlt-lab/voicebench"
HUB_TIMEOUT_S = 5.0
PARQUET_BATCH = 16
"""Table entries in memory at a time; each holds a recording."""
ACCENTS = ("usa", "aus", "gbr", "ind_n", "ind_s", "irl", "kenya", "nga", "nzl", "phl", "zaf")
DOMAINS = {
    "law": 51,
    "engineering": 107,
    "other": 546,
    "biology": 172,
    "business": 236,
    "economics": 280,
    "health": 406,
    "philosophy": 305,
    "psychology": 317,
    "history": 104,
    "chemistry": 167,
    "physics": 383,
}
"""Split of subset mmsu -> number of items."""


class Subset(NamedTuple):
    """A part of the benchmark."""

    scorer: str
    """open, qa, mcq, bbh, ifeval or harm."""
    splits: Mapping[str, int]
    """Split -> number of items."""
    needs: tuple[str, ...] = ()
    """Fields that scoring needs in addition to the prompt."""

    @property
    def size(self) -> int:
        """Number of items in all splits."""
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
"""The nine subsets of the leaderboard; sd-qa with the accent usa."""
OTHER_ACCENTS = {
    f"sd-qa/{accent}": Subset("qa", {accent: 553}, ("reference",)) for accent in ACCENTS[1:]
}
SUBSETS = {**LEADERBOARD, **OTHER_ACCENTS}


class Item(NamedTuple):
    """One question."""

    name: str
    """`<split>/<number>`."""
    fields: dict[str, Any]
    """All columns except the audio."""
    audio: bytes | None
    """A sound file; None if the prompt has to be synthesised."""


def parse_subsets(text: str) -> list[str]:
    """Parse names of subsets, separated by commas or spaces; empty text names the leaderboard.

    Raises:
        ValueError: there is no such subset.
    """
    names = [name for name in text.replace(" ", ",").split(",") if name]
    for name in names:
        if name not in SUBSETS:
            raise ValueError(f"SUBSETS: VoiceBench has no {name!r}; there are {', '.join(SUBSETS)}")
    return names or list(LEADERBOARD)


def items_of(subset: str, folder: Path | None, limit: int | None = None) -> Iterator[Item]:
    """The first items of a subset.

    Args:
        subset: its name.
        folder: of the data set; None for the items of this project.
        limit: number of items; None for all.

    Raises:
        ValueError: the folder does not have the schema of the data set.
    """
    items = embedded_items(subset) if folder is None else stored_items(subset, folder)
    return itertools.islice(items, limit)


def embedded_items(subset: str) -> Iterator[Item]:
    """The items of this project for a subset."""
    text = Path(__file__).with_name("items.json").read_text("utf-8")
    # all accents of sd-qa share their items
    entries = json.loads(text)[subset.split("/")[0]]
    for number, fields in enumerate(entries):
        yield Item(f"embedded/{number}", fields, None)


def stored_items(subset: str, folder: Path) -> Iterator[Item]:
    """The items of a subset in a folder with the schema of the data set, split by split.

    Raises:
        ValueError: a split is missing, or a file is not a parquet file or lacks a column.
    """
    for split in SUBSETS[subset].splits:
        yield from _split_items(subset, split, folder)


def _split_items(subset: str, split: str, folder: Path) -> Iterator[Item]:
    """The items of one split."""
    subfolder = folder / subset.split("/")[0]
    files = sorted(subfolder.glob(f"{split}-*.parquet"))
    if not files:
        files = sorted(subfolder.glob(f"{split}.parquet"))
    if not files:
        raise ValueError(
            f"{subfolder}: no {split}-*.parquet; give a folder of the schema of {HUB}, or leave "
            f"subset {subset} out"
        )
    # Numbered over all files of the split: how it is divided into files may change.
    entries = itertools.chain.from_iterable(map(_read_parquet, files))
    for number, fields in enumerate(entries):
        audio = fields.pop("audio", None) or {}
        lacking = []
        for field in ("prompt", *SUBSETS[subset].needs):
            if fields.get(field) is None:
                lacking.append(field)
        if not (audio.get("bytes") or audio.get("path")):
            lacking.append("audio")
        if lacking:
            raise ValueError(
                f"{files[0]}: row {number} has no {lacking[0]}; it is not of {HUB}'s schema"
            )
        # Data sets of the hub hold the bytes; a folder written by hand may hold paths instead.
        content = audio.get("bytes") or (files[0].parent / audio["path"]).read_bytes()
        yield Item(f"{split}/{number}", fields, content)


def _read_parquet(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of a parquet file, a few at a time."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError(
            "VoiceBench's data are parquet files: pip install -e '.[voicebench]'"
        ) from None
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=PARQUET_BATCH):
                yield from batch.to_pylist()
    # pyarrow's own errors are subclasses of these two
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} is not a readable parquet file ({error}); fetch it again"
        ) from None


def find_data(choice: str, subsets: Sequence[str]) -> Path | None:
    """Find the folder of the data set.

    Args:
        choice: `hub`, `embedded`, a folder, or empty for the first that is available.
        subsets: to be downloaded from the hub.

    Returns:
        The folder; None for the items of this project.

    Raises:
        ValueError: there is no such folder, or the hub cannot be reached.
    """
    if choice == "embedded":
        return None
    if choice not in ("", "hub"):
        if not Path(choice).is_dir():
            raise ValueError(
                f"VOICEBENCH={choice}: no such folder; give one of {HUB}'s schema, hub or embedded"
            )
        return Path(choice)
    folder = fetch(subsets)
    # Own items in place of those that the user asked for would be misleading.
    if folder is None and choice == "hub":
        raise ValueError(f"the Hugging Face hub does not answer, and no copy of {HUB} is cached")
    if folder is None:
        print(
            f"no {HUB} from the network: the project's own few items instead, which are not "
            "VoiceBench's"
        )
    return folder


def fetch(subsets: Sequence[str]) -> Path | None:
    """Download subsets from the hub.

    Returns:
        The folder of the download or of a cached copy; None if there is neither.
    """
    # Imported here, since the project's own items need no hub.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    is_offline = False
    try:
        HfApi().dataset_info(HUB, timeout=HUB_TIMEOUT_S)
    # Whatever the reason why the hub cannot be reached, the cache remains.
    except Exception:
        is_offline = True
    patterns = []
    for name in subsets:
        for split in SUBSETS[name].splits:
            patterns.append(f"{name.split('/')[0]}/{split}-*")
    try:
        folder = snapshot_download(
            HUB, repo_type="dataset", allow_patterns=patterns, local_files_only=is_offline
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder)
