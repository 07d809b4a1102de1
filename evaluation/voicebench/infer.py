"""Answers of a model to spoken questions: live through sessions, or offline in batches."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from duplexmamba.duplex.events import emitted_responses
from duplexmamba.duplex.session import Session
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, Tokenizer
from evaluation.voicebench.responses import Log
from evaluation.voicebench.subsets import Item


class Answer(NamedTuple):
    """What was answered."""

    response: str
    delay_s: float | None
    """Live: from the end of the question to the decision to answer, on the stream's clock; negative: before its end."""
    compute_s: float
    """Wall time; a batch's is shared out."""


Answerer = Callable[[Sequence[np.ndarray]], list[Answer]]
"""Answers to questions, (n,) float32 each."""
Hear = Callable[[Item], np.ndarray]
"""An item's samples. Raises ValueError: its audio cannot be used."""


def live(open_session: Callable[[], Session]) -> Answerer:
    """Each question in a session of its own, which goes on in silence until it answers or has waited its longest."""

    def answer(samples: np.ndarray) -> Answer:
        began_s, session = time.perf_counter(), open_session()
        events = session.push(torch.from_numpy(samples))
        events += session.push(torch.zeros(-len(samples) % session.slice_samples))
        for _ in range(math.ceil(session.duplex.max_wait_s / session.slice_s) + 1):
            if session.answering or events[-1].action == "respond":
                break
            events += session.push(torch.zeros(session.slice_samples))
        said = emitted_responses(events)
        text = session.finish() if session.answering else said[-1].text if said else ""
        delay_s = (
            (said[-1].start_slice + 1) * session.slice_s - len(samples) / session.rate_hz
            if said
            else None
        )
        return Answer(text, delay_s, time.perf_counter() - began_s)

    return lambda questions: [answer(samples) for samples in questions]


def offline(model: SpeechLM, tokens: Tokenizer, max_tokens: int) -> Answerer:
    """All questions as one batch, each heard to its end first."""
    device = model.lm.embeddings.weight.device

    def rows_of(ids: list[int], count: int) -> Padded:
        return Padded(torch.tensor([ids] * count, device=device))

    @torch.inference_mode()
    def answer(questions: Sequence[np.ndarray]) -> list[Answer]:
        began_s, count = time.perf_counter(), len(questions)
        heard = [torch.from_numpy(samples) for samples in questions]
        samples = Padded(
            torch.nn.utils.rnn.pad_sequence(heard, batch_first=True).to(device),
            torch.tensor([len(one) for one in heard], device=device),
        )
        before, after = (
            rows_of(tokens.prompt_before_speech(ANSWER_INSTRUCTIONS[0]), count),
            rows_of(tokens.prompt_after_speech("response"), count),
        )
        texts = [
            tokens.decode(row)
            for row in model.generate(before, samples, after, tokens.eos_id, max_tokens)
        ]
        return [Answer(text, None, (time.perf_counter() - began_s) / count) for text in texts]

    return answer


def respond(items: Iterable[Item], answer: Answerer, hear: Hear, log: Log, batch: int) -> list[str]:
    """Answer what the log does not hold yet, `batch` items at a time.

    Returns:
        Of each item whose audio cannot be used, why.
    """
    unheard: list[str] = []
    left = (item for item in items if not log.holds(item.name, item.fields["prompt"]))
    while some := list(itertools.islice(left, batch)):
        heard = []
        for item in some:
            try:
                heard.append((item, hear(item)))
            except ValueError as error:
                unheard.append(str(error))
        answers = answer([samples for _, samples in heard]) if heard else []
        for (item, _), said in zip(heard, answers, strict=True):
            log.write(item.name, {**item.fields, **said._asdict()})
    return unheard
