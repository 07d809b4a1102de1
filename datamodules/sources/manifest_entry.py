"""What readers find: one `Entry` per utterance that can be used, one `Skip` for each that cannot."""

import dataclasses
import re
from collections.abc import Iterable

from datamodules.sources.audio_sources import Place
from duplexmamba.text.tokenizer import normalise

SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_WORDS |= dict.fromkeys(("valid", "validation", "val", "dev"), "valid")
NO_TEXT, NO_AUDIO, NO_TRANSCRIPT = (
    "without text",
    "in a transcript but without audio",
    "audio without a transcript",
)
NO_ANSWER = "without an answer"
UNUSABLE = "unusable"
"""Reasons to leave something out; only what is UNUSABLE counts against data.max_bad_share."""
LETTER_S, AROUND_S = 0.065, 0.5
"""Seconds of a letter, and around an utterance."""
NOT_SPOKEN = re.compile(r"<[^<>]*>|\{[^{}]*\}")
"""Marks of transcribers: <COMMA>, <unk>, {NOISE}."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one utterance lies and what is said in it."""

    id: str
    path: Place
    start_s: float
    duration_s: float | None
    """None: to the end of the file."""
    text: str
    """Normalised, never empty."""
    answer: str
    speaker: str
    """Empty: unknown."""
    split: str | None
    """As the corpus calls it, and after `assign` train, valid or test; None: the corpus does not say."""
    channel: int | None = None
    """None: the mean of all channels."""

    @property
    def length_s(self) -> float:
        """The duration, or what the text makes likely where nobody has measured."""
        return AROUND_S + LETTER_S * len(self.text) if self.duration_s is None else self.duration_s


@dataclasses.dataclass(frozen=True)
class Skip:
    """Something left out."""

    reason: str
    what: str
    """The name of the utterance or file, or a sentence that begins with it; empty: left out by the user's own will."""


Found = Entry | Skip


def spoken(text: str) -> str:
    """A transcript as the project writes it, without marks that nobody says."""
    return normalise(NOT_SPOKEN.sub(" ", text))


def split_of(name: str) -> str | None:
    """train, valid or test from a name such as "dev-clean"; None if no word of it is known."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def assign(item: Found, wanted: dict[str, str], task: str) -> Found:
    """The entry under its split's proper name and with what `task` needs, unless it cannot serve.

    Args:
        wanted: the corpus's own name -> train, valid or test; empty: whatever `split_of` knows. What the corpus gives
            no split is left to train.
    """
    if isinstance(item, Skip):
        return item
    split = wanted.get(item.split or "") if wanted else split_of(item.split or "")
    if wanted and not split and (item.split or "train" not in wanted.values()):
        return Skip(f"of split {item.split!r}, which data.sources does not ask for", "")
    if not item.text:
        return Skip(NO_TEXT, item.id)
    if item.split and not split:
        return Skip(f"of split {item.split!r}, which is none of train, valid and test", item.id)
    if task == "answer" and not item.answer:
        return Skip(NO_ANSWER, item.id)
    return dataclasses.replace(
        item, split=split, answer="" if task == "transcribe" else item.answer
    )


def summarise(skipped: Iterable[Skip]) -> list[str]:
    """One phrase per reason: how many, and up to three of them."""
    by_reason: dict[str, list[str]] = {}
    for skip in skipped:
        by_reason.setdefault(skip.reason, []).append(skip.what)
    return [
        f"{len(names):,} {reason}{_few([name for name in names if name])}"
        for reason, names in by_reason.items()
    ]


def _few(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
