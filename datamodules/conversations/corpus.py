"""The manifests of `data.conversations`: opened, checked, and cut into excerpts by split."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from configs.checks import SPLITS
from configs.schema import Config, EffectsConfig
from datamodules.conversations.audio_checks import side_problem
from datamodules.conversations.conversation import Conversation
from datamodules.conversations.excerpts import Excerpt, Excerpts, cut, listener_of
from datamodules.conversations.manifest import iterate_conversations
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import Slices
from datamodules.mixture import Mixture
from datamodules.sources.corpus_manifest import (
    SplitFacts,
    Survey,
    check_bad_share,
    in_fair_order,
)
from datamodules.sources.manifest_entry import UNUSABLE, Skipped
from datamodules.synthetic.effects import apply_effects

NO_SPLIT = "conversations without a split, which make data NAME=conversations assigns"
"""Reason for leaving conversations out."""
NO_TURN = "conversations without a slice that has a label"
"""Reason for leaving conversations out."""


@dataclasses.dataclass(frozen=True)
class OpenedManifest:
    """A manifest of conversations."""

    excerpts: dict[str, Excerpts]
    """Split -> its excerpts, in fair order."""
    survey: Survey


def open_conversations(config: Config) -> dict[str, OpenedManifest]:
    """Open every manifest of `data.conversations` by its path.

    Only the headers of sound files are read.

    Raises:
        ValueError: a manifest is missing or not JSONL, too many of its conversations are broken, or
            none is left for a split; names it, and the remedy.
    """
    opened = {}
    for path in config.data.conversations:
        try:
            opened[path] = open_manifest(Path(path).expanduser(), config)
            check_bad_share(opened[path].survey, config.data.max_bad_share)
        except ValueError as error:
            raise ValueError(f"data.conversations: {error}") from None
    if opened:
        _check_splits(opened, config.data.composed_share)
    return opened


def open_manifest(path: Path, config: Config) -> OpenedManifest:
    """Open one manifest, or the one in a folder.

    Raises:
        ValueError: it is missing, empty or not JSONL.
    """
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; name a manifest of conversations, or the folder that make data "
            "has written it to"
        )
    slices = Slices.of(config)
    excerpts: dict[str, list[Excerpt]] = {split: [] for split in SPLITS}
    durations_s: dict[str, list[float]] = {split: [] for split in SPLITS}
    speakers: dict[str, set[str]] = {split: set() for split in SPLITS}
    skipped = []
    for item in iterate_conversations(path):
        found = _excerpts_of(item, path, slices, config)
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        assert isinstance(item, Conversation) and item.split is not None
        excerpts[item.split] += found
        durations_s[item.split].append(item.duration_s)
        speakers[item.split] |= item.speakers
    facts = {}
    for split in SPLITS:
        hours = sum(durations_s[split]) / 3600
        facts[split] = SplitFacts(len(durations_s[split]), hours, len(speakers[split]))
    survey = Survey(facts, skipped, [], noun="conversations and listeners,")
    return OpenedManifest(
        {split: Excerpts(in_fair_order(excerpts[split]), slices) for split in SPLITS}, survey
    )


def _excerpts_of(
    item: Conversation | Skipped, path: Path, slices: Slices, config: Config
) -> list[Excerpt] | Skipped:
    """Excerpts of a line of a manifest; or why there are none."""
    if isinstance(item, Skipped):
        return item
    # What the other side says is not trained on.
    problem = side_problem(item.user, item.duration_s)
    if problem:
        return Skipped(UNUSABLE, f"{path}: {item.id}: {problem}")
    if item.split is None:
        return Skipped(NO_SPLIT, item.id)
    listener = listener_of(item, slices, config.dialogue.words_per_s)
    return cut(listener, slices, config.data.excerpt_s) or Skipped(NO_TURN, item.id)


def _check_splits(opened: Mapping[str, OpenedManifest], composed_share: float) -> None:
    """Check that there is something to train on and to score."""
    needed = ["valid", "test"]
    if composed_share < 1:
        needed.insert(0, "train")
    for split in needed:
        if not any(len(manifest.excerpts[split]) for manifest in opened.values()):
            reasons = []
            for manifest in opened.values():
                reasons += manifest.survey.left_out()
            left_out = f"; left out: {'; '.join(reasons)}" if reasons else ""
            raise ValueError(
                f"data.conversations={list(opened)}: no conversation of split {split} is left"
                f"{left_out}; give more, or name their split in the manifests"
            )


def joined(opened: Mapping[str, OpenedManifest], split: str) -> Excerpts:
    """The excerpts of a split of all manifests, in fair order."""
    excerpts: list[Excerpt] = []
    slices = None
    for manifest in opened.values():
        excerpts += manifest.excerpts[split].excerpts
        slices = manifest.excerpts[split].slices
    assert slices is not None
    return Excerpts(in_fair_order(excerpts), slices)


class ExcerptStream(Dataset[Dialogue]):
    """Endless excerpts of the training split, in the shares of their manifests.

    The excerpt of a position is a pure function of the configuration and the position.

    Args:
        corpora: excerpts of each manifest, none empty.
        weights: share of each.
        effects: effects on the training audio.
        seed: selects order and effects.
    """

    def __init__(
        self,
        corpora: Sequence[Excerpts],
        weights: Sequence[float],
        effects: EffectsConfig,
        seed: int,
    ):
        self.mixture = Mixture(corpora, weights, seed)
        self.effects = effects
        self.seed = seed

    def __getitem__(self, position: int) -> Dialogue:
        excerpts, index = self.mixture.locate(position)
        dialogue = excerpts[index]
        # Seeded by position: an excerpt sounds the same in a resumed run.
        rng = np.random.default_rng([self.seed, position])
        rate_hz = excerpts.slices.rate_hz
        samples = apply_effects(dialogue.samples, rng, self.effects, rate_hz)
        return dataclasses.replace(dialogue, samples=samples)

    def duration_s(self, position: int) -> float:
        """Length in seconds, without reading audio."""
        excerpts, index = self.mixture.locate(position)
        return excerpts.duration_s(index)


def excerpt_stream(opened: Mapping[str, OpenedManifest], config: Config) -> ExcerptStream:
    """The training excerpts of all manifests."""
    corpora = []
    weights = []
    for path, manifest in opened.items():
        if len(manifest.excerpts["train"]):
            corpora.append(manifest.excerpts["train"])
            weights.append(config.data.conversations[path])
    return ExcerptStream(corpora, weights, config.data.augment.effects, config.seed)
