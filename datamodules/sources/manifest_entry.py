"""Results of reading a corpus: an `Entry` for each usable utterance, a `Skipped` for each that is
left out."""

import dataclasses
import html
import math
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
DAMAGED_TEXT = "with a transcript of damaged letters; write it anew as UTF-8"
NO_UTF_8_NAME = "with a name that is not UTF-8; rename it, for example by convmv -f latin1 -t utf8"
NO_TIME = "with a start or length that is no number of seconds from 0"
NO_PLAIN_TEXT = "with a transcript or answer that is not text"
IN_TWO_SPLITS = "in train and in valid or test, left out of train"

LETTER_S = 0.065
"""Estimated seconds of speech per letter."""
MARGIN_S = 0.5
"""Estimated seconds of silence around an utterance."""
TRANSCRIBER_MARK = re.compile(r"<[^<>]*>|\{[^{}]*\}")
"""Marks that are not spoken: <COMMA>, <unk>, {NOISE}."""
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")
"""A character as web pages write it: &#39; &amp;"""
REPLACEMENT_CHARACTER = "\ufffd"
"""What a decoder writes for bytes that it cannot read."""
DAMAGED = re.compile(REPLACEMENT_CHARACTER + r"|â€|[ÃÂ][\x80-\x9f\xa1-\xbf]")
"""Letters that were lost, or UTF-8 that was read as another encoding: donâ€™t, cafÃ©."""
START_SLACK_S = 0.01
"""Seconds by which a start may lie before the sound, since times are rounded."""
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

    def __post_init__(self) -> None:
        """Make the name printable."""
        object.__setattr__(self, "detail", printable(str(self.detail)))


EntryOrSkipped = Entry | Skipped


def spoken_text(transcript: str) -> str:
    """Normalise a transcript, without the marks of transcribers.

    One whose letters are damaged becomes REPLACEMENT_CHARACTER, which `assign_split` leaves out.
    """
    if DAMAGED.search(transcript):
        return REPLACEMENT_CHARACTER
    plain = ENTITY.sub(lambda entity: html.unescape(entity[0]), transcript)
    return normalise(TRANSCRIBER_MARK.sub(" ", plain))


def printable(text: str) -> str:
    """A text with escapes in place of the bytes of a file name that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


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
    problem = _problem_of(item)
    if problem:
        return Skipped(problem, str(item.id))
    if item.split and not split:
        reason = f"of split {item.split!r}, which is none of train, valid and test"
        return Skipped(reason, item.id)
    if task == "answer" and not item.answer:
        return Skipped(NO_ANSWER, item.id)
    answer = "" if task == "transcribe" else item.answer
    start_s = max(0.0, item.start_s)
    return dataclasses.replace(item, split=split, answer=answer, start_s=start_s)


def _problem_of(entry: Entry) -> str | None:
    """Reason to leave an entry out, whatever the configuration asks for; None: there is none."""
    if not entry.text:
        return NO_TEXT
    if entry.text == REPLACEMENT_CHARACTER or REPLACEMENT_CHARACTER in entry.answer:
        return DAMAGED_TEXT
    # Such names can neither be printed nor written to a manifest.
    names = f"{entry.id}{entry.path}{entry.speaker}"
    if printable(names) != names:
        return NO_UTF_8_NAME
    # Comparisons with NaN are false.
    is_length = entry.duration_s is None or math.isfinite(entry.duration_s)
    if not (is_length and -START_SLACK_S <= entry.start_s < math.inf):
        return NO_TIME
    return None


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
