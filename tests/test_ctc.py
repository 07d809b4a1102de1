"""CTC: search and likelihood against all alignments; transcripts by CTC and the language model."""

import itertools
import math
from collections import defaultdict

import pytest
import torch

from configs.loading import override
from configs.schema import Config
from datamodules.batching import SpeechBatch
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.ctc import ctc_beam, ctc_greedy, ctc_log_likelihood
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.tokenizer import SILENCE, TRANSCRIBE_INSTRUCTIONS, Tokenizer
from lightning_modules import speech
from lightning_modules.padding import pad_ids
from lightning_modules.speech import SpeechStage
from tests.conftest import LM_KINDS

CPU = torch.device("cpu")


def sum_over_alignments(logits: torch.Tensor, blank: int) -> dict[tuple[int, ...], float]:
    """Label sequence -> log of the summed probabilities of all its alignments."""
    probs = logits.softmax(-1)
    likelihoods: dict[tuple[int, ...], float] = defaultdict(float)
    for frames in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        labels = tuple(label for label, _ in itertools.groupby(frames) if label != blank)
        likelihoods[labels] += math.prod(float(probs[t, label]) for t, label in enumerate(frames))
    return {labels: math.log(p) for labels, p in likelihoods.items()}


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("seed", range(4))
def test_beam_and_likelihood_equal_the_sum_over_every_alignment(seed: int, blank: int) -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) * 2
    expected = sum_over_alignments(logits, blank)
    ranked = sorted(expected, key=lambda labels: -expected[labels])
    assert ctc_beam(logits, len(expected), blank) == [list(labels) for labels in ranked]
    rows = [list(labels) for labels in ranked]
    batch = Padded(logits.expand(len(rows), -1, -1))
    got = ctc_log_likelihood(batch, pad_ids(rows, CPU), blank)
    torch.testing.assert_close(
        got, torch.tensor([expected[labels] for labels in ranked]), atol=1e-5, rtol=0
    )


def test_narrow_beam_decodes_confident_frames() -> None:
    labels = [3, 3, 0, 3, 5, 5, 0, 0, 1]
    logits = 12 * torch.nn.functional.one_hot(torch.tensor(labels), 7).float()
    assert ctc_beam(logits, 1) == ctc_greedy(Padded(logits[None])) == [[3, 3, 5, 1]]
    assert ctc_beam(logits[:0], 3) == [[]]


def test_likelihood_is_zero_with_too_few_frames() -> None:
    logits = torch.zeros(1, 2, 4)
    assert ctc_log_likelihood(Padded(logits), pad_ids([[1, 1]], CPU)).tolist() == [-math.inf]


@pytest.mark.parametrize("kind", LM_KINDS)
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 30.0])
def test_transcripts_are_the_most_likely_by_ctc_and_language_model(
    kind: str, sharpness: float, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with candidates that are scored one at a time, from the start."""
    tokenizer = Tokenizer.train(["turn on the light", "what is the time", "a b c d e f"])
    overrides = ["lm.vocab_size=1024", f"lm.kind={kind}", "lm.head_dim=16", "stage.ctc_weight=0.5"]
    stage = SpeechStage(
        override(config, overrides), SpeechLM(override(config, overrides).model), tokenizer
    ).eval()
    monkeypatch.setattr(speech, "SHARPNESS", sharpness)
    samples = Padded(torch.randn(3, 16000) * 0.1, torch.tensor([16000, 9600, 3200]))
    [silence], after = tokenizer.encode(SILENCE), tokenizer.prompt_after_speech("response")
    before, then = (
        pad_ids([tokenizer.prompt_before_speech(TRANSCRIBE_INSTRUCTIONS[0])] * 3, CPU),
        pad_ids([after] * 3, CPU),
    )
    greedy = stage.model.generate(before, samples, then, tokenizer.eos_id, 13)
    with torch.no_grad():
        transcripts = stage.transcribe(SpeechBatch(samples, [""] * 3, [""] * 3, []))
        for i, n in enumerate(samples.row_lengths().tolist()):
            speech_embeddings, _ = stage.model.embed_speech(
                Padded(samples.values[i : i + 1, :n]), final=True
            )
            ctc_logits = stage.word_logits(speech_embeddings)
            log_likelihoods = {}
            for ids in [greedy[i], *ctc_beam(ctc_logits.values[0], speech.BEAM, silence)]:
                labels = torch.tensor([IGNORED] * (len(after) - 1) + [*ids, tokenizer.eos_id])
                hidden, _ = stage.model(
                    Padded(before.values[:1]), speech_embeddings, pad_ids([after + ids], CPU)
                )
                nats = token_loss(stage.model.lm.logits(hidden.values), labels) * (len(ids) + 1)
                log_likelihoods[tuple(ids)] = float(
                    ctc_log_likelihood(ctc_logits, pad_ids([ids], CPU), silence) - nats
                )
            assert log_likelihoods[tuple(transcripts[i])] == pytest.approx(
                max(log_likelihoods.values()), abs=1e-3
            )
