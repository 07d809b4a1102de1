"""Speak what a training needs into the cache of slow synthesisers, before the training.

    python -m datamodules.fill_cache 3000 configs/preset/tiny.yaml configs/stage/asr.yaml
    'data.voices={flite: 1}'

makes the first 3,000 training utterances (dialogues, for stages that train on them), and everything
that is scored. What is in the cache already is not spoken again, so a killed command goes on where
it was. A training without this speaks the same into the same cache.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from configs.loading import load_config
from configs.schema import Config
from datamodules.batching import ScoredSet
from datamodules.corpora import Corpora, check_synthesisers
from datamodules.dialogue.data import DialogueData, WithUtterances
from datamodules.synthetic.speech_cache import size_of
from datamodules.synthetic.voices import SYNTHESISERS, open_cache
from datamodules.unseen import check_unseen, open_unseen

Parts = list[tuple[str, Dataset[Any], int]]
"""What is made: its name, the items, and their number."""


def main(args: Sequence[str]) -> None:
    """Make the first items of a training, and what is scored.

    Args:
        args: the number of training items; then files and overrides of the configuration.

    Raises:
        ValueError: the first argument is no number, or the configuration cannot be used.
    """
    if not args or not args[0].isdigit():
        raise ValueError(f"give the number of training utterances first, not {args[:1]}")
    config = load_config(list(args[1:]))
    check_synthesisers(config)
    check_unseen(config)
    for name, dataset, count in _parts(config, int(args[0])):
        _make(f"{name:<20}", dataset, count, config.data.num_workers)
    print(describe(open_cache(config.data).folder))


def describe(folder: Path) -> str:
    """Files and megabytes of each synthesiser in a folder of the cache, one line each."""
    lines = [f"cache: {folder}"]
    for name in SYNTHESISERS:
        num_files, num_bytes = size_of(folder / name)
        if num_files:
            lines.append(f"  {name:<10}{num_files:>9,} utterances {num_bytes / 1e6:>9,.1f} MB")
    return "\n".join(lines)


def _parts(config: Config, count: int) -> Parts:
    corpora = Corpora(config)
    stream = corpora.stream
    data = config.data
    if config.stage.data == "dialogues":
        dialogues = DialogueData(config, corpora).dialogues
        num_utterances = config.stage.utterances_per_dialogue
        train = WithUtterances(dialogues("train", count), stream, num_utterances, stream.ramp)
        valid = WithUtterances(dialogues("valid", data.valid_dialogues))
        test = WithUtterances(dialogues("test", data.test_dialogues))
        return [
            ("train", train, count),
            ("valid", valid, data.valid_dialogues),
            ("test", test, data.test_dialogues),
        ]
    parts: Parts = [
        ("train", stream, count),
        ("valid", ScoredSet(corpora.valid), len(corpora.valid)),
        ("test", ScoredSet(corpora.test), len(corpora.test)),
    ]
    for family, corpus in open_unseen(config, corpora).voices.items():
        parts.append((f"test_voices {family}", ScoredSet(corpus), len(corpus)))
    return parts


def _make(name: str, dataset: Dataset[Any], count: int, num_workers: int) -> None:
    """Make the first items of a data set and drop them; their speech stays in the cache."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(count),
        num_workers=num_workers,
        collate_fn=_dropped,
    )
    for _ in track(loader, name, count):
        pass


def _dropped(item: Any) -> None:
    """Nothing: the items need not come back from the workers."""


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
