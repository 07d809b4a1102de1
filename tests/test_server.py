"""The server of the page over real sockets: conversations, concurrency, and how they end."""

import asyncio
import dataclasses
import gc
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile as sf
import torch
from websockets.exceptions import ConnectionClosed

from datamodules.synthetic.grammar import sentences
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.tokenizer import TRANSCRIBE_INSTRUCTIONS
from serving import capacity, timeline, trace
from serving import conversations as conversations_module
from serving.clips import EXAMPLES
from serving.conversations import Conversation, Conversations, push_batched
from serving.limits import AudioRateLimit, Limits
from serving.messages import ConversationEnded
from serving.transcripts import MAX_TOKENS, Stretch, StretchFinder, Transcriber
from tests import test_session
from tests.local_server import (
    FAST,
    HELLO,
    QUESTION,
    connected,
    converse,
    eventually,
    get,
    next_message,
    running_server,
    single_session_events,
)
from tests.talker import HIGH_HZ, LOW_HZ, Talker, tones


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("talks"), FAST) as found:
        yield found


# ---- a conversation


@pytest.mark.parametrize("size", [640, 3200, 5001])
def test_events_equal_the_trace_and_a_single_session(address, size, tmp_path):
    ready, events = converse(address, QUESTION, size)
    assert ready["version"] == 1 and ready["rate_hz"] == 16_000 and ready["run"] == "test-run"
    assert all(event.pop("type") == "slice" and event.pop("latency_ms") >= 0 for event in events)
    for kind in ("jsonl", "wav"):
        (tmp_path / f"talk.{kind}").write_bytes(
            get(address, f"/conversations/{ready['conversation']}.{kind}")[2]
        )
    (tmp_path / "talk.wav").rename(tmp_path / f"{ready['conversation']}.wav")
    loaded = trace.load_trace(tmp_path / "talk.jsonl")
    assert (
        events
        == [vars(event) for event in loaded.events]
        == [vars(event) for event in single_session_events(QUESTION)]
    )
    assert "".join(event.text for event in loaded.events).startswith("one two three four five six")
    sound, rate_hz = sf.read(tmp_path / f"{ready['conversation']}.wav", dtype="int16")
    assert rate_hz == 16_000 and np.array_equal(sound, QUESTION)
    assert (
        len(timeline.draw_trace(loaded).subfigs[0].axes) == 5
    )  # the sound was found beside the trace


def test_the_page_loads_nothing_from_other_servers(address):
    _, headers, page = get(address, "/")
    assert (
        b"<h1>DuplexMamba</h1>" in page
        and "default-src 'self'" in headers["content-security-policy"]
    )
    for file in Path("serving/page").iterdir():
        assert get(address, f"/{file.name}")[2] == file.read_bytes()
        assert b"http://" not in file.read_bytes().replace(b"http://www.w3.org/2000/svg", b"")
    about = json.loads(get(address, "/about")[2])
    assert [clip["name"] for clip in about["clips"]] == [
        "question",
        "unfinished",
        "interruption",
        "talking_to_other",
        "stop",
        "unknown",
    ]


@pytest.mark.parametrize(("name", "least_s", "pauses"), [
    ("question", 1, 0), ("unfinished", 2, 1), ("interruption", 6, 1), ("talking_to_other", 5, 1),
    ("stop", 5, 1), ("unknown", 1, 0),
])  # fmt: skip
def test_clips_are_speech_with_the_expected_pauses(address, name, least_s, pauses):
    pytest.importorskip("espeakng_loader")
    sound, rate_hz = sf.read(io.BytesIO(get(address, f"/clips/{name}.wav")[2]))
    silent = np.abs(sound[: len(sound) // 160 * 160].reshape(-1, 160)).max(1) == 0
    runs = [
        len(run)
        for run in "".join("x " if quiet else " ".strip() or "|" for quiet in silent)
        .replace(" ", "")
        .split("|")
    ]
    assert (
        rate_hz == 16_000
        and len(sound) > least_s * rate_hz
        and sum(run > 100 for run in runs) == pauses
    )
    assert 0.03 < np.sqrt(np.mean(sound[np.abs(sound) > 0] ** 2)) < 0.3


def test_examples_are_sentences_of_the_grammar():
    assert {clip.text for clip in EXAMPLES} <= {qa_pair.text for qa_pair in sentences()}


def test_any_sentence_is_synthesised_and_other_input_is_refused(address):
    pytest.importorskip("espeakng_loader")

    def speak(body, query=""):
        path = f"http://{address}/speak{query}"
        return urllib.request.urlopen(path, data=body, timeout=20).read()

    assert len(sf.read(io.BytesIO(speak("what's up, Zoë?\x00\n".encode())))[0]) > 8_000
    assert speak(b"hello", "?voice=model") != speak(b"hello", "?voice=user") == speak(b"hello")
    with pytest.raises(urllib.error.HTTPError):
        speak(b"hello", "?voice=../x")
    for body, code in [
        (b" \x07 ", 422),
        (b"x" * 201, 422),
        (b"x" * 100_000, 413),
        (b"\xff\xfe ...", 422),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            speak(body)
        assert refused.value.code == code, body[:9]


def test_the_example_of_the_documentation_works(address, tmp_path):
    sf.write(tmp_path / "question.wav", tones((0, 0.4), (LOW_HZ, 1), (0, 0.2)), 16_000)
    command = [
        sys.executable,
        "docs/talk_example.py",
        str(tmp_path / "question.wav"),
        f"ws://{address}/talk",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("one two three")


# ---- what was heard


class TranscribeLength:
    """In place of a model: the duration so far."""

    def __init__(self, session, max_speech_s):
        self.num_samples = 0

    def steps(self, samples, final):
        self.num_samples += len(samples)
        yield ""
        yield f"{self.num_samples / 16_000:.1f} s"


def test_stretches_of_speech_end_with_a_decision():
    sound = tones((0, 1), (LOW_HZ, 1), (0, 2), (HIGH_HZ, 1), (0, 1))
    finder = StretchFinder(0.2)
    found = [finder.push(event) for event in single_session_events(sound)]
    # The question, one slice of silence before it; not a high tone, which is for somebody else.
    assert [stretch for stretch in found if stretch] == [Stretch(4, 11, answered=True)]
    event = single_session_events(sound)[5]
    unanswered = [event] * 4 + [dataclasses.replace(event, slice=9, action="drop")]
    finder = StretchFinder(0.2)
    assert [finder.push(event) for event in unanswered][-1] == Stretch(4, 9, answered=False)
    assert finder.push(dataclasses.replace(event, action="drop")) is None  # too short


def test_a_client_that_asks_is_told_what_was_heard(tmp_path):
    with running_server(tmp_path, FAST, transcribe=TranscribeLength) as address:
        with connected(address, {**HELLO, "heard": True}) as socket:
            socket.send(QUESTION[:32_000].tobytes())
            messages = [next_message(socket) for _ in range(12)]
            [heard] = [message for message in messages if message["type"] == "heard"]
        with connected(address) as socket:
            socket.send(QUESTION[:32_000].tobytes())
            kinds = [next_message(socket)["type"] for _ in range(11)]
            with pytest.raises(TimeoutError):
                socket.recv(0.5)
    [decision] = [m["slice"] for m in messages if m.get("action") == "respond"]
    assert heard == {
        "type": "heard",
        "slice": decision,
        "start_s": 0.2,
        "end_s": round(0.2 * (decision + 1), 1),
        "text": f"{heard['end_s'] - heard['start_s']:.1f} s",
        "answered": True,
        "final": True,
    }
    assert kinds == ["ready", *["slice"] * 10]


def test_live_text_grows_while_the_speech_goes_on_and_the_decision_comes_at_once(tmp_path):
    async def run():
        conversations = Conversations(Talker(), FAST, tmp_path, "run", TranscribeLength)
        messages = []
        async with conversations.processing():
            with conversations.open("live") as conversation:
                while not messages or not messages[-1].get("final"):
                    # In real time, or nearly: the next slice when nothing is left to be done.
                    start = 3200 * len([m for m in messages if m["type"] == "slice"])
                    conversation.push_audio(QUESTION[start : start + 3200].tobytes())
                    await asyncio.sleep(0.05)
                    while not conversation.messages.empty():
                        messages.append(json.loads(conversation.messages.get_nowait()))
        return messages

    messages = asyncio.run(run())
    heard = [message for message in messages if message["type"] == "heard"]
    assert {message["start_s"] for message in heard} == {0.2}
    # From the third slice of speech on, then with three new ones.
    live = [message["text"] for message in heard if message["answered"] is None]
    assert live == ["0.8 s", "1.4 s"][: len(live)] and live
    decided = [message for message in heard if message["answered"]]
    decision = next(message for message in messages if message.get("action") == "respond")
    assert [message["slice"] for message in decided] == [decision["slice"]] * 2
    assert messages.index(decided[0]) == messages.index(decision) + 1
    assert [message["final"] for message in decided] == [False, True]
    assert decided[0]["text"] == live[-1]
    assert decided[1]["text"] == f"{decision['time_s'] - 0.2:.1f} s"


def test_a_failed_transcript_is_empty_and_ends_nothing(tmp_path):
    class Failing(TranscribeLength):
        def steps(self, samples, final):
            raise RuntimeError("broken")
            yield

    with (
        running_server(tmp_path, FAST, transcribe=Failing) as address,
        connected(address, {**HELLO, "heard": True}) as socket,
    ):
        socket.send(QUESTION[:32_000].tobytes())
        messages = [next_message(socket) for _ in range(12)]
    assert [m["text"] for m in messages if m["type"] == "heard"] == [""]


def test_slices_come_before_transcripts(tmp_path):
    order = []

    class Ordered(TranscribeLength):
        def steps(self, samples, final):
            for step in range(3):
                order.append(f"step {step}")
                yield ""

    async def run():
        conversations = Conversations(Talker(), FAST, tmp_path, "run", Ordered)
        process = conversations_module.process_slices
        with (
            mock.patch.object(
                conversations_module,
                "process_slices",
                side_effect=lambda inputs: [order.append("slice"), process(inputs)][1],
            ),
            conversations.open("once") as conversation,
        ):
            conversation.push_audio(QUESTION[: 15 * 3200].tobytes())
            async with conversations.processing():
                while json.loads(await conversation.messages.get())["type"] != "heard":
                    pass

    asyncio.run(run())
    assert order == [*["slice"] * 15, "step 0", "step 1", "step 2"]


def test_a_transcript_equals_the_models_own_and_leaves_the_session_alone():
    session = test_session.make()
    samples = 0.1 * torch.randn(3 * session.slice_samples + 100)
    before = session.snapshot()
    transcriber = Transcriber(session, 8.0)
    # In two rounds, as while the speech goes on; the first one has no end within so short a time.
    first = [*transcriber.steps(samples[: session.slice_samples], False)]
    assert not any(first) and 1 < len(first) < MAX_TOKENS
    *_, text = transcriber.steps(samples[session.slice_samples :], True)
    prompt = session.tokenizer.prompt_before_speech(TRANSCRIBE_INSTRUCTIONS[0])
    after = session.tokenizer.prompt_after_speech("response")
    [ids] = session.model.generate(
        Padded(torch.tensor([prompt])),
        Padded(samples[None]),
        Padded(torch.tensor([after])),
        session.tokenizer.eos_id,
        MAX_TOKENS,
    )
    assert text == session.tokenizer.decode(ids) and session.snapshot() is before


# ---- many at once


def test_ready_slices_are_one_batch_and_an_error_affects_one_conversation(tmp_path):
    class Broken(Talker):
        def process_slice(self, samples):
            if self.state.slices == 1:
                raise RuntimeError("broken")
            return super().process_slice(samples)

    async def run():
        found, sizes = [], []
        conversations = Conversations(Talker(), FAST, tmp_path, "run")
        with (
            mock.patch("serving.conversations.push_batched", wraps=push_batched) as pushed,
            conversations.open() as good,
        ):
            conversations.session = Broken()
            with conversations.open() as bad:
                for conversation in (good, bad):
                    conversation.push_audio(QUESTION[: 3 * 3200].tobytes())
                async with conversations.processing():
                    with pytest.raises(ConversationEnded, match="went wrong"):
                        await bad.ended
                    found = [await good.messages.get() for _ in range(3)]
            sizes = [len(call.args[0]) for call in pushed.call_args_list]
        return found, sizes

    found, sizes = asyncio.run(run())
    assert [json.loads(text)["slice"] for text in found] == [0, 1, 2] and sizes[0] == 2


def test_a_client_that_leaves_during_a_batch_gets_no_message(tmp_path):
    async def run():
        conversations = Conversations(Talker(), FAST, tmp_path, "run")
        async with conversations.processing():
            with conversations.open() as stays:
                with conversations.open() as leaves:
                    for conversation in (stays, leaves):
                        conversation.push_audio(QUESTION[:3200].tobytes())
                    await asyncio.sleep(0)  # both are taken up
                first = await stays.messages.get()
                stays.push_audio(QUESTION[:3200].tobytes())
                return first, await stays.messages.get(), leaves.messages.qsize()

    first, second, left = asyncio.run(run())
    assert (json.loads(first)["slice"], json.loads(second)["slice"], left) == (0, 1, 0)


def test_beyond_the_limit_the_server_is_busy_until_a_client_leaves(address):
    with connected(address) as a, connected(address) as b, connected(address) as c:
        for socket in (a, b, c):
            assert next_message(socket)["type"] == "ready"
        with connected(address) as last:
            assert next_message(last)["type"] == "ready"
            with connected(address) as refused:
                end = next_message(refused)
                assert (end["type"], end["reason"]) == ("end", "busy") and "4 of 4" in end[
                    "message"
                ]
                with pytest.raises(ConnectionClosed) as closed:
                    refused.recv(5)
                assert closed.value.rcvd.code == 1013
            a.send(QUESTION[:3200].tobytes())
            assert next_message(a)["slice"] == 0
    assert eventually(lambda: converse(address, QUESTION[:3200])[0]["type"] == "ready")


def test_a_thousand_conversations_leak_nothing(tmp_path):
    def things():
        gc.collect()
        kinds = [type(thing).__name__ for thing in gc.get_objects()]
        return {
            name: kinds.count(name)
            for name in ("Conversation", "Recording", "Talker", "Tensor", "Future")
        }

    async def run():
        conversations = Conversations(Talker(), FAST, tmp_path, "run")
        counts = []
        async with conversations.processing():
            for i in range(1000):
                with conversations.open() as conversation:
                    conversation.push_audio(QUESTION[:3300].tobytes())
                    await conversation.messages.get()
                del conversation
                if i in (99, 999):
                    counts.append(things())
        return conversations, counts

    conversations, (early, late) = asyncio.run(run())
    # What earlier tests left may be freed in between: nothing grows.
    assert all(late[kind] <= early[kind] for kind in early), (early, late)
    assert late["Conversation"] == 0 and len(conversations) == 0
    assert (
        len(list(tmp_path.iterdir()))
        == 2 * FAST.max_saved_conversations
        == 2 * len(conversations.recordings)
    )


def test_a_client_that_does_not_read_is_disconnected():
    async def run():
        recording = mock.Mock()
        conversation = Conversation(
            Talker(), recording, Limits(1, max_unsent_messages=3), lambda: None
        )
        for event in single_session_events(QUESTION)[:4]:
            conversation.publish(event, 0.0)
        with pytest.raises(ConversationEnded, match="not fetched") as end:
            await conversation.ended
        assert end.value.reason == "slow" and conversation.messages.qsize() == 3
        recording.write_event.side_effect = OSError("disk full")
        conversation = Conversation(Talker(), recording, Limits(1), lambda: None)
        conversation.publish(single_session_events(QUESTION)[0], 0.0)
        with pytest.raises(ConversationEnded, match="its log"):
            await conversation.ended

    asyncio.run(run())


# ---- the end


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"idle_timeout_s": 0.3}, "idle"),
        ({"max_conversation_s": 0.4}, "time"),
        ({"max_ahead_s": 0.5}, "flood"),
        ({"max_ahead_s": 600, "max_backlog_s": 0.1}, "overloaded"),
    ],
)
def test_a_conversation_ends_in_time(tmp_path, limits, reason):
    with running_server(tmp_path, Limits(1, **limits)) as address, connected(address) as socket:
        assert next_message(socket)["type"] == "ready"
        if reason != "idle":
            socket.send(QUESTION[:32_000].tobytes())
        end = next_message(socket)
        while end["type"] == "slice":
            end = next_message(socket)
        assert end["reason"] == reason
        assert eventually(lambda: converse(address, QUESTION[:3200])[0]["type"] == "ready")


def test_the_rate_limit_admits_one_burst():
    timer = mock.Mock(return_value=100.0)
    limits = Limits(1, max_ahead_s=2, max_stall_s=3, min_message_s=0.01)
    rate_limit = AudioRateLimit(limits, timer)
    assert rate_limit.admits(2.0) and not rate_limit.admits(0.1)
    timer.return_value = 1000.0
    # a long pause allows one burst, not more
    assert rate_limit.admits(5.0) and not rate_limit.admits(0.1)
    timer.return_value = 2000.0
    admitted = sum(rate_limit.admits(0.0) for _ in range(1000))
    assert 490 <= admitted <= 500


def paced(rate_limit, timer, duration_s, message_s) -> bool:
    """Whether messages at the pace of speech are all admitted."""
    for _ in range(round(duration_s / message_s)):
        timer.return_value += message_s
        if not rate_limit.admits(message_s):
            return False
    return True


@pytest.mark.parametrize("stall_s", [3, 5, 8])
def test_what_was_said_during_a_stall_may_arrive_at_once(stall_s):
    timer = mock.Mock(return_value=0.0)
    rate_limit = AudioRateLimit(Limits(1), timer)
    assert paced(rate_limit, timer, 10, 0.02)
    timer.return_value += stall_s
    assert all(rate_limit.admits(0.02) for _ in range(round(stall_s / 0.02)))
    assert paced(rate_limit, timer, 10, 0.02)


def test_messages_of_an_audio_worklet_are_in_time():
    timer = mock.Mock(return_value=0.0)
    assert paced(AudioRateLimit(Limits(1), timer), timer, 60, 128 / 48_000)


# ---- capacity


@pytest.mark.parametrize(("slice_ms", "expected"), [(10, 10), (200, 1), (0.01, 64), (30, 3)])
def test_capacity_is_half_of_real_time(monkeypatch, slice_ms, expected):
    talker = Talker()
    talker.duplex = None
    monkeypatch.setattr(capacity, "busy", lambda session: session)
    monkeypatch.setattr(capacity, "step_s", lambda group, heard: slice_ms * len(group) / 1000)
    assert capacity.capacity(talker, most=64)[0] == expected


def test_busy_sessions_respond_all_the_time():
    session = capacity.busy(test_session.make("duplex.max_tokens=64"))
    slices = capacity.noise(session)
    events = session.push(torch.cat([next(slices) for _ in range(24)]))
    assert [event.slice for event in events if event.action == "respond"] == [9, 19]
