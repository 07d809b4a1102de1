"""Every registered kind of session: the audio may come in any pieces, and a snapshot continues."""

import dataclasses

import pytest
import torch

from configs.loading import load_config, override
from duplexmamba.duplex import DUPLEX_KINDS
from duplexmamba.duplex.events import Event
from duplexmamba.duplex.session import Session
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.stages import DIALOGUE_MODULES
from tests.conftest import SMALL_SIZES, TINY

NUM_SLICES = 12


def open_session(kind: str) -> Session:
    """A session with a very small random model that responds to nearly everything."""
    tokenizer = Tokenizer.train([" what is seven plus five", " twelve"] * 9)
    config = override(
        load_config([*TINY, *SMALL_SIZES, f"lm.vocab_size={tokenizer.vocab_size}"]),
        [f"duplex.kind={kind}", "duplex.response_threshold=0.01", "duplex.max_tokens=4"],
    )
    torch.manual_seed(0)
    model = SpeechLM(config.model).eval().double()
    return DUPLEX_KINDS[kind].session(model, tokenizer, config.duplex)


def audio_of(session: Session) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_SLICES * session.slice_samples, generator=generator) * 0.1


def without_time(events: list[Event]) -> list[Event]:
    """The events with rounded probabilities and without their computing time."""
    return [
        dataclasses.replace(
            event,
            compute_ms=0,
            probabilities={name: round(p, 6) for name, p in event.probabilities.items()},
        )
        for event in events
    ]


@pytest.mark.parametrize("kind", DUPLEX_KINDS)
def test_any_split_of_the_audio_gives_the_same_events(kind: str) -> None:
    audio = audio_of(open_session(kind))
    whole = without_time(open_session(kind).push(audio))
    assert len(whole) == NUM_SLICES and any(event.tokens for event in whole)
    session = open_session(kind)
    events: list[Event] = []
    for part in audio.split(1234):
        events += session.push(part)
    assert without_time(events) == whole


@pytest.mark.parametrize("kind", DUPLEX_KINDS)
def test_a_snapshot_continues_exactly(kind: str) -> None:
    session = open_session(kind)
    first, second = audio_of(session).chunk(2)
    session.push(first)
    snapshot = session.snapshot()
    expected = without_time(session.push(second))
    session.push(first)
    session.restore(snapshot)
    assert without_time(session.push(second)) == expected


def test_every_kind_of_session_can_be_trained() -> None:
    assert DIALOGUE_MODULES.keys() == DUPLEX_KINDS.keys()
