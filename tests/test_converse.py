"""A recording played to a session, printed, written and drawn, by the real entry points."""

import contextlib
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from matplotlib.image import imread

import serve
from configs.loading import load_config
from datamodules.sources.audio import read_audio
from duplexmamba.duplex.events import Event
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.sessions import open_sessions
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.exits import exit_cleanly
from serving import converse, timeline, trace
from tests.conftest import SMALL_SIZES

TOKENS = Tokenizer.train([" what is seven plus five", " twelve"] * 9)
SCRIPT = ["ignore", "incomplete", "response", "ignore", "incomplete", "response"]


def small(stage):
    files = ["configs/preset/tiny.yaml", f"configs/stage/{stage}.yaml"]
    return load_config(
        [*files, *SMALL_SIZES, f"lm.vocab_size={TOKENS.vocab_size}", "duplex.max_tokens=3"]
    )


@pytest.fixture
def run(tmp_path):
    """Folder of a run with random weights."""
    config = small("streaming")
    StageCheckpoint(config, TOKENS, SpeechLM(config.model).state_dict()).save(tmp_path / FILE)
    return tmp_path


@pytest.fixture
def wav(tmp_path):
    """1.5 s at 8 kHz: noise on the left, other noise on the right."""
    path = tmp_path / "talk.wav"
    sf.write(path, np.random.default_rng(1).normal(0, 0.1, (12_000, 2)), 8_000)
    return path


@pytest.fixture
def scripted(monkeypatch):
    """The turn states of the first slices are those of SCRIPT, then "ignore"."""
    states = iter(SCRIPT)
    monkeypatch.setattr("duplexmamba.duplex.fork.classify_state", lambda *_: next(states, "ignore"))


def without_times(events):
    return [dataclasses.replace(event, compute_ms=0) for event in events]


# ---- the recording is played


def test_events_are_printed_and_written(run, wav, scripted, capsys, monkeypatch):
    events = serve.main([str(run), "--wav", str(wav), "--channel", "1", "--pace", "fast"])
    path, out = run / "traces" / "talk.jsonl", capsys.readouterr().out
    header = trace.TraceHeader(str(run), 0.2, str(wav), 1)
    assert trace.load_trace(path) == trace.Trace(header, events)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1:] == [dataclasses.asdict(event) for event in events]
    assert [event.slice for event in events if event.action == "respond"] == [2, 5]
    assert f"make timeline TRACE={path}" in out and "responses: 2, complete: 1" in out
    assert (
        "state   incomplete" in out
        and "stops   and starts a new response" in out
        and "ends    the response" in out
    )


def test_events_equal_those_of_a_session_by_hand(run, wav, monkeypatch):
    def events_of(function):
        states = iter(SCRIPT)
        monkeypatch.setattr(
            "duplexmamba.duplex.fork.classify_state", lambda *_: next(states, "ignore")
        )
        return without_times(function())

    def by_hand():
        given = StageCheckpoint.load(run / FILE)
        session = open_sessions(given, given.config, run)()
        samples = torch.from_numpy(read_audio(wav, 16_000, min_s=0, max_s=9))
        return [*session.push(samples), *session.close()]

    told = events_of(
        lambda: serve.main(
            [str(run), "--wav", str(wav), "--pace", "fast", "--trace", str(run / "x.jsonl")]
        )
    )
    assert told == events_of(by_hand) and len(told) > 8
    assert without_times(trace.load_trace(run / "x.jsonl").events) == told


def test_in_real_time_a_slice_is_processed_when_it_is_over(monkeypatch):
    clock, heard = SimpleNamespace(now=100.0), []

    def sleep(seconds):
        clock.now += seconds

    class Session:
        slice_samples, rate_hz = 2, 10

        def push(self, samples):
            heard.append((round(clock.now - 100, 6), samples.tolist()))
            clock.now += 0.05 if len(heard) != 2 else 0.3  # once slower than time
            return []

        def close(self):
            return ["closed"]

    monkeypatch.setattr(
        converse, "time", SimpleNamespace(perf_counter=lambda: clock.now, sleep=sleep)
    )
    assert list(converse.play_recording(Session(), np.arange(7), in_real_time=True)) == ["closed"]
    assert heard == [(0.2, [0, 1]), (0.4, [2, 3]), (0.7, [4, 5]), (0.75, [6])]


def event(slice_, state="ignore", action="listen", text="", answering=False, ms=2.0):
    shares = {"response": 0.1, "incomplete": 0.1, "ignore": 0.1, state: 0.8}
    return Event(slice_, 0.2 * (slice_ + 1), shares, state, action, [], text, answering, ms)


TALK = [
    event(0), event(1, "incomplete"), event(2, "response", "respond", "the", True),
    event(3, text=" sun", answering=True), event(4, "incomplete", text=" is", answering=True),
    event(5, "response", "respond", "no", True, ms=8.0),
    event(6, text=" moon\x1b"), event(7, action="drop"),
]  # fmt: skip


def test_a_line_for_every_change_and_text_as_it_is_emitted():
    told = []
    printer = converse.ConversationPrinter(told.append)
    for happened in TALK:
        printer.print(happened)
    printer.close()
    assert "".join(told).splitlines() == [
        "    0.2 s  state   ignore 80 %",
        "    0.4 s  state   incomplete 80 %",
        "    0.6 s  state   response 80 %",
        "    0.6 s  speaks  the sun",
        "    1.0 s  state   incomplete 80 %",
        "    1.0 s  speaks  is",
        "    1.2 s  state   response 80 %",
        "    1.2 s  stops   and starts a new response",
        "    1.2 s  speaks  no moon·",
        "    1.4 s  ends    the response",
        "    1.6 s  state   ignore 80 %",
    ]
    expected = (
        "1.6 s of audio, responses: 2, complete: 1; a slice takes 2.0 ms (median; largest 8.0), "
        "0.014 of real"
    )
    assert converse.summary(TALK, 0.2).startswith(expected)


def test_an_interrupted_conversation_is_written_up_to_there(tmp_path):
    def interrupted():
        yield from TALK[:3]
        raise KeyboardInterrupt

    header = trace.TraceHeader("run", 0.2)
    with contextlib.suppress(KeyboardInterrupt):
        list(trace.record_trace(tmp_path / "t.jsonl", header, interrupted()))
    assert trace.load_trace(tmp_path / "t.jsonl") == trace.Trace(header, TALK[:3])


# ---- mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere", "--wav", "talk.wav"], "no checkpoint at .*nowhere.*make train"),
        ([".", "--wav", "none.wav"], "none.wav is missing"),
        ([".", "--wav", "junk.wav"], "junk.wav is broken, or not wav"),
        ([".", "--wav", "talk.wav", "--channel", "2"], "talk.wav has 2 channels.*no channel 2"),
        (["asr", "--wav", "talk.wav"], "run of stage asr.*name a run of stage state or streaming"),
    ],
)
def test_errors_name_the_remedy(run, wav, args, message, capsys, monkeypatch):
    (run / "junk.wav").write_bytes(b"junk" * 99)
    (run / "asr").mkdir()
    StageCheckpoint(
        dataclasses.replace(small("streaming"), stage=small("asr").stage), TOKENS, {}
    ).save(run / "asr" / FILE)
    monkeypatch.chdir(run)
    with pytest.raises(SystemExit, match="2"), exit_cleanly():
        serve.main(args)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        serve.main(args)


# ---- the picture


def texts(figure):
    return [text.get_text() for part in figure.subfigs for axes in part.axes for text in axes.texts]


def test_a_conversation_is_drawn_next_to_its_trace(run, wav, scripted, capsys):
    events = serve.main([str(run), "--wav", str(wav), "--pace", "fast"])
    path = timeline.main([str(run / "traces" / "talk.jsonl")])
    assert path == run / "traces" / "talk.png" and str(path) in capsys.readouterr().out
    assert imread(path)[..., :3].std() > 0.05
    [stave] = timeline.draw_trace(trace.load_trace(run / "traces" / "talk.jsonl")).subfigs
    wave, states, branches, answers, taken = stave.axes
    assert (
        len(wave.lines) == 1
        and len(states.patches) == 3 * len(events)
        and len(taken.patches) == len(events)
    )
    assert sum(patch.get_height() for patch in states.patches) == pytest.approx(len(events))
    assert len(branches.patches) == sum(e.action != "listen" for e in events) + (
        events[-1].action == "listen"
    )
    assert len(answers.patches) == 2


def test_text_is_drawn_at_its_time_and_an_interrupted_response_is_hatched():
    talk = [*TALK, *(event(i) for i in range(8, 100))]
    first, second = timeline.draw_trace(
        trace.Trace(trace.TraceHeader("run", 0.2, "gone.wav"), talk)
    ).subfigs
    assert texts(SimpleNamespace(subfigs=[first])) == ["the sun is", "no moon·"]
    assert texts(SimpleNamespace(subfigs=[second])) == [] and len(first.axes) == 4
    cut, whole = first.axes[2].patches
    assert cut.get_hatch() and not whole.get_hatch()
    assert (cut.get_x(), cut.get_width()) == (pytest.approx(0.6), pytest.approx(0.6))
    assert (whole.get_x(), whole.get_width()) == (pytest.approx(1.2), pytest.approx(0.4))


def test_an_empty_conversation_is_drawn(tmp_path):
    header = trace.TraceHeader("run", 0.2)
    list(trace.record_trace(tmp_path / "t.jsonl", header, []))
    assert timeline.main([str(tmp_path / "t.jsonl")]).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "t.jsonl is missing"),
        ("", "is not a trace"),
        ("junk\n", "is not a trace"),
        ('{"run": "r", "slice_s": 1}\n{"slice": 1}\n', "is not a trace.*make converse"),
        ("3\n", "is not a trace"),
    ],
)
def test_a_file_that_is_no_trace_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        timeline.main([str(tmp_path / "t.jsonl")])


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match="make timeline TRACE="):
        timeline.main([""])
