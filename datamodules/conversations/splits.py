"""Splits of conversations: no sound and, where that is possible, no speaker is in two of them."""

import collections
import dataclasses
from collections.abc import Sequence

from configs.checks import SPLITS
from datamodules.conversations.conversation import Conversation
from datamodules.sources.corpus_manifest import MIN_SPEAKERS, SplitFacts, hold_out_keys
from datamodules.sources.manifest_entry import split_of

MAX_CONNECTED_SHARE = 0.5
"""Where a larger share of the conversations is connected by common speakers, speakers cannot be held
out."""


def assign_splits(
    conversations: Sequence[Conversation],
) -> tuple[list[Conversation], list[str]]:
    """Give every conversation a split.

    The splits of the corpus are used, and conversations without one belong to train. A missing valid
    or test is held out of train: conversations that share no speaker with the others where there are
    such, else single recordings. They are chosen by a hash of names, so that they stay in their split
    when the corpus grows.

    Returns:
        The conversations with their splits, and notes on what was held out.
    """
    named = [split_of(item.split or "") or "train" for item in conversations]
    missing = [split for split in ("valid", "test") if split not in named]
    assert set(named) <= set(SPLITS)
    groups = _groups(conversations, by_speaker=True)
    what = "conversations with speakers of their own"
    # In Fisher, chains of common speakers reach nearly every call.
    if _largest_share(groups) > MAX_CONNECTED_SHARE:
        groups = _groups(conversations, by_speaker=False)
        what = "single recordings, since speakers connect most of them"
    in_train = {group for group, split in zip(groups, named, strict=True) if split == "train"}
    if not missing or len(in_train) < MIN_SPEAKERS:
        notes = [
            f"the corpus gives no {' and no '.join(missing)}, and is too small to hold any out"
        ]
        return _with_splits(conversations, named), notes if missing else []
    held_out = hold_out_keys(in_train, missing)
    splits = []
    for group, split in zip(groups, named, strict=True):
        splits.append(held_out.get(group, split) if split == "train" else split)
    note = f"the corpus gives no {' and no '.join(missing)}: held out of train, {what}"
    return _with_splits(conversations, splits), [note]


def _with_splits(
    conversations: Sequence[Conversation], splits: Sequence[str]
) -> list[Conversation]:
    pairs = zip(conversations, splits, strict=True)
    return [dataclasses.replace(item, split=split) for item, split in pairs]


def _largest_share(groups: Sequence[str]) -> float:
    [(_, count)] = collections.Counter(groups).most_common(1)
    return count / len(groups)


def _groups(conversations: Sequence[Conversation], by_speaker: bool) -> list[str]:
    """Name of the group of each conversation, whose members belong to one split.

    The listeners of a recording are connected by its sound, recordings by common speakers.
    """
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            # Shortens the path for later calls.
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    names = [_names(item, by_speaker) for item in conversations]
    # All names of a conversation belong to one group.
    for connected in names:
        for name in connected[1:]:
            first, other = sorted([find(connected[0]), find(name)])
            # The smallest name stands for the group, whatever the order.
            parents[other] = first
    return [find(connected[0]) for connected in names]


def _names(conversation: Conversation, by_speaker: bool) -> list[str]:
    names = [f"sound {conversation.user.audio}"]
    if conversation.agent is not None:
        names.append(f"sound {conversation.agent.audio}")
    if by_speaker:
        names += [f"speaker {speaker}" for speaker in sorted(conversation.speakers)]
    return names


def facts_of(conversations: Sequence[Conversation]) -> dict[str, SplitFacts]:
    """Sizes of all splits."""
    facts = {}
    for split in SPLITS:
        inside = [item for item in conversations if item.split == split]
        hours = sum(item.duration_s for item in inside) / 3600
        speakers = frozenset().union(*[item.speakers for item in inside])
        facts[split] = SplitFacts(len(inside), hours, len(speakers))
    return facts
