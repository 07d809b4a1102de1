"""Answers of a model to spoken questions: in live sessions, or offline in batches."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from duplexmamba.duplex.events import emitted_responses
from duplexmamba.duplex.session import Session
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, Tokenizer
from evaluation.voicebench.responses import ResponseLog
from evaluation.voicebench.subsets import Item


class Answer(NamedTuple):
    """An answer and the times it took."""

    response: str
    delay_s: float | None
    """Seconds of audio from the end of the question to the decision to respond; negative if the
    decision came before the end; None offline."""
    compute_s: float
    """Computing time; that of a batch is divided by the number of its questions."""


Answerer = Callable[[Sequence[np.ndarray]], list[Answer]]
"""Answers questions, given as samples (n,) float32 each."""
ReadAudio = Callable[[Item], np.ndarray]
"""Samples (n,) of an item. Raises ValueError: its audio cannot be used."""


def live_answerer(open_session: Callable[[], Session]) -> Answerer:
    """Answer each question in a session of its own.

    After the question, the session receives silence until it responds, or until the longest time
    that it waits for more speech has passed.
    """

    def answer_one(samples: np.ndarray) -> Answer:
        start_s = time.perf_counter()
        session = open_session()
        events = session.push(torch.from_numpy(samples))
        # Silence up to the end of the last slice of the question.
        events += session.push(torch.zeros(-len(samples) % session.slice_samples))
        num_waiting_slices = math.ceil(session.duplex.max_wait_s / session.slice_s) + 1
        for _ in range(num_waiting_slices):
            # A response may also begin and end within one slice.
            if session.answering or events[-1].action == "respond":
                break
            events += session.push(torch.zeros(session.slice_samples))
        responses = emitted_responses(events)
        text = responses[-1].text if responses else ""
        if session.answering:
            text = session.finish()
        delay_s = None
        if responses:
            decision_s = (responses[-1].start_slice + 1) * session.slice_s
            delay_s = decision_s - len(samples) / session.rate_hz
        return Answer(text, delay_s, time.perf_counter() - start_s)

    return lambda questions: [answer_one(samples) for samples in questions]


def offline_answerer(model: SpeechLM, tokenizer: Tokenizer, max_tokens: int) -> Answerer:
    """Answer all questions as one batch, each after its end."""
    device = model.lm.embeddings.weight.device

    def repeat(ids: list[int], count: int) -> Padded:
        return Padded(torch.tensor([ids] * count, device=device))  # (B, L)

    @torch.inference_mode()
    def answer(questions: Sequence[np.ndarray]) -> list[Answer]:
        start_s = time.perf_counter()
        count = len(questions)
        recordings = [torch.from_numpy(samples) for samples in questions]
        values = pad_sequence(recordings, batch_first=True).to(device)  # (B, n)
        lengths = torch.tensor([len(samples) for samples in recordings], device=device)
        samples = Padded(values, lengths)
        prompt = repeat(tokenizer.prompt_before_speech(ANSWER_INSTRUCTIONS[0]), count)
        start = repeat(tokenizer.prompt_after_speech("response"), count)
        responses = model.generate(prompt, samples, start, tokenizer.eos_id, max_tokens)
        texts = [tokenizer.decode(ids) for ids in responses]
        compute_s = (time.perf_counter() - start_s) / count
        return [Answer(text, None, compute_s) for text in texts]

    return answer


def answer_items(
    items: Iterable[Item],
    answerer: Answerer,
    read_audio: ReadAudio,
    log: ResponseLog,
    batch_items: int,
) -> list[str]:
    """Answer the items that the log does not contain yet.

    Args:
        items: in the order in which they are answered.
        answerer: answers a batch.
        read_audio: reads an item's audio.
        log: receives the answers.
        batch_items: number of items at a time.

    Returns:
        For each item whose audio cannot be used, the reason.
    """
    unusable: list[str] = []
    pending = (item for item in items if not log.contains(item.name, item.fields["prompt"]))
    for batch in _batches(pending, batch_items):
        usable = []
        recordings = []
        for item in batch:
            try:
                recordings.append(read_audio(item))
            except ValueError as error:
                unusable.append(str(error))
                continue
            usable.append(item)
        if not usable:
            continue
        for item, answer in zip(usable, answerer(recordings), strict=True):
            log.write(item.name, {**item.fields, **answer._asdict()})
    return unusable


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    # The list is taken before the batch is answered: `items` consults the log as it goes.
    while True:
        batch = list(itertools.islice(items, size))
        if not batch:
            return
        yield batch
