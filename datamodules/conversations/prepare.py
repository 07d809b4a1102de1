"""Convert recorded conversations into a manifest, check them, and report on them:

    make data NAME=fisher ROOT=/corpora/fisher

writes to runs/data/<name>: `conversations.jsonl.gz`, `report.html` and `report.json`. Audio stays
where it is and is decoded only where a converter has to find speech by its level.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from configs.loading import load_config
from datamodules.conversations import ConversationFormat
from datamodules.conversations.audio_checks import check
from datamodules.conversations.manifest import MANIFEST, write_conversations
from datamodules.conversations.report import ConversationReport, print_report, write_html
from datamodules.conversations.splits import assign_splits, facts_of
from datamodules.conversations.statistics import statistics_of
from datamodules.dialogue.turns import Slices
from datamodules.sources.corpus_manifest import Survey, check_bad_share
from datamodules.sources.manifest_entry import summarise_skipped


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
    survey = Survey(facts_of(conversations), skipped, notes)
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
