"""Branch targets against live sessions: the same branches, the same states, the same positions."""

import dataclasses
import itertools
import random
import re

import numpy as np
import pytest
import torch

from configs.loading import override
from configs.schema import Config
from datamodules.dialogue.data import DialogueBatch, collate_dialogues
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import Answer, Turn
from duplexmamba.duplex import fork as sessions
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
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

NAMES = {".": "ignore", "?": "incomplete", "!": "response"}
SCRIPTS = [
    "...???!......",  # a question, and silence in and after its answer
    "??!??!??!.....",  # questions one upon the other
    # talking to somebody else during an answer, a question that interrupts it, one after its end
    "..???!.??..??!..........???!",
    "....??..?..",  # nothing is ever asked
    "!!.!",  # too soon to be answered, some of them
]
LENGTH = 5
"""Tokens of every answer."""


def dialogue_of(script: str, slice_samples: int) -> Dialogue:
    """A dialogue with these labels over noise; a question or aside wherever somebody speaks."""
    labels = tuple(NAMES[c] for c in script)
    turns, answers = [], []
    for found in re.finditer(r"\?+!?|!", script):
        kind = "question" if found[0].endswith("!") else "talking_to_other"
        if kind == "question" and found.end() - 1 in answered(labels):
            answers.append(Answer(len(turns), found.end() - 1, None))
        turns.append(
            Turn(
                kind, "", f"answer {len(answers) - 1}", found.start() / 5, found.end() / 5, None, ""
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
    """By the rule of at least two slices, since anything was dropped or answered."""
    found, heard, ignored = [], 0, 0
    for i, label in enumerate(labels):
        heard, ignored = heard + 1, ignored + 1 if label == "ignore" else 0
        if label == "response" and heard >= 2:
            found.append(i)
            heard = ignored = 0
        elif ignored == 2:
            heard = ignored = 0
    return found


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
    """Of the language model; a test may ask for others."""
    return "mamba"


@pytest.fixture
def small(config: Config, kind: str) -> Config:
    words = [
        f"duplex.max_tokens={LENGTH}",
        "duplex.tokens_per_s=4",
        "duplex.min_slices=2",
        f"lm.kind={kind}",
    ]
    return override(config, words)


@pytest.fixture
def tokens() -> Tokenizer:
    return Tokenizer.train(["some words to be said"] * 3)


@pytest.fixture
def model(small: Config, tokens: Tokenizer) -> SpeechLM:
    model = SpeechLM(small.model).eval()
    model.lm.embeddings.weight.data *= 20  # or every state would be as likely as the others
    return model


def live(dialogue: Dialogue, model, tokens, config, monkeypatch) -> list[sessions.Event]:
    """A session whose model is right about every slice."""
    labels = iter(dialogue.labels)
    monkeypatch.setattr(sessions, "classify_state", lambda probabilities, duplex: next(labels))
    return sessions.ForkSession(model, tokens, config.duplex).push(
        torch.from_numpy(dialogue.samples)
    )


@pytest.mark.parametrize("connector", ["ctc", "merge"])
def test_a_slice_may_hold_any_number_of_embeddings(connector, tokens, small, monkeypatch) -> None:
    config = override(small, [f"connector.kind={connector}", "connector.merge_threshold=0.99"])
    model = SpeechLM(config.model).eval()
    model.lm.embeddings.weight.data *= 20
    counts = model.embed_speech(
        Padded(torch.from_numpy(dialogue_of(SCRIPTS[2], 3200).samples)[None])
    )[0].counts
    assert len(set(counts.flatten().tolist())) > 1
    test_every_probe_sees_what_a_session_sees(SCRIPTS[2], model, tokens, config, monkeypatch)


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_probe_sees_what_a_session_sees(script, model, tokens, small, monkeypatch) -> None:
    monkeypatch.setattr(schedule, "LEAF_STEPS", 20)
    dialogue = dialogue_of(script, 3200)
    events = live(dialogue, model, tokens, small, monkeypatch)
    begun = [e.slice for e in events if e.action == "respond"]
    assert begun == [answer.begin for answer in dialogue.answers]
    said = [
        [t for e in events[i:j] for t in e.tokens]
        for i, j in itertools.pairwise([*begun, len(events)])
    ]
    stage = DialogueStage(small, model, Answers(tokens, said)).eval()
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
    states = [tokens.turn_state_ids[state] for state in TURN_STATE_MARKERS]
    seen, at = set(), 0
    for group in fork_schedule(segments, len(tokens.prompt_before_speech(ANSWER_INSTRUCTIONS[0]))):
        for segment in (segments[i].segment for i in group):
            wanted = [label for label in segment.labels if label != IGNORED]
            assert labels[at : at + len(wanted)].tolist() == wanted
            if segment.slices and not any(first in segment.slices[:-1] for first in begun):
                slice_ = segment.slices[-1]
                seen.add(slice_)
                assert wanted[0] == tokens.turn_state_ids[dialogue.labels[slice_]]
                expected = torch.tensor(list(events[slice_].probabilities.values()))
                torch.testing.assert_close(
                    logits[at, states].softmax(-1), expected, atol=1e-5, rtol=1e-4
                )
            at += len(wanted)
    spoken = {i for i, c in enumerate(script) if c != "."} & {
        i for placed in segments for i in placed.segment.slices
    }
    assert at == len(labels) and spoken <= seen and set(begun) <= seen


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_answers_rows_hold_it_whole_and_fork_where_something_comes_up(
    script, tokens, small
) -> None:
    dialogue = dialogue_of(script, 3200)
    said = [[100 + 10 * i + j for j in range(LENGTH)] for i in range(len(dialogue.answers))]
    segments = BranchTargets(Answers(tokens, said), small.duplex, 3).segments(
        dialogue, random.Random(0)
    )
    assert all(segment.parent is None or segment.parent < i for i, segment in enumerate(segments))
    head = len(tokens.prompt_after_speech("response"))
    for answer, ids in zip(dialogue.answers, said, strict=True):
        [first] = [
            i
            for i, segment in enumerate(segments)
            if segment.slices and segment.slices[-1] == answer.begin
        ]
        rest = [segment for segment in segments if segment.parent == first and not segment.slices]
        whole = segments[first].ids[head:] + [t for segment in rest for t in segment.ids]
        assert whole == [*ids, tokens.eos_id]
        labels = segments[first].labels[head - 1 :] + [
            t for segment in rest for t in segment.labels
        ]
        assert [label for label in labels if label != IGNORED] == whole


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
def test_the_branches_of_a_batch_are_those_of_each_dialogue(model, tokens, small) -> None:
    dialogues = [dialogue_of(script, 3200) for script in SCRIPTS[:3]]
    stage = DialogueStage(small, model, Answers(tokens, [[9] * LENGTH] * 9)).eval()
    each = [
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

    together = logits_of(each, collate_dialogues([(dialogue, []) for dialogue in dialogues], 3200))
    alone = [
        logits_of([segments], collate_dialogues([(d, [])], 3200))
        for segments, d in zip(each, dialogues, strict=True)
    ]
    assert len(together) == sum(map(len, alone))
    total = torch.tensor([h for _, h in together]).sum(0)
    torch.testing.assert_close(
        total, torch.tensor([h for part in alone for _, h in part]).sum(0), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "transformer"])
def test_what_branches_share_is_read_as_if_each_heard_it_alone(model, tokens, small) -> None:
    """Values and gradients, of speech and of weights."""
    dialogues = [dialogue_of(script, 3200) for script in SCRIPTS]
    stage = DialogueStage(small, model.double(), Answers(tokens, [[9] * LENGTH] * 9))
    model.lm.requires_grad_()
    segments = flatten(
        [
            BranchTargets(stage.tokenizer, small.duplex, 2).segments(d, random.Random(1))
            for d in dialogues
        ]
    )
    assert sum(segment.is_shared for segment in share_prefixes(segments)) > len(segments) / 4
    lengths = torch.tensor([len(d.labels) for d in dialogues])
    heard = torch.randn(len(dialogues), int(lengths.max()), small.lm.d_model, dtype=torch.float64)

    def read(segments: list[ScheduledSegment]) -> list[torch.Tensor]:
        speech = heard.clone().requires_grad_()
        hidden, labels = stage.run_segments(segments, Padded(speech, lengths))
        loss = token_loss(model.lm.logits(hidden), labels, 0.0)
        return [loss, *torch.autograd.grad(loss, [speech, *model.lm.parameters()])]

    for shared, each in zip(read(share_prefixes(segments)), read(segments), strict=True):
        torch.testing.assert_close(shared, each, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
def test_gradients_reach_what_was_heard_before_a_fork(model, tokens, small) -> None:
    dialogue = dialogue_of(SCRIPTS[2], 3200)
    stage = DialogueStage(small, model, Answers(tokens, [[9] * LENGTH] * 9))
    segments = BranchTargets(stage.tokenizer, small.duplex, 2).segments(dialogue, random.Random(1))
    [newest] = [
        segment
        for segment in segments
        if segment.slices and segment.slices[-1] == dialogue.answers[-1].begin
    ]
    chain = [newest]
    while chain[0].parent is not None:
        chain.insert(0, segments[chain[0].parent])
    assert len(chain) > 2
    chain = [
        dataclasses.replace(segment, parent=i - 1 if i else None) for i, segment in enumerate(chain)
    ]
    speech = torch.randn(1, len(dialogue.labels), small.lm.d_model, requires_grad=True)
    stage.run_segments(flatten([chain]), Padded(speech))[0][
        -1, 0
    ].backward()  # a norm makes the sum of all the same
    heard = torch.tensor([i for segment in chain for i in segment.slices])
    assert speech.grad is not None and bool((speech.grad[0, heard].abs().sum(-1) > 0).all())
    others = torch.ones(len(dialogue.labels), dtype=torch.bool).index_fill(0, heard, False)
    assert not speech.grad[0, others].any()


@pytest.mark.parametrize("kind", ["mamba", "transformer"])
def test_a_stage_learns_under_autocast(model, tokens, small) -> None:
    stage = DialogueStage(small, model, Answers(tokens, [[9] * LENGTH] * 9))
    batch = collate_dialogues([(dialogue_of(script, 3200), []) for script in SCRIPTS[:3]], 3200)
    with torch.autocast("cpu", torch.bfloat16):
        loss = stage.training_loss(batch)
    loss.backward()
    assert loss.isfinite() and all(
        p.grad is not None and p.grad.isfinite().all() for p in model.connector.parameters()
    )


def test_a_sound_to_be_ignored_is_also_judged_by_a_branch_that_did_not_ignore_it(
    model, tokens, small, monkeypatch
):
    noise = Turn("noise", "", "", 4 / 5, 9 / 5, None, "")
    dialogue = dataclasses.replace(dialogue_of("." * 16, 3200), turns=(noise,))
    mistaken = ["ignore"] * 4 + ["incomplete"] * 5 + ["ignore"] * 7
    states = iter(mistaken)
    monkeypatch.setattr(sessions, "classify_state", lambda probabilities, duplex: next(states))
    events = sessions.ForkSession(model, tokens, small.duplex).push(
        torch.from_numpy(dialogue.samples)
    )
    stage = DialogueStage(small, model, tokens).eval()
    segments = BranchTargets(tokens, small.duplex, 99).segments(dialogue, random.Random(3))
    kept = [segment for segment in segments if segment.slices[0] == 4]
    judged = [segment.slices[-1] for segment in kept]
    assert {8, 9, 10} <= {*judged}  # around the end of the sound
    with torch.no_grad():
        speech, _ = model.embed_speech(Padded(torch.from_numpy(dialogue.samples)[None]), final=True)
        hidden, labels = stage.run_segments(flatten([kept]), speech)
    assert labels.tolist() == [tokens.turn_state_ids["ignore"]] * len(kept)
    states = [tokens.turn_state_ids[state] for state in TURN_STATE_MARKERS]
    seen = model.lm.logits(hidden)[:, states].softmax(-1)
    expected = torch.tensor([list(events[slice_].probabilities.values()) for slice_ in judged])
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)


def test_the_end_of_a_question_can_be_made_up_for_until_it_is_forgotten(
    model, tokens, small, monkeypatch
):
    dialogue = dialogue_of("...???!......", 3200)
    mistaken = ["ignore"] * 3 + ["incomplete"] * 4 + ["ignore"] * 6
    states = iter(mistaken)
    monkeypatch.setattr(sessions, "classify_state", lambda probabilities, duplex: next(states))
    events = sessions.ForkSession(model, tokens, small.duplex).push(
        torch.from_numpy(dialogue.samples)
    )
    assert [e.slice for e in events if e.action == "drop"][1] == 8, (
        "behind the slice of the response, 6, come two more"
    )
    stage = DialogueStage(small, model, Answers(tokens, [[9] * LENGTH])).eval()
    segments = BranchTargets(stage.tokenizer, small.duplex, 2).segments(dialogue, random.Random(0))
    late = [segment for segment in segments if 6 in segment.slices[:-1]]
    assert [segment.slices for segment in late] == [range(2, 8), range(2, 9)]
    with torch.no_grad():
        speech, _ = model.embed_speech(Padded(torch.from_numpy(dialogue.samples)[None]), final=True)
        hidden, labels = stage.run_segments(flatten([late]), speech)
    assert labels.tolist() == [tokens.turn_state_ids["response"]] * 2
    states = [tokens.turn_state_ids[state] for state in TURN_STATE_MARKERS]
    expected = torch.tensor([list(events[slice_].probabilities.values()) for slice_ in (7, 8)])
    torch.testing.assert_close(
        model.lm.logits(hidden)[:, states].softmax(-1), expected, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("script", "late"), [("..??!??!.....", [(8, 9)]), ("..??!.", [(5,)]), ("..??!", [])]
)
def test_what_comes_behind_a_question_is_not_its_missed_end(script, late, tokens, small) -> None:
    dialogue = dialogue_of(script, 3200)
    said = Answers(tokens, [[9] * LENGTH] * 2)
    segments = BranchTargets(said, small.duplex, 2).segments(dialogue, random.Random(0))
    begun = [answer.begin for answer in dialogue.answers]
    found = [
        segment.slices[-1]
        for segment in segments
        for first in begun
        if first in segment.slices[:-1]
    ]
    assert found == [slice_ for group in late for slice_ in group]


def test_where_a_question_breaks_off_its_slices_are_judged(tokens, small) -> None:
    whole = dialogue_of("...????????!.....", 3200)
    broken = dataclasses.replace(whole.turns[0], kind="paused_question", pause_s=(5 / 5, 8 / 5))
    segments = BranchTargets(tokens, small.duplex, 0).segments(
        dataclasses.replace(whole, turns=(broken,)), random.Random(0)
    )
    judged = {
        segment.slices[-1]
        for segment in segments
        if segment.slices and segment.slices[0] <= 4 < segment.slices[-1]
    }
    assert {5, 6} <= judged
