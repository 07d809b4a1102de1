"""Results of reading a corpus: an `Entry` for each usable utterance, a `Skipped` for each that is
left out."""

import dataclasses
import re
from collections.abc import Iterable

from datamodules.sources.audio_sources import AudioSource
from duplexmamba.text.tokenizer import normalise, without_invisible, without_markers

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
"""Word in a corpus's name of a split -> train, valid or test."""

# Reasons to leave an utterance out. Only UNUSABLE counts against data.max_bad_share.
NO_TEXT = "without text"
NO_AUDIO = "in a transcript but without audio"
NO_TRANSCRIPT = "audio without a transcript"
NO_ANSWER = "without an answer"
UNUSABLE = "unusable"
UNREAD_FORMAT = "in m4a or another unread format; ffmpeg -i x.m4a x.flac"
NO_PLAIN_TEXT = "with a transcript or answer that is not text"
IN_TWO_SPLITS = "in train and in valid or test, left out of train"

LETTER_S = 0.065
"""Estimated seconds of speech per letter."""
MARGIN_S = 0.5
"""Estimated seconds of silence around an utterance."""
TRANSCRIBER_MARK = re.compile(r"<[^<>]*>|\{[^{}]*\}")
"""Marks that are not spoken: <COMMA>, <unk>, {NOISE}."""
NUM_EXAMPLES = 3
"""Names that a summary lists per reason."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Location, transcript and properties of one utterance."""

    id: str
    path: AudioSource
    start_s: float
    """Start of the utterance within the sound."""
    duration_s: float | None
    """None: to the end of the sound."""
    text: str
    """Normalised; empty only before `assign_split`."""
    answer: str
    """Expected response; empty: none."""
    speaker: str
    """Empty: unknown."""
    split: str | None
    """The corpus's own name of the split; after `assign_split` train, valid or test. None: the
    corpus names none."""
    channel: int | None = None
    """Channel to read; None: the mean of all channels."""

    @property
    def length_s(self) -> float:
        """The duration in seconds, estimated from the text where it is not known."""
        if self.duration_s is None:
            return MARGIN_S + LETTER_S * len(self.text)
        return self.duration_s


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An utterance or file that is left out."""

    reason: str
    detail: str
    """Name of the utterance or file, or a sentence that begins with it; empty: excluded by the
    configuration."""


EntryOrSkipped = Entry | Skipped


def spoken_text(transcript: str) -> str:
    """Normalise a transcript, without the marks of transcribers."""
    return normalise(TRANSCRIBER_MARK.sub(" ", transcript))


def answer_text(answer: str) -> str:
    """An answer as a model can give it: without markers and invisible characters, and with single
    spaces between its words."""
    return " ".join(without_markers(without_invisible(answer)).split())


def split_of(name: str) -> str | None:
    """train, valid or test from a name such as "dev-clean"; None if no word of it is known."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in SPLIT_WORDS:
            return SPLIT_WORDS[word]
    return None


def partition(items: Iterable[EntryOrSkipped]) -> tuple[list[Entry], list[Skipped]]:
    """Separate entries from skipped items, each in their order."""
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for item in items:
        if isinstance(item, Entry):
            entries.append(item)
        else:
            skipped.append(item)
    return entries, skipped


def assign_split(item: EntryOrSkipped, split_names: dict[str, str], task: str) -> EntryOrSkipped:
    """Give an entry its split and keep only what `task` needs.

    Args:
        item: entry under the corpus's own name of the split.
        split_names: the corpus's own name -> train, valid or test; empty: the names that `split_of`
            knows. An entry without a split belongs to train.
        task: `task` of the source.

    Returns:
        The entry, or the reason to leave it out.
    """
    if isinstance(item, Skipped):
        return item
    # Names from the configuration take precedence over the words that are known.
    own_name = item.split or ""
    split = split_names.get(own_name) if split_names else split_of(own_name)
    train_requested = "train" in split_names.values()
    # A corpus without splits is training speech, if the configuration asks for any.
    if split_names and not split and (item.split or not train_requested):
        return Skipped(f"of split {item.split!r}, which data.sources does not ask for", "")
    if not item.text:
        return Skipped(NO_TEXT, item.id)
    if item.split and not split:
        reason = f"of split {item.split!r}, which is none of train, valid and test"
        return Skipped(reason, item.id)
    if task == "answer" and not item.answer:
        return Skipped(NO_ANSWER, item.id)
    answer = "" if task == "transcribe" else item.answer
    return dataclasses.replace(item, split=split, answer=answer)


def summarise_skipped(skipped: Iterable[Skipped]) -> list[str]:
    """One phrase per reason: the count, the reason, and up to three examples."""
    # Insertion order: reasons appear as they were first met.
    details_by_reason: dict[str, list[str]] = {}
    for item in skipped:
        details_by_reason.setdefault(item.reason, []).append(item.detail)
    phrases = []
    for reason, details in details_by_reason.items():
        examples = _format_examples([detail for detail in details if detail])
        phrases.append(f"{len(details):,} {reason}{examples}")
    return phrases


def _format_examples(names: list[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > NUM_EXAMPLES else ""
    return f" ({', '.join(names[:NUM_EXAMPLES])}{more})"
