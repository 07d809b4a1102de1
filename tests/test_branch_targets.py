"""Branch targets against live sessions: the same branches, the same states, the same positions."""

import dataclasses
import itertools
import random
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as BackendTokenizer

from configs.loading import override
from configs.schema import Config
from datamodules.dialogue.data import DialogueBatch, collate_dialogues
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import Answer, Turn
from duplexmamba.duplex import fork as sessions
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.chat_template import ChatTemplate
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, TURN_STATE_MARKERS, Tokenizer
from lightning_modules import fork_schedule as schedule
from lightning_modules.branch_targets import BranchTargets, Segment
from lightning_modules.dialogue import DialogueStage
from lightning_modules.fork_schedule import (
    ScheduledSegment,
    flatten,
    fork_schedule,
    share_prefixes,
)
from tests.conftest import LM_KINDS

NAMES = {".": "ignore", "?": "incomplete", "!": "response"}
SCRIPTS = [
    "...???!......",  # a question, and silence in and after its answer
    "??!??!??!.....",  # questions in immediate succession
    # talking to somebody else during an answer, a question that interrupts it, one after its end
    "..???!.??..??!..........???!",
    "....??..?..",  # no question
    "!!.!",  # responses, some of which come too early to be given
]
LENGTH = 5
"""Tokens of every answer."""


def dialogue_of(script: str, slice_samples: int) -> Dialogue:
    """A dialogue with these labels over noise; all speech is a question or talking to somebody else."""
    labels = tuple(NAMES[c] for c in script)
    turns, answers = [], []
    for match in re.finditer(r"\?+!?|!", script):
        kind = "question" if match[0].endswith("!") else "talking_to_other"
        if kind == "question" and match.end() - 1 in answered(labels):
            answers.append(Answer(len(turns), match.end() - 1, None))
        turns.append(
            Turn(
                kind, "", f"answer {len(answers) - 1}", match.start() / 5, match.end() / 5, None, ""
            )
        )
    samples = (
        np.random.default_rng(len(script))
        .standard_normal(len(script) * slice_samples)
        .astype(np.float32)
        / 10
    )
    return Dialogue(script, samples, tuple(turns), labels, tuple(answers))


def answered(labels) -> list[int]:
    """Slices in which a response begins: at least two slices after the last drop or response."""
    response_slices = []
    num_slices = 0
    num_ignored = 0
    for i, label in enumerate(labels):
        num_slices += 1
        num_ignored = num_ignored + 1 if label == "ignore" else 0
        if label == "response" and num_slices >= 2:
            response_slices.append(i)
            num_slices = num_ignored = 0
        elif num_ignored == 2:
            num_slices = num_ignored = 0
    return response_slices


class Answers:
    """A tokenizer whose answers are those that a session emitted."""

    def __init__(self, tokenizer: Tokenizer, emitted: list[list[int]]):
        self.tokenizer, self.emitted = tokenizer, emitted

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)

    def encode_response(self, text: str) -> list[int]:
        emitted = self.emitted[int(text.split()[1])]
        return [*emitted, *[7] * (LENGTH - len(emitted)), self.tokenizer.eos_id]


@pytest.fixture
def kind() -> str:
    """Kind of the language model; tests parametrise it."""
    return "mamba"


@pytest.fixture
def small(config: Config, kind: str) -> Config:
    overrides = [
        f"duplex.max_tokens={LENGTH}",
        "duplex.tokens_per_s=4",
        "duplex.min_slices=2",
        f"lm.kind={kind}",
    ]
    return override(config, overrides)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["some words to be said"] * 3)


@pytest.fixture
def model(small: Config, tokenizer: Tokenizer) -> SpeechLM:
    model = SpeechLM(small.model).eval()
    model.lm.embeddings.weight.data *= 20  # otherwise all states would be equally likely
    return model


def session_events(
    dialogue: Dialogue, model, tokenizer, config, monkeypatch
) -> list[sessions.Event]:
    """The events of a session in which every slice is classified correctly."""
    labels = iter(dialogue.labels)
    monkeypatch.setattr(sessions, "classify_state", lambda probabilities, duplex: next(labels))
    return sessions.ForkSession(model, tokenizer, config.duplex).push(
        torch.from_numpy(dialogue.samples)
    )


@pytest.mark.parametrize("connector", ["ctc", "merge"])
def test_slices_may_have_different_numbers_of_embeddings(
    connector, tokenizer, small, monkeypatch
) -> None:
    config = override(small, [f"connector.kind={connector}", "connector.merge_threshold=0.99"])
    model = SpeechLM(config.model).eval()
    model.lm.embeddings.weight.data *= 20
    counts = model.embed_speech(
        Padded(torch.from_numpy(dialogue_of(SCRIPTS[2], 3200).samples)[None])
    )[0].counts
    assert len(set(counts.flatten().tolist())) > 1
    test_every_probe_has_the_probabilities_of_a_session(
        SCRIPTS[2], model, tokenizer, config, monkeypatch
    )


def assert_probes_agree_with_a_session(script, model, tokenizer, small, monkeypatch) -> None:
    """Every labelled slice of training has the probabilities that a live session has there."""
    monkeypatch.setattr(schedule, "LEAF_STEPS", 20)
    dialogue = dialogue_of(script, 3200)
    events = session_events(dialogue, model, tokenizer, small, monkeypatch)
    response_slices = [e.slice for e in events if e.action == "respond"]
    assert response_slices == [answer.begin for answer in dialogue.answers]
    emitted = [
        [t for e in events[i:j] for t in e.tokens]
        for i, j in itertools.pairwise([*response_slices, len(events)])
    ]
    stage = DialogueStage(small, model, Answers(tokenizer, emitted)).eval()
    segments = share_prefixes(
        flatten(
            [BranchTargets(stage.tokenizer, small.duplex, 100).segments(dialogue, random.Random(0))]
        )
    )
    assert any(segment.is_shared for segment in segments)
    with torch.no_grad():
        speech, _ = model.embed_speech(Padded(torch.from_numpy(dialogue.samples)[None]), final=True)
        hidden, labels = stage.run_segments(segments, speech)
        logits = model.lm.logits(hidden)
    states = [tokenizer.turn_state_ids[state] for state in TURN_STATE_MARKERS]
    compared = set()
    position = 0
    for group in fork_schedule(
        segments, len(tokenizer.prompt_before_speech(ANSWER_INSTRUCTIONS[0])), "cpu"
    ):
        for segment in (segments[i].segment for i in group):
            expected_labels = [label for label in segment.labels if label != IGNORED]
            assert labels[position : position + len(expected_labels)].tolist() == expected_labels
            if segment.slices and not any(
                first in segment.slices[:-1] for first in response_slices
            ):
                slice_ = segment.slices[-1]
                compared.add(slice_)
                assert expected_labels[0] == tokenizer.turn_state_ids[dialogue.labels[slice_]]
                expected = torch.tensor(list(events[slice_].probabilities.values()))
                torch.testing.assert_close(
                    logits[position, states].softmax(-1), expected, atol=1e-5, rtol=1e-4
                )
            position += len(expected_labels)
    speech_slices = {i for i, c in enumerate(script) if c != "."} & {
        i for scheduled in segments for i in scheduled.segment.slices
    }
    assert (
        position == len(labels) and speech_slices <= compared and set(response_slices) <= compared
    )


@pytest.mark.parametrize("kind", ["mamba", "transformer", "hybrid"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_probe_has_the_probabilities_of_a_session(
    script, model, tokenizer, small, monkeypatch
) -> None:
    assert_probes_agree_with_a_session(script, model, tokenizer, small, monkeypatch)


def test_probes_agree_with_a_session_with_a_chat_template(
    tokenizer, model, small, monkeypatch
) -> None:
    """The first turn begins otherwise than the next ones, in training as in a session."""
    backend = BackendTokenizer.from_str(tokenizer.to_json())
    turns = ChatTemplate("first and system ", "next ", " then")
    assert_probes_agree_with_a_session(
        SCRIPTS[2], model, Tokenizer(backend, turns=turns), small, monkeypatch
    )


@pytest.mark.parametrize("script", [*SCRIPTS, "??!.?...??!.???..?..??!......"])
def test_targets_follow_the_pauses_of_a_session(
    script, model, tokenizer, small, monkeypatch
) -> None:
    config = override(small, ["duplex.on_onset=pause"])
    assert_probes_agree_with_a_session(script, model, tokenizer, config, monkeypatch)


def test_onsets_are_probed_where_responses_pause(tokenizer, small) -> None:
    dialogue = dialogue_of("..???????!......", 3200)
    probed = {}
    for value in ("continue", "pause"):
        duplex = override(small, [f"duplex.on_onset={value}"]).duplex
        segments = BranchTargets(tokenizer, duplex, 0).segments(dialogue, random.Random(0))
        probed[value] = {segment.slices[-1] for segment in segments if segment.slices}
    assert {2, 3} <= probed["pause"] and not {2, 3} & probed["continue"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_segments_of_an_answer_contain_it_completely(script, tokenizer, small) -> None:
    dialogue = dialogue_of(script, 3200)
    answer_ids = [[100 + 10 * i + j for j in range(LENGTH)] for i in range(len(dialogue.answers))]
    segments = BranchTargets(Answers(tokenizer, answer_ids), small.duplex, 3).segments(
        dialogue, random.Random(0)
    )
    assert all(segment.parent is None or segment.parent < i for i, segment in enumerate(segments))
    prompt_length = len(tokenizer.prompt_after_speech("response"))
    for answer, ids in zip(dialogue.answers, answer_ids, strict=True):
        [first_index] = [
            i
            for i, segment in enumerate(segments)
            if segment.slices and segment.slices[-1] == answer.begin
        ]
        rest_segments = [
            segment for segment in segments if segment.parent == first_index and not segment.slices
        ]
        ids_of_answer = segments[first_index].ids[prompt_length:] + [
            t for segment in rest_segments for t in segment.ids
        ]
        assert ids_of_answer == [*ids, tokenizer.eos_id]
        labels = segments[first_index].labels[prompt_length - 1 :] + [
            t for segment in rest_segments for t in segment.labels
        ]
        assert [label for label in labels if label != IGNORED] == ids_of_answer


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
def test_a_batch_equals_single_dialogues(model, tokenizer, small) -> None:
    dialogues = [dialogue_of(script, 3200) for script in SCRIPTS[:3]]
    stage = DialogueStage(small, model, Answers(tokenizer, [[9] * LENGTH] * 9)).eval()
    segments_of_dialogues = [
        BranchTargets(stage.tokenizer, small.duplex, 2).segments(dialogue, random.Random(1))
        for dialogue in dialogues
    ]

    def logits_of(
        segments: list[list[Segment]], batch: DialogueBatch
    ) -> list[tuple[int, list[float]]]:
        with torch.no_grad():
            speech, _ = model.embed_speech(batch.samples, final=True)
            hidden, labels = stage.run_segments(flatten(segments), speech)
        return sorted((int(n), h.tolist()) for n, h in zip(labels, hidden, strict=True))

    batched = logits_of(
        segments_of_dialogues, collate_dialogues([(dialogue, []) for dialogue in dialogues], 3200)
    )
    single = [
        logits_of([segments], collate_dialogues([(d, [])], 3200))
        for segments, d in zip(segments_of_dialogues, dialogues, strict=True)
    ]
    assert len(batched) == sum(map(len, single))
    total = torch.tensor([h for _, h in batched]).sum(0)
    torch.testing.assert_close(
        total, torch.tensor([h for part in single for _, h in part]).sum(0), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("kind", LM_KINDS)
def test_shared_prefixes_equal_separate_branches(model, tokenizer, small) -> None:
    """Values and gradients, of speech and of weights."""
    dialogues = [dialogue_of(script, 3200) for script in SCRIPTS]
    stage = DialogueStage(small, model.double(), Answers(tokenizer, [[9] * LENGTH] * 9))
    model.lm.requires_grad_()
    segments = flatten(
        [
            BranchTargets(stage.tokenizer, small.duplex, 2).segments(d, random.Random(1))
            for d in dialogues
        ]
    )
    assert sum(segment.is_shared for segment in share_prefixes(segments)) > len(segments) / 4
    lengths = torch.tensor([len(d.labels) for d in dialogues])
    embeddings = torch.randn(
        len(dialogues), int(lengths.max()), small.lm.d_model, dtype=torch.float64
    )

    def loss_and_gradients(segments: list[ScheduledSegment]) -> list[torch.Tensor]:
        speech = embeddings.clone().requires_grad_()
        hidden, labels = stage.run_segments(segments, Padded(speech, lengths))
        loss = token_loss(model.lm.logits(hidden), labels, 0.0)
        return [loss, *torch.autograd.grad(loss, [speech, *model.lm.parameters()])]

    for shared, separate in zip(
        loss_and_gradients(share_prefixes(segments)), loss_and_gradients(segments), strict=True
    ):
        torch.testing.assert_close(shared, separate, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
def test_gradients_reach_the_speech_before_a_fork(model, tokenizer, small) -> None:
    dialogue = dialogue_of(SCRIPTS[2], 3200)
    stage = DialogueStage(small, model, Answers(tokenizer, [[9] * LENGTH] * 9))
    segments = BranchTargets(stage.tokenizer, small.duplex, 2).segments(dialogue, random.Random(1))
    [last_segment] = [
        segment
        for segment in segments
        if segment.slices and segment.slices[-1] == dialogue.answers[-1].begin
    ]
    chain = [last_segment]
    while chain[0].parent is not None:
        chain.insert(0, segments[chain[0].parent])
    assert len(chain) > 2
    chain = [
        dataclasses.replace(segment, parent=i - 1 if i else None) for i, segment in enumerate(chain)
    ]
    speech = torch.randn(1, len(dialogue.labels), small.lm.d_model, requires_grad=True)
    stage.run_segments(flatten([chain]), Padded(speech))[0][
        -1, 0
    ].backward()  # one value: after normalisation the sum of all is constant
    speech_slices = torch.tensor([i for segment in chain for i in segment.slices])
    assert speech.grad is not None and bool((speech.grad[0, speech_slices].abs().sum(-1) > 0).all())
    other_slices = torch.ones(len(dialogue.labels), dtype=torch.bool).index_fill(
        0, speech_slices, False
    )
    assert not speech.grad[0, other_slices].any()


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
def test_gradients_are_finite_under_autocast(model, tokenizer, small) -> None:
    stage = DialogueStage(small, model, Answers(tokenizer, [[9] * LENGTH] * 9))
    batch = collate_dialogues([(dialogue_of(script, 3200), []) for script in SCRIPTS[:3]], 3200)
    with torch.autocast("cpu", torch.bfloat16):
        loss = stage.training_loss(batch)
    loss.backward()
    assert loss.isfinite() and all(
        p.grad is not None and p.grad.isfinite().all() for p in model.connector.parameters()
    )


def test_an_ignored_sound_is_also_classified_by_a_branch_that_took_it_for_speech(
    model, tokenizer, small, monkeypatch
):
    noise = Turn("noise", "", "", 4 / 5, 9 / 5, None, "")
    dialogue = dataclasses.replace(dialogue_of("." * 16, 3200), turns=(noise,))
    predicted = ["ignore"] * 4 + ["incomplete"] * 5 + ["ignore"] * 7
    states = iter(predicted)
    monkeypatch.setattr(sessions, "classify_state", lambda probabilities, duplex: next(states))
    events = sessions.ForkSession(model, tokenizer, small.duplex).push(
        torch.from_numpy(dialogue.samples)
    )
    stage = DialogueStage(small, model, tokenizer).eval()
    segments = BranchTargets(tokenizer, small.duplex, 99).segments(dialogue, random.Random(3))
    probes = [segment for segment in segments if segment.slices[0] == 4]
    probe_slices = [segment.slices[-1] for segment in probes]
    assert {8, 9, 10} <= {*probe_slices}  # around the end of the sound
    with torch.no_grad():
        speech, _ = model.embed_speech(Padded(torch.from_numpy(dialogue.samples)[None]), final=True)
        hidden, labels = stage.run_segments(flatten([probes]), speech)
    assert labels.tolist() == [tokenizer.turn_state_ids["ignore"]] * len(probes)
    states = [tokenizer.turn_state_ids[state] for state in TURN_STATE_MARKERS]
    probabilities = model.lm.logits(hidden)[:, states].softmax(-1)
    expected = torch.tensor(
        [list(events[slice_].probabilities.values()) for slice_ in probe_slices]
    )
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-4)


def test_a_missed_end_of_a_question_is_a_target_until_the_branch_is_dropped(
    model, tokenizer, small, monkeypatch
):
    dialogue = dialogue_of("...???!......", 3200)
    predicted = ["ignore"] * 3 + ["incomplete"] * 4 + ["ignore"] * 6
    states = iter(predicted)
    monkeypatch.setattr(sessions, "classify_state", lambda probabilities, duplex: next(states))
    events = sessions.ForkSession(model, tokenizer, small.duplex).push(
        torch.from_numpy(dialogue.samples)
    )
    assert [e.slice for e in events if e.action == "drop"][1] == 8, (
        "two more slices come after slice 6, that of the response"
    )
    stage = DialogueStage(small, model, Answers(tokenizer, [[9] * LENGTH])).eval()
    segments = BranchTargets(stage.tokenizer, small.duplex, 2).segments(dialogue, random.Random(0))
    late_segments = [segment for segment in segments if 6 in segment.slices[:-1]]
    assert [segment.slices for segment in late_segments] == [range(2, 8), range(2, 9)]
    with torch.no_grad():
        speech, _ = model.embed_speech(Padded(torch.from_numpy(dialogue.samples)[None]), final=True)
        hidden, labels = stage.run_segments(flatten([late_segments]), speech)
    assert labels.tolist() == [tokenizer.turn_state_ids["response"]] * 2
    states = [tokenizer.turn_state_ids[state] for state in TURN_STATE_MARKERS]
    expected = torch.tensor([list(events[slice_].probabilities.values()) for slice_ in (7, 8)])
    torch.testing.assert_close(
        model.lm.logits(hidden)[:, states].softmax(-1), expected, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("script", "expected_groups"), [("..??!??!.....", [(8, 9)]), ("..??!.", [(5,)]), ("..??!", [])]
)
def test_the_next_question_is_no_target_for_a_missed_end(
    script, expected_groups, tokenizer, small
) -> None:
    dialogue = dialogue_of(script, 3200)
    tokenizer_of_answers = Answers(tokenizer, [[9] * LENGTH] * 2)
    segments = BranchTargets(tokenizer_of_answers, small.duplex, 2).segments(
        dialogue, random.Random(0)
    )
    response_slices = [answer.begin for answer in dialogue.answers]
    late_slices = [
        segment.slices[-1]
        for segment in segments
        for first in response_slices
        if first in segment.slices[:-1]
    ]
    assert late_slices == [slice_ for group in expected_groups for slice_ in group]


def test_the_slices_of_a_pause_are_classified(tokenizer, small) -> None:
    unpaused = dialogue_of("...????????!.....", 3200)
    paused = dataclasses.replace(unpaused.turns[0], kind="paused_question", pause_s=(5 / 5, 8 / 5))
    segments = BranchTargets(tokenizer, small.duplex, 0).segments(
        dataclasses.replace(unpaused, turns=(paused,)), random.Random(0)
    )
    probe_slices = {
        segment.slices[-1]
        for segment in segments
        if segment.slices and segment.slices[0] <= 4 < segment.slices[-1]
    }
    assert {5, 6} <= probe_slices
