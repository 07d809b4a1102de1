"""The multiplexed baseline: training equals live sessions, and all special cases of a session."""

import dataclasses
import itertools
import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
import yaml

import evaluate
import serve
import train
from configs.fingerprint import fingerprint
from configs.loading import from_dict, load_config, override, to_dict
from datamodules.dialogue.data import collate_dialogues
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import Answer, Turn
from duplexmamba.duplex.events import EmittedResponse, emitted_responses
from duplexmamba.duplex.multiplex import (
    MultiplexSession,
    choice_probabilities,
    starts_response,
)
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.losses import IGNORED
from duplexmamba.text.tokenizer import Tokenizer
from evaluation.duplex.dialogues import PlayedDialogue, confusion, scores
from evaluation.duplex.report import predicted_states
from lightning_modules.multiplex import MultiplexStage, script
from lightning_modules.results import AnswerResult, TurnStateResult
from lightning_modules.sessions import open_sessions
from lightning_modules.stages import dialogue_module
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from reporting.confusion import draw_confusion
from serving import timeline
from tests import test_session
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import SHORT
from tests.test_branch_targets import SCRIPTS, Answers, dialogue_of
from tests.test_session import KINDS, facts, sound

TOKENS = Tokenizer.train([" what is seven plus five", " twelve", " the capital of france"] * 9)
SMALL = load_config(
    [
        TINY[0],
        "configs/stage/streaming.yaml",
        *SMALL_SIZES,
        f"lm.vocab_size={TOKENS.vocab_size}",
        "duplex.kind=multiplex",
    ]
)
SLICE = 3200
PACES = {
    "slower than slices": [], "faster": ["duplex.tokens_per_s=11"],
    "long slices": ["duplex.slice_ms=600", "dialogue.endpoint_silence_ms=120"],
    "merged frames": [
        "connector.kind=merge", "connector.merge_threshold=0.99", "duplex.slice_ms=400",
    ],
}  # fmt: skip
LENGTH = 5


def make(*overrides) -> MultiplexSession:
    """A session whose model emits another token after every token and change of the audio."""
    upstream = test_session.make(*overrides)
    return MultiplexSession(
        upstream.model, upstream.tokenizer, override(SMALL, [*overrides]).duplex
    )


def scripted(session, response_slices):
    """Let the model start a response in these slices and in no other."""
    return mock.patch(
        "duplexmamba.duplex.multiplex.starts_response",
        lambda probability, duplex: session.snapshot().num_slices in response_slices,
    )


# ---- training equals a session


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("letters", SCRIPTS)
def test_training_logits_equal_those_of_a_session(letters, pace) -> None:
    session = make(f"duplex.max_tokens={LENGTH}", *PACES[pace])
    dialogue = dialogue_of(letters, session.slice_samples)
    step = session._step
    logits = []

    def recording_step(embeddings, lm_state):
        result = yield from step(embeddings, lm_state)
        logits.append(result.logits)
        return result

    response_slices = [answer.begin for answer in dialogue.answers]
    with scripted(session, response_slices), mock.patch.object(session, "_step", recording_step):
        events = session.push(torch.from_numpy(dialogue.samples))
    assert [event.slice for event in events if event.action == "respond"] == response_slices
    emitted = [
        [t for e in events[i:j] for t in e.tokens]
        for i, j in itertools.pairwise([*response_slices, len(events)])
    ]
    stage = MultiplexStage(
        override(SMALL, PACES[pace]), session.model, Answers(session.tokenizer, emitted)
    ).eval()
    rows = [script(dialogue, stage.tokenizer, session.duplex)]
    with torch.no_grad():
        speech, _ = session.model.embed_speech(
            Padded(torch.from_numpy(dialogue.samples)[None]), final=True
        )
        hidden, labels, free = stage.read_whole(rows, speech)
        training_logits = session.model.lm.logits(hidden)
    torch.testing.assert_close(training_logits, torch.stack(logits), atol=1e-8, rtol=1e-8)
    first_positions = list(itertools.accumulate([len(w.free) for w in rows[0][:-1]], initial=0))
    for position, event in zip(first_positions, events, strict=True):
        probabilities = choice_probabilities(
            training_logits[position], session._marker_ids, bool(free[position])
        )
        assert event.probabilities["response"] == pytest.approx(
            float(probabilities[session._response_id]), abs=1e-6
        )
        assert (labels[position] == session._response_id) == (event.slice in response_slices)
    assert len({t for tokens in emitted for t in tokens}) > 1 or not response_slices


def markers(ids) -> str:
    """Ids as text, the idle token as a dot."""
    return TOKENS._tokenizer.decode(ids, skip_special_tokens=False).replace("<|ignore|>", ".")


def test_the_training_sequence_of_a_dialogue() -> None:
    """Two questions, the second one during the response to the first.

    Two tokens per second are one token in two or three slices.
    """
    names = {".": "ignore", "?": "incomplete", "!": "response"}
    turns = [
        Turn("question", "", answer, 0.0, 1.0, None, "")
        for answer in ("twelve the capital of", "of france")
    ]
    labels = tuple(names[c] for c in ".??!...??!......")
    dialogue = Dialogue(
        "x", torch.zeros(0).numpy(), tuple(turns), labels, (Answer(0, 3, 9), Answer(1, 9, None))
    )
    segments = script(dialogue, TOKENS, SMALL.duplex)
    prompt_end = "<|/speech|>"
    assert [markers(w.ids).removeprefix(prompt_end) for w in segments] == [
        ".", ".", ".", "<|response|><|assistant|> twelve", ".", " the", ".", ".", " capital",
        "<|response|><|assistant|> of", ".", " france<|endoftext|>", ".", ".", ".", ".",
    ]  # fmt: skip
    expected_labels = [[n for n in w.labels if n != IGNORED] for w in segments]
    assert [markers(ids) for ids in expected_labels] == [
        ".", ".", ".", "<|response|> twelve the", ".", " the capital", ".", ".", " capital of",
        "<|response|> of france", ".", " france<|endoftext|>", ".", ".", ".", ".",
    ]  # fmt: skip
    assert [i for i, w in enumerate(segments) if w.due] == [5, 8, 11]
    assert all(
        len(w.ids) == len(w.labels) and len(w.free) == len(ids)
        for w, ids in zip(segments, expected_labels, strict=True)
    )


def stage_and_batch(letters=SCRIPTS[:3], **changes) -> tuple[MultiplexStage, object]:
    session = make()
    stage = MultiplexStage(
        dataclasses.replace(SMALL, **changes), session.model.float(), Answers(TOKENS, [[9] * 5] * 9)
    )
    return stage, collate_dialogues([(dialogue_of(text, SLICE), []) for text in letters], SLICE)


def test_a_batch_equals_single_dialogues() -> None:
    stage, batch = stage_and_batch()
    stage.model.double().eval()
    rows = [script(dialogue, stage.tokenizer, SMALL.duplex) for dialogue in batch.dialogues]
    with torch.no_grad():
        speech, _ = stage.model.embed_speech(batch.samples, final=True)
        batched = stage.read_whole(rows, speech)
        single = []
        for i, row in enumerate(rows):
            one = Padded(speech.values[i : i + 1, : int(speech.row_lengths()[i])])
            single.append(stage.read_whole([row], one))
    for whole, parts in zip(batched, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts))


@pytest.mark.parametrize("letters", [SCRIPTS[:3], [SCRIPTS[3]]], ids=["answers", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_covers_the_choices_of_a_session(letters, smoothing) -> None:
    stage, batch = stage_and_batch(
        letters, optim=dataclasses.replace(SMALL.optim, label_smoothing=smoothing)
    )
    rows = [script(dialogue, stage.tokenizer, SMALL.duplex) for dialogue in batch.dialogues]
    response, idle = (
        stage.tokenizer.turn_state_ids["response"],
        stage.tokenizer.turn_state_ids["ignore"],
    )
    with torch.no_grad():
        hidden, labels, free = stage.read_whole(
            rows, stage.model.embed_speech(batch.samples, final=True)[0]
        )
        logits, losses = stage.model.lm.logits(hidden), {True: [], False: []}
        for row, label, among in zip(logits, labels.tolist(), free.tolist(), strict=True):
            ids = list(range(len(row))) if among else [response, idle]
            log = row[ids].log_softmax(-1)
            losses[among].append(-(1 - smoothing) * log[ids.index(label)] - smoothing * log.mean())
        expected = sum(torch.stack(part).mean() for part in losses.values() if part)
        torch.testing.assert_close(stage.dialogue_loss(batch), expected, atol=1e-4, rtol=1e-5)
    assert bool(losses[True]) == (letters != [SCRIPTS[3]])


def test_training_reduces_the_loss_also_under_autocast() -> None:
    stage, batch = stage_and_batch()
    optimizer, losses = torch.optim.AdamW(stage.parameters(), lr=1e-2), []
    for step in range(12):
        with torch.autocast("cpu", torch.bfloat16, enabled=step % 2 == 1):
            loss = stage.training_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        assert all(
            p.grad is not None and p.grad.isfinite().all()
            for p in stage.model.connector.parameters()
        )
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


# ---- a session


def test_only_markers_are_possible_if_no_token_is_due() -> None:
    logits = torch.randn(9)
    marker_ids = torch.tensor([3, 5])
    torch.testing.assert_close(choice_probabilities(logits, marker_ids, True), logits.softmax(0))
    probabilities = choice_probabilities(logits, marker_ids, False)
    assert (
        probabilities[marker_ids].sum() == pytest.approx(1) and int((probabilities > 0).sum()) == 2
    )
    assert probabilities[3] / probabilities[5] == pytest.approx(
        float((logits[3] - logits[5]).exp()), rel=1e-5
    )
    assert starts_response(0.5, SMALL.duplex) and not starts_response(0.49, SMALL.duplex)


@pytest.mark.parametrize("kind", ["causal", "causal_lookahead", "slice", "mamba2"])
def test_any_split_of_the_samples_gives_the_same_events(kind) -> None:
    single_push = make(*KINDS[kind], "encoder.train_slice_ms=[400,400]")
    samples = sound(8, size=single_push.slice_samples)
    with scripted(single_push, {2, 5}):
        expected = facts(single_push.push(samples))
    for size in (997, 4000):
        split_push = make(*KINDS[kind], "encoder.train_slice_ms=[400,400]")
        with scripted(split_push, {2, 5}):
            assert (
                facts([event for part in samples.split(size) for event in split_push.push(part)])
                == expected
            )
    assert len(emitted_responses(expected)) == 2 and any(event.text for event in expected)


@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_snapshot_can_be_restored(at) -> None:
    session, samples = make(), sound(12)
    with scripted(session, {1, 6}):
        session.push(samples[: at * SLICE + 100])
        snapshot = session.snapshot()
        rest = facts(session.push(samples[at * SLICE + 100 :]))
        session.restore(snapshot)
        assert facts(session.push(samples[at * SLICE + 100 :])) == rest


def test_a_response_keeps_its_pace_and_length_until_the_next_one() -> None:
    session = make("duplex.max_tokens=4")
    with scripted(session, {1, 5}):
        events = session.push(sound(20))
    counts = [len(event.tokens) for event in events]
    interrupted, complete = emitted_responses(events)
    assert (interrupted.start_slice, interrupted.stop_slice, interrupted.complete) == (1, 5, False)
    assert (complete.start_slice, complete.stop_slice, complete.complete) == (5, 12, True)
    assert counts == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1] + [0] * 7 and not session.answering
    assert {event.action for event in events if event.slice not in (1, 5)} == {"listen"}


def test_a_response_may_pause_and_continue() -> None:
    session = make()
    pause = range(4, 10)

    def idle_in_the_pause(logits, markers, due):
        return choice_probabilities(
            logits, markers, due and session.snapshot().num_slices not in pause
        )

    with (
        scripted(session, {1}),
        mock.patch("duplexmamba.duplex.multiplex.choice_probabilities", idle_in_the_pause),
    ):
        events = session.push(sound(14))
    assert [len(event.tokens) for event in events] == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 2, 1, 0, 1]
    assert all(event.answering for event in events[1:]) and len(emitted_responses(events)) == 1


def test_close_waits_for_a_response_and_for_its_end() -> None:
    session = make("duplex.max_tokens=3", "duplex.max_wait_s=1")
    assert session.close() == []
    with scripted(session, {6}):
        events = [*session.push(sound(4)[:-100]), *session.close()]
        assert session.close() == []
    assert (
        emitted_responses(events)
        == [EmittedResponse(6, 11, emitted_responses(events)[0].text, True)]
        and len(events) == 12
    )
    unresponsive = make("duplex.max_wait_s=1")
    with scripted(unresponsive, set()):
        assert (
            len(unresponsive.push(sound(4))) == 4
            and len(unresponsive.close()) == 5
            and unresponsive.close() == []
        )


def test_close_ends_also_if_responses_never_end() -> None:
    session = make("duplex.max_tokens=3", "duplex.max_wait_s=1")
    with scripted(session, range(999)):
        assert len(session.push(sound(2))) == 2 and len(session.close()) == math.ceil(
            (1 + 1.5) / 0.2
        )


def test_finish_equals_pushing_silence() -> None:
    session = make("duplex.max_tokens=6")
    with scripted(session, {1}):
        assert session.finish() == ""
        first_events = session.push(sound(3))
        snapshot = session.snapshot()
        rest = session.push(torch.zeros(20 * SLICE))
        session.restore(snapshot)
        text = "".join(event.text for event in [*first_events, *rest])
        assert session.finish() == text != "" and not session.answering
    session.restore(snapshot)
    with scripted(session, {5}):
        assert (
            session.finish() == "".join(event.text for event in [*first_events, *rest[:2]])
            and not session.answering
        )


# ---- end to end


def test_the_kind_of_a_configuration_chooses_stage_and_session(tmp_path) -> None:
    configs = {kind: override(SMALL, [f"duplex.kind={kind}"]) for kind in ("fork", "multiplex")}
    for kind, config in configs.items():
        model = SpeechLM(config.model)
        stage = dialogue_module(config, model, TOKENS)
        session = open_sessions(
            StageCheckpoint(config, TOKENS, model.state_dict()), config, tmp_path
        )()
        assert (
            isinstance(session, MultiplexSession)
            == isinstance(stage, MultiplexStage)
            == (kind == "multiplex")
        )
        assert isinstance(session, stage.session)
    for stage in ("state", "streaming"):
        upstream = load_config(
            [TINY[0], "configs/stage/streaming.yaml", "duplex.kind=multiplex"], stage
        )
        assert upstream.duplex.kind == "multiplex"


def test_a_kind_that_differs_from_the_trained_one_is_rejected(tmp_path) -> None:
    model = SpeechLM(SMALL.model)
    checkpoint = StageCheckpoint(SMALL, TOKENS, model.state_dict())
    with pytest.raises(
        ValueError, match="duplex.kind=fork.*trained with multiplex; leave duplex.kind out"
    ):
        open_sessions(checkpoint, override(SMALL, ["duplex.kind=fork"]), tmp_path)
    with pytest.raises(ValueError, match="duplex.kind.*'both'.*fork.*multiplex"):
        override(SMALL, ["duplex.kind=both"])


def test_the_default_kind_is_fork() -> None:
    values = to_dict(SMALL)
    del values["duplex"]["kind"]
    assert from_dict(values).duplex.kind == "fork"


def test_states_that_a_session_does_not_distinguish_have_no_scores() -> None:
    played = PlayedDialogue(
        "x",
        0.2,
        [],
        ["ignore", "incomplete", "response"],
        ("response", "ignore"),
        ["ignore"] * 2 + ["response"],
    )
    played = dataclasses.replace(played, response=[0.1, 0.2, 0.9], compute_ms=[1.0] * 3)
    values = scores([played])
    assert [name for name in values if name.startswith("state/")] == ["state/f1_response"]
    assert values["state/f1_response"].value == 1
    matrix = confusion([played])
    assert (
        predicted_states(matrix) == ["response", "ignore"]
        and matrix["incomplete", "ignore"] == 1
        and len(matrix) == 6
    )
    labels = [text.get_text() for text in draw_confusion(matrix, [], "x").axes[0].get_xticklabels()]
    assert labels == ["response", "ignore"]
    results = [
        TurnStateResult("ignore", "ignore"),
        TurnStateResult("response", "response"),
        AnswerResult("twelve", ""),
    ]
    assert stage_and_batch()[0].scores(results) == {"response_f1": 1, "exact_match": 0}


@pytest.mark.timeout(300)
def test_train_score_and_converse(tmp_path: Path, capsys) -> None:
    pytest.importorskip("espeakng_loader")
    state, folder = tmp_path / "state", tmp_path / "runs"
    state.mkdir()
    config = load_config([TINY[0], "configs/stage/streaming.yaml", *SHORT])
    StageCheckpoint(config, TOKENS, SpeechLM(config.model).state_dict()).save(state / FILE)
    parts = ",".join(
        f"{part}: {state}" for part in ("features", "frontend", "encoder", "connector", "lm")
    )
    summary = train.main([
        TINY[0], "configs/stage/streaming.yaml", *SHORT, f"run.dir={folder}",
        "duplex.kind=multiplex", "duplex.max_tokens=4", f"stage.init={{{parts}}}",
    ])  # fmt: skip
    latest = (folder / "latest").resolve()
    assert "test/exact_match" in summary and not any(
        name.startswith("test/state") for name in summary
    )
    overrides = ["data.test_dialogues=2", "duplex.response_threshold=0.2", "seed=188"]
    values = evaluate.main(["duplex", str(latest), *overrides])
    assert {
        "state/f1_response",
        "answer/exact_match",
        "turn/takeover_rate",
        "silence/false_takeover_per_hour",
    } <= set(values)
    assert not {
        "state/accuracy",
        "state/macro_f1",
        "state/f1_incomplete",
        "state/confusion/ignore/incomplete",
    } & set(values)
    assert "do not tell incomplete from ignore" in capsys.readouterr().out
    assert (
        values["memory/lm_bytes"]
        < values["memory/all_bytes"]
        < 2 * values["memory/lm_bytes"] + 400_000
    )
    wav = tmp_path / "talk.wav"
    soundfile.write(wav, np.random.default_rng(1).normal(0, 0.1, 24_000), 16_000)
    events = serve.main([str(latest), "--wav", str(wav), "--pace", "fast"])
    assert len(events) >= 8 and set(events[0].probabilities) == {"response", "ignore"}
    assert timeline.main([str(latest / "traces" / "talk.jsonl")]).stat().st_size > 10_000


def test_the_sweep_names_existing_parameters() -> None:
    sweep = yaml.safe_load(Path("sweeps/duplex.yaml").read_text())
    assert sweep["method"] == "grid" and Path(sweep["program"]).exists()
    files = [argument for argument in sweep["command"] if argument.endswith(".yaml")]
    names, values = zip(
        *((name, parameter["values"]) for name, parameter in sweep["parameters"].items()),
        strict=True,
    )
    configs = [
        load_config([*files, *map("{}={}".format, names, trial)])
        for trial in itertools.product(*values)
    ]
    assert {(c.duplex.kind, c.seed) for c in configs} == {
        (k, n) for k in ("fork", "multiplex") for n in (1, 2, 3)
    }
    assert len({fingerprint(dataclasses.replace(c, seed=1), []) for c in configs}) == 2
