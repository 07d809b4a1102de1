"""Convert recorded conversations into a manifest, check them, and report on them:

    make data NAME=fisher ROOT=/corpora/fisher

writes to runs/data/<name>: `conversations.jsonl.gz`, `report.html` and `report.json`. Audio stays
where it is and is decoded only where a converter has to find speech by its level.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.progress import track

from configs.checks import SPLITS
from configs.loading import load_config
from datamodules.conversations import ConversationFormat
from datamodules.conversations.conversation import TIME_SLACK_S, Conversation, Side, problem_of
from datamodules.conversations.manifest import MANIFEST, write_conversations
from datamodules.conversations.report import ConversationReport, print_report, write_html
from datamodules.conversations.splits import assign_splits
from datamodules.conversations.statistics import statistics_of
from datamodules.corpus import UnusableAudio
from datamodules.dialogue.turns import Slices
from datamodules.sources.audio import sound_shape
from datamodules.sources.corpus_manifest import SplitFacts, Survey, check_bad_share
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, summarise_skipped

NUM_CACHED_HEADERS = 1024
"""Headers that are kept, since listeners of one recording follow each other."""


def main(conversation_format: ConversationFormat, args: Sequence[str]) -> Path:
    """Run the command.

    Args:
        conversation_format: layout of the corpus.
        args: name of the corpus, its folder or manifest, and the arguments of `load_config`.

    Returns:
        The folder with the report and the manifest.

    Raises:
        ValueError: nothing is usable; or more than data.max_bad_share is unusable, after the report
            has been written.
    """
    name, root, *rest = args
    config = load_config(rest)
    path = Path(root).expanduser()
    if not root or not path.exists():
        raise ValueError(f"ROOT={root} does not exist; give {conversation_format.layout}")
    items = track(conversation_format.convert(path), f"Converting {name}")
    conversations, skipped = check(items)
    if not conversations:
        reasons = "; ".join(summarise_skipped(skipped)) or "nothing"
        raise ValueError(f"{path} holds no usable conversation; left out: {reasons}")
    # By the whole corpus, since speakers connect its conversations.
    conversations, notes = assign_splits(conversations)
    folder = Path(config.run.dir) / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_conversations(conversations, folder / MANIFEST)
    survey = Survey(_facts(conversations), skipped, notes)
    statistics = statistics_of(conversations, Slices.of(config))
    report = ConversationReport(name, str(path), survey, statistics)
    write_html(report, folder / "report.html")
    numbers = json.dumps(report.numbers(), indent=1)
    (folder / "report.json").write_text(numbers + "\n", encoding="utf-8")
    print_report(report)
    print(f"{folder}: report.html, report.json, {MANIFEST}")
    # Last, so that the report names what is broken.
    check_bad_share(survey, config.data.max_bad_share)
    return folder


def check(
    items: Iterable[Conversation | Skipped],
) -> tuple[list[Conversation], list[Skipped]]:
    """Separate conversations whose turns and sound files are sound from all others.

    Only the headers of sound files are read.
    """
    conversations = []
    skipped = []
    ids: set[str] = set()
    for item in items:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        problem = problem_of(item) or _audio_problem(item)
        if item.id in ids:
            problem = "another conversation has this id; give each its own"
        if problem:
            skipped.append(Skipped(UNUSABLE, f"{item.user.audio}: {item.id}: {problem}"))
        else:
            conversations.append(item)
            ids.add(item.id)
    return conversations, skipped


def _audio_problem(conversation: Conversation) -> str | None:
    """Phrase about a sound file that lacks a channel or ends early; None: there is none."""
    for name, side in (("user", conversation.user), ("agent", conversation.agent)):
        # Reading the header of a sound in a shard or table would mean to read all of it.
        if side is not None and isinstance(side.audio, Path):
            problem = _side_problem(side.audio, side, conversation.duration_s)
            if problem:
                return f"{name}: {problem}"
    return None


def _side_problem(path: Path, side: Side, duration_s: float) -> str | None:
    try:
        file_s, num_channels = _shape(path)
    except UnusableAudio as error:
        return str(error)
    if side.channel is not None and side.channel >= num_channels:
        return (
            f"{path} has {num_channels} channels, counted from 0, and no channel "
            f"{side.channel}; correct the channel"
        )
    missing_s = side.start_s + duration_s - file_s
    if missing_s > TIME_SLACK_S:
        return (
            f"{path} ends at {file_s:.2f} s, {missing_s:.2f} s before the conversation does; "
            "correct duration_s or start_s, or fetch the file again"
        )
    return None


@functools.lru_cache(maxsize=NUM_CACHED_HEADERS)
def _shape(path: Path) -> tuple[float, int]:
    return sound_shape(path)


def _facts(conversations: Sequence[Conversation]) -> dict[str, SplitFacts]:
    facts = {}
    for split in SPLITS:
        inside = [item for item in conversations if item.split == split]
        hours = sum(item.duration_s for item in inside) / 3600
        speakers = frozenset().union(*[item.speakers for item in inside])
        facts[split] = SplitFacts(len(inside), hours, len(speakers))
    return facts
