"""Words with times: those that a session emits, or those that a synthesiser speaks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from duplexmamba.duplex.events import Event


class Word(NamedTuple):
    """A word of the model."""

    text: str
    start_s: float
    end_s: float


def words_of(events: Sequence[Event], tokens_per_s: float) -> list[Word]:
    """The words of a session with the times at which they were emitted.

    A word begins with the slice that emits its first piece. It ends when the next piece is due, or
    with the next word.

    Args:
        events: of all slices, in order.
        tokens_per_s: pace of the model, which gives the time when the next piece is due.
    """
    words: list[Word] = []
    # The first piece of a response starts a word even without a leading space.
    at_response_start = True
    for event in events:
        due_s = round(event.time_s + 1 / tokens_per_s, 6)
        if event.action == "respond":
            at_response_start = True
        for index, text in enumerate(event.text.split()):
            # Pieces of the tokenizer carry the space before a word, not the one after it.
            starts_word = index > 0 or at_response_start or event.text.startswith(" ")
            if starts_word:
                words.append(Word(text, round(event.time_s, 6), due_s))
            else:
                last = words[-1]
                words[-1] = Word(last.text + text, last.start_s, due_s)
            at_response_start = False
    return _end_at_next(words)


def _end_at_next(words: Sequence[Word]) -> list[Word]:
    """The words, none of which ends after the beginning of the next one."""
    result = []
    next_starts_s = [word.start_s for word in words[1:]] + [float("inf")]
    for word, next_start_s in zip(words, next_starts_s, strict=True):
        result.append(word._replace(end_s=min(word.end_s, next_start_s)))
    return result


def cropped(words: Sequence[Word], from_s: float) -> list[Word]:
    """The words of the audio from a time on; one that is under way counts from that time on."""
    result = []
    for word in words:
        if word.end_s > from_s:
            result.append(word._replace(start_s=max(word.start_s, from_s)))
    return result


def transcript(words: Sequence[Word]) -> dict[str, Any]:
    """Content of output.json in the benchmark's format."""
    chunks = [{"text": word.text, "timestamp": [word.start_s, word.end_s]} for word in words]
    return {"text": " ".join(word.text for word in words), "chunks": chunks}
