"""Converters of recorded conversations: small folders in the true layout of each corpus."""

import importlib
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from datamodules.conversations import CONVERSATION_FORMATS, format_of
from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.conversations.labels import slice_labels
from datamodules.conversations.manifest import MANIFEST, read_conversations, write_conversations
from datamodules.conversations.prepare import check
from datamodules.conversations.voice_activity import speech_spans
from datamodules.dialogue.turns import Slices
from datamodules.prepare import main
from datamodules.sources.audio_sources import TarSource
from datamodules.sources.manifest_entry import Skipped
from tests import corpora
from tests.conftest import TINY
from tests.conversations import SLICES, conversation, said
from tests.corpora import RATE_HZ, write

SPOKEN = [(1.0, 2.0), (4.0, 5.0)]
"""Spans of speech in the first channel of `talk`; the second one speaks from 2.4 to 3.4 s."""


def bursts(spans: Sequence[tuple[float, float]], seconds: float) -> np.ndarray:
    """Tone in some spans, and silence with a little noise."""
    samples = 1e-4 * np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))
    for start_s, end_s in spans:
        span = slice(round(start_s * RATE_HZ), round(end_s * RATE_HZ))
        samples[span] += corpora.tone(end_s - start_s)[: span.stop - span.start]
    return samples


def talk(path: Path, seconds: float = 6.0, exchanged: bool = False) -> Path:
    """A stereo file in which two people speak by turns."""
    channels = [bursts(SPOKEN, seconds), bursts([(2.4, 3.4)], seconds)]
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.stack(channels[::-1] if exchanged else channels, axis=1), RATE_HZ)
    return path


def converted(name: str, root: Path) -> tuple[dict[str, Conversation], list[Skipped]]:
    """Conversations by ID, and what is left out."""
    items, skipped = check(CONVERSATION_FORMATS[name].convert(root))
    return {item.id: item for item in items}, skipped


def brief(turns: Sequence[SpokenTurn]) -> list[tuple[Any, ...]]:
    return [(turn.who, turn.start_s, turn.end_s, turn.text) for turn in turns]


def test_every_format_has_a_converter_and_a_line_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs/conversations.md").read_text()
    for name, record in CONVERSATION_FORMATS.items():
        module, function = record.converter.split(".")
        converters = importlib.import_module(f"datamodules.conversations.converters.{module}")
        assert callable(getattr(converters, function))
        assert re.search(rf"^\| `{name}` \|", page, re.MULTILINE), name


# ---- lhotse cuts of two channels


def supervision(id: str, channel: int, start: float, duration: float, text: str, **more: Any):
    row = {"id": id, "recording_id": "call", "channel": channel, "speaker": f"s{channel}"}
    return row | {"start": start, "duration": duration, "text": text} | more


def recording(id: str, files: dict[str, list[int]], seconds: float = 6.0) -> dict[str, Any]:
    sources = [
        {"type": "file", "channels": channels, "source": name} for name, channels in files.items()
    ]
    samples = round(seconds * RATE_HZ)
    shape = {"sampling_rate": RATE_HZ, "num_samples": samples, "duration": seconds}
    return {"id": id, "sources": sources, "channel_ids": [0, 1], **shape}


FISHER = [
    supervision("call-000", 0, 1.0, 0.5, "so what"),
    supervision("call-001", 0, 1.6, 0.4, "is (( it ))"),
    supervision("call-002", 1, 2.4, 1.0, "a lamp"),
    supervision("call-003", 0, 4.0, 1.0, "i see now"),
]


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def fisher(root: Path) -> None:
    """As lhotse's recipe fisher_english writes it."""
    talk(root / "audio/call.wav")
    write(root / "recordings.jsonl", lines([recording("call", {"audio/call.wav": [0, 1]})]))
    write(root / "supervisions.jsonl", lines(FISHER))


def test_two_channels_are_two_listeners(tmp_path: Path) -> None:
    fisher(tmp_path)
    found, skipped = converted("two-channel-cuts", tmp_path)
    assert not skipped and list(found) == ["call-1", "call-2"]
    first, second = found.values()
    assert brief(first.turns) == [
        ("user", 1.0, 2.0, "so what is it"),
        ("agent", 2.4, 3.4, "a lamp"),
        ("user", 4.0, 5.0, "i see now"),
    ]
    assert [turn.who for turn in second.turns] == ["agent", "user", "agent"]
    assert (first.user.channel, second.user.channel) == (0, 1) and second.agent == first.user
    assert first.speakers == second.speakers == {"s0", "s1"} and first.duration_s == 6.0


def test_cuts_count_time_from_their_start(tmp_path: Path) -> None:
    talk(tmp_path / "a.wav")
    whole = recording("call", {"a.wav": [0, 1]})
    cut = {"id": "c", "start": 2.0, "duration": 4.0, "recording": whole}
    cut["supervisions"] = [
        supervision("x", 1, 0.4, 1.0, "a lamp", speaker="callA"),
        supervision("y", 0, 2.0, 1.0, "i see now", speaker="callA"),
    ]
    found, _ = converted("two-channel-cuts", write(tmp_path / "train_cuts.jsonl", lines([cut])))
    assert {item.user.start_s for item in found.values()} == {2.0}
    # Switchboard's recipe gives both channels one name.
    assert not found["c-1"].speakers and found["c-1"].split == "train"


def test_headsets_of_a_meeting_hear_the_others_as_one_agent(tmp_path: Path) -> None:
    for n in range(3):
        corpora.sound(tmp_path / f"h{n}.wav", 6.0)
    files = {f"h{n}.wav": [n] for n in range(3)}
    rows = [
        supervision("a", 0, 0.5, 1.0, "hello there"),
        supervision("b", 1, 1.0, 1.0, "good day"),
        supervision("c", 2, 1.5, 1.5, "hi all"),
    ]
    cut = {"id": "m", "start": 0.0, "duration": 6.0, "recording": recording("m", files)}
    path = write(tmp_path / "cuts.jsonl", lines([cut | {"supervisions": rows}]))
    found, skipped = converted("two-channel-cuts", path)
    assert not skipped and len(found) == 3
    assert found["m-1"].agent is None and found["m-1"].user.channel is None
    assert brief(found["m-1"].of("agent")) == [("agent", 1.0, 3.0, "good day hi all")]
    assert found["m-3"].user.audio == tmp_path / "h2.wav"


def test_exchanged_channels_are_named(tmp_path: Path) -> None:
    fisher(tmp_path)
    talk(tmp_path / "audio/call.wav", exchanged=True)
    found, skipped = converted("two-channel-cuts", tmp_path)
    assert not found and len(skipped) == 2
    assert "call.wav: call-1: each channel is louder while the other side" in skipped[0].detail
    assert "correct which channel is whose" in skipped[0].detail


def test_broken_calls_are_named(tmp_path: Path) -> None:
    talk(tmp_path / "a.wav")
    corpora.sound(tmp_path / "mono.wav", 6.0)
    stereo = recording("call", {"a.wav": [0, 1]})
    base = {"start": 0.0, "duration": 6.0, "recording": stereo, "supervisions": FISHER}
    rows = [
        base | {"id": "one", "supervisions": FISHER[:2]},
        base | {"id": "absent", "supervisions": [*FISHER, supervision("z", 3, 5, 0.5, "hey")]},
        base | {"id": "late", "supervisions": [*FISHER, supervision("z", 1, 5.8, 0.5, "hey")]},
        base | {"id": "mono", "recording": recording("m", {"mono.wav": [0, 1]})},
        base | {"id": "lost", "recording": recording("l", {"lost.wav": [0, 1]})},
        base | {"id": "short", "duration": 9.0},
    ]
    found, skipped = converted("two-channel-cuts", write(tmp_path / "c.jsonl", lines(rows)))
    assert not found
    details = [item.detail for item in skipped]
    for message in (
        "c.jsonl, line 1: cut one has supervised speech in one channel at most (0)",
        "c.jsonl, line 2: recording of cut absent has no channel 3 in a plain file",
        "late-1: turn 3 (agent): [5.8, 6.3] lies outside the audio of 6 s; correct the times",
        "mono.wav has 1 channels, counted from 0, and no channel 1; correct the channel",
        "lost.wav is missing",
        "a.wav ends at 6.00 s, 3.00 s before the conversation does; correct duration_s",
    ):
        assert any(message in detail for detail in details), (message, details)


# ---- NeMo's duplex cuts


def nemo(root: Path) -> Path:
    """Duplex cuts in a manifest, and the same in Shar, as lhotse writes them."""
    lhotse = pytest.importorskip("lhotse")
    sf.write(write(root / "user.wav", b""), bursts(SPOKEN, 6.0), RATE_HZ)
    sf.write(write(root / "agent.wav", b""), bursts([(2.4, 3.4)], 6.0), RATE_HZ)
    cut = lhotse.Recording.from_file(root / "user.wav", recording_id="r").to_cut()
    cut.target_audio = lhotse.Recording.from_file(root / "agent.wav", recording_id="a")
    for id, speaker, start, text in (
        ("q1", "User", 1.0, "<|12|> What is it?"),
        ("a1", "Assistant", 2.4, "<|30|> A <|32|> lamp."),
        ("q2", "user", 4.0, "And now?"),
    ):
        spoken = lhotse.SupervisionSegment(id, "r", start, 1.0, text=text, speaker=speaker)
        cut.supervisions.append(spoken)
    (root / "shar/train").mkdir(parents=True)
    cuts = lhotse.CutSet.from_cuts([cut])
    cuts.to_file(root / "cuts.jsonl.gz")
    cuts.to_shar(root / "shar/train", fields={"recording": "flac", "target_audio": "flac"})
    return root


def test_duplex_cuts_have_roles(tmp_path: Path) -> None:
    nemo(tmp_path)
    for root in (tmp_path / "cuts.jsonl.gz", tmp_path / "shar"):
        [item], skipped = converted("nemo-duplex", root)[0].values(), []
        assert not skipped and item.agent is not None
        assert brief(item.turns) == [
            ("user", 1.0, 2.0, "what is it"),
            ("agent", 2.4, 3.4, "A lamp."),
            ("user", 4.0, 5.0, "and now"),
        ]
        assert [turn.to for turn in item.turns] == [None, 0, None]
        assert isinstance(item.user.audio, TarSource) == (root.name == "shar")
    assert isinstance(item.agent.audio, TarSource) and "target_audio" in item.agent.audio.shard
    assert item.split == "train"


def test_duplex_cuts_of_other_roles_or_one_side_are_named(tmp_path: Path) -> None:
    nemo(tmp_path)
    corpora.sound(tmp_path / "a.wav", 6.0)
    cut = {"id": "c", "start": 0.0, "duration": 6.0, "recording": recording("r", {"a.wav": [0]})}
    cut["supervisions"] = [supervision("x", 0, 1.0, 1.0, "hello there", speaker="ann")]
    whole = cut | {"id": "d", "custom": {"target_audio": recording("t", {"a.wav": [0]})}}
    path = write(tmp_path / "some_cuts.jsonl", lines([cut, whole]))
    found, skipped = converted("nemo-duplex", path)
    assert not found
    assert "line 1: cut c has no target_audio; add it" in skipped[0].detail
    assert "line 2: speaker='ann' of supervision x is none of user, agent" in skipped[1].detail


# ---- moshi-finetune


def moshi(root: Path) -> None:
    """Left the model, whose words are aligned; right the user."""
    talk(root / "data/x.wav", exchanged=True)
    words = [
        ["A", [2.4, 2.7], "SPEAKER_MAIN"],
        ["lamp,", [2.8, 3.1], "SPEAKER_MAIN"],
        ["see?", [3.35, 3.4], "SPEAKER_MAIN"],
    ]
    write(root / "data/x.json", json.dumps({"alignments": words}))
    write(root / "data.jsonl", lines([{"path": "data/x.wav", "duration": 6.0}]))


def test_moshis_user_is_right_and_found_by_level(tmp_path: Path) -> None:
    moshi(tmp_path)
    found, skipped = converted("moshi-finetune", tmp_path)
    assert not skipped and list(found) == ["data/x-1", "data/x-2"]
    user = found["data/x-1"]
    assert (user.user.channel, user.agent.channel) == (1, 0)  # type: ignore[union-attr]
    # Frames of 20 ms.
    heard = [(turn.start_s, turn.end_s) for turn in user.of("user")]
    assert np.allclose(heard, SPOKEN, atol=0.021)
    assert brief(user.of("agent")) == [
        ("agent", 2.4, 3.1, "a lamp"),
        ("agent", 3.35, 3.4, "see"),
    ]
    labels = slice_labels(user, SLICES)
    assert labels[4:11] == ("ignore", *["incomplete"] * 5, "response")


def test_broken_items_of_moshi_are_named(tmp_path: Path) -> None:
    moshi(tmp_path)
    talk(tmp_path / "data/y.wav")
    talk(tmp_path / "data/z.wav")
    write(tmp_path / "data/z.json", json.dumps({"alignments": [["A", 1.0, "SPEAKER_MAIN"]]}))
    corpora.sound(tmp_path / "data/mono.wav", 1.0)
    write(tmp_path / "data/mono.json", json.dumps({"alignments": []}))
    found, skipped = converted("moshi-finetune", tmp_path / "data")
    assert len(found) == 2
    details = " ".join(item.detail for item in skipped)
    assert "y.wav has no y.json beside it; write it by annotate.py" in details
    assert "z.json: alignment 0 is ['A', 1.0, 'SPEAKER_MAIN'], not [word," in details
    assert "mono.wav has 1 channels, counted from 0: there is no channel 1" in details


# ---- DuplexMamba's state items


def test_state_items_are_no_longer_lost(tmp_path: Path) -> None:
    corpora.duplexmamba(tmp_path)
    folder = tmp_path / "train/19/198"
    # Half a second of speech, then silence up to 1.5 s.
    for name in ("19-198-1", "19-198-2-cut", "19-198-3-ignore"):
        sf.write(folder / f"{name}.flac", bursts([(0.1, 0.6)], 1.5), RATE_HZ)
    sf.write(folder / "19-198-4.flac", 1e-4 * np.ones(RATE_HZ), RATE_HZ)
    with (folder / "19-198.response.txt").open("a") as file:
        file.write("19-198-4 A reply.\n19-198-5-cut -\n")
    found, skipped = converted("duplexmamba-states", tmp_path)
    labels = {id: slice_labels(item, SLICES) for id, item in found.items()}
    assert labels == {
        "19-198-1": ("incomplete",) * 3 + ("response",) + ("ignore",) * 4,
        "19-198-2-cut": ("incomplete",) * 4 + (None,) * 4,
        "19-198-3-ignore": ("ignore",) * 8,
    }
    assert {item.split for item in found.values()} == {"train"}
    reasons = {item.reason for item in skipped}
    assert "transcripts, read by make data NAME=duplexmamba" in reasons
    assert any("19-198-4.flac is silent" in item.detail for item in skipped)
    assert any(item.detail == "19-198-5-cut" for item in skipped)


# ---- otoSpeech turn


def srt(*cues: tuple[str, str, str]) -> str:
    blocks = [f"{n}\n{a} --> {b}\n{text}\n" for n, (a, b, text) in enumerate(cues, 1)]
    return "\n".join(blocks)


def oto(root: Path) -> Path:
    folder = root / "0123"
    talk(folder / "combined_audio.wav")
    one = [
        ("00:00:01,000", "00:00:02,000", "[Normal Turn] Yeah."),
        ("00:00:02,600", "00:00:02,800", "[Continuer Backchannel] Uh-huh."),
        ("00:00:04,000", "00:00:05,000", "[Floor-taking Competitive Interruption] But look!"),
    ]
    two = [
        ("00:00:02,400", "00:00:03,400", "[Bounded Response] A lamp."),
        ("00:00:03,600", "00:00:03,800", "[Laughter] (laughs)"),
        ("00:00:04,200", "00:00:04,400", "[Non-floor Taking Cooperative Interruption] Oh."),
        ("00:00:05,500", "00:00:05,800", "[Awkward Silence]"),
    ]
    write(folder / "speaker_1_annotation_a.srt", srt(*one))
    write(folder / "speaker_2_annotation_a.srt", srt(*two))
    write(folder / "metadata.json", json.dumps({"task_id": 1, "speaker_1_actor_id": "a7"}))
    return folder


def test_labels_of_otospeech_win(tmp_path: Path) -> None:
    oto(tmp_path)
    found, skipped = converted("oto-turn", tmp_path)
    assert not skipped and list(found) == ["0123-1", "0123-2"]
    first, second = found.values()
    assert [(turn.who, turn.kind, turn.text) for turn in first.turns] == [
        ("user", "question", "yeah"),
        ("agent", "answer", "a lamp"),
        ("user", "backchannel", "uh huh"),
        ("agent", "other", "laughs"),
        ("user", "interruption", "but look"),
    ]
    assert first.turns[0].label == "Normal Turn" and first.speakers == {"a7"}
    assert second.excluded == ((4.2, 4.4),) and not first.excluded
    labels = slice_labels(first, SLICES)
    assert labels[5:11] == (*["incomplete"] * 5, "response") and labels[13] == "ignore"


def test_broken_annotations_of_otospeech_are_named(tmp_path: Path) -> None:
    path = oto(tmp_path) / "speaker_2_annotation_a.srt"
    path.write_text(path.read_text().replace("Laughter", "Laughing"))
    _, [skipped] = converted("oto-turn", tmp_path)
    assert f"{path}, line 6: label 'Laughing' is none of Normal Turn," in skipped.detail
    path.unlink()
    _, [skipped] = converted("oto-turn", tmp_path)
    assert f"{path} is missing; fetch the annotations" in skipped.detail


# ---- Seamless Interaction


def seamless(root: Path) -> Path:
    folder = root / "improvised/dev/0000"
    for name, spans, words in (
        ("V00_S0001_I00000002_P0003A", SPOKEN, [("what", 1.1, 1.4), ("now", 4.1, 4.9)]),
        ("V00_S0001_I00000002_P0004", [(2.4, 3.4)], [("lamps", 2.5, 3.0)]),
    ):
        sf.write(write(folder / f"{name}.wav", b""), bursts(spans, 6.0), RATE_HZ)
        transcript = [
            {
                "start": words[0][1],
                "end": 5.5,
                "transcript": " ".join(word for word, *_ in words),
                "words": [{"word": w, "start": a, "end": b, "score": 0.9} for w, a, b in words],
            }
        ]
        voiced = [{"start": start_s, "end": end_s} for start_s, end_s in spans]
        notes = {"id": name, "metadata:transcript": transcript, "metadata:vad": voiced}
        write(folder / f"{name}.json", json.dumps(notes))
    return folder


def test_participants_of_an_interaction_are_paired(tmp_path: Path) -> None:
    folder = seamless(tmp_path)
    found, skipped = converted("seamless", tmp_path)
    assert not skipped and list(found) == ["V00_S0001_I00000002-1", "V00_S0001_I00000002-2"]
    first, _ = found.values()
    assert brief(first.turns) == [
        ("user", 1.0, 2.0, "what"),
        ("agent", 2.4, 3.4, "lamps"),
        ("user", 4.0, 5.0, "now"),
    ]
    assert first.speakers == {"P0003A", "P0004"} and first.split == "dev"
    assert first.agent is not None and first.agent.audio == folder / (
        "V00_S0001_I00000002_P0004.wav"
    )


def test_participants_without_a_partner_or_a_common_clock_are_named(tmp_path: Path) -> None:
    path = seamless(tmp_path) / "V00_S0001_I00000002_P0004.wav"
    path.with_suffix(".json").write_text("{}")
    [skipped] = converted("seamless", tmp_path)[1]
    assert "P0004.json must have metadata:transcript and metadata:vad" in skipped.detail
    sf.write(path, bursts([(2.4, 3.4)], 5.0), RATE_HZ)
    [skipped] = converted("seamless", tmp_path)[1]
    assert "lasts 6.00 s and V00_S0001_I00000002_P0004.wav 5.00 s" in skipped.detail
    path.unlink()
    [skipped] = converted("seamless", tmp_path)[1]
    assert "V00_S0001_I00000002 has 1 participants where a conversation has two" in skipped.detail


# ---- clips in parquet


def clips(path: Path, **columns: list[Any]) -> Path:
    """Rows with an encoded sound of 2 s each, as `datasets` writes them."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    count = len(columns["id"])
    sounds = [{"bytes": corpora.encoded(2.0), "path": None}] * count
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"audio": sounds, "language": ["eng"] * count, **columns}
    parquet.write_table(pa.table(rows), path, row_group_size=1)
    return path


def test_clips_of_smart_turn_are_complete_or_not(tmp_path: Path) -> None:
    clips(tmp_path / "data/train-00000.parquet", id=["a", "b"], endpoint_bool=[True, False])
    found, skipped = converted("smart-turn", tmp_path)
    assert not skipped and {item.split for item in found.values()} == {"train"}
    assert slice_labels(found["a"], SLICES) == ("incomplete",) * 9 + ("response",)
    assert slice_labels(found["b"], SLICES) == ("incomplete",) * 10
    assert found["b"].turns[0].label == "incomplete"


def test_turns_of_eot_bench_have_pauses(tmp_path: Path) -> None:
    silences = [{"start": 0.5, "end": 0.9}, {"start": 1.4, "end": 2.0}]
    file = clips(
        tmp_path / "validation-0.parquet",
        id=["t", "u"],
        silence_spans=[silences, []],
        duration=[2.0, 2.0],
    )
    found, [skipped] = converted("eot-bench", file)
    assert slice_labels(found["t"], SLICES) == (*["incomplete"] * 7, "response", "ignore", "ignore")
    assert found["t"].turns[0].pauses == ((0.5, 0.9),)
    assert "silence_spans of u is empty; remove the row" in skipped.detail
    with pytest.raises(ValueError, match="has no column endpoint_bool; its columns are audio"):
        converted("smart-turn", file)


def speech_in(path: Path, samples: np.ndarray, rate_hz: int = 16_000) -> list[Any]:
    sf.write(path, samples, rate_hz)
    return speech_spans(Side(path, None), len(samples) / rate_hz)


def test_clicks_and_hiss_are_no_speech(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hiss = 1e-3 * rng.standard_normal(32_000)
    assert speech_in(tmp_path / "a.wav", hiss[:10]) == []
    assert speech_in(tmp_path / "a.wav", hiss) == []
    hiss[8000:9600] += 0.1 * np.sin(np.arange(1600) * 0.3)
    hiss[20_000:20_010] = 0.5
    assert np.allclose(speech_in(tmp_path / "a.wav", hiss), [(0.5, 0.6)])


@pytest.mark.parametrize("rate_hz", [11_025, 48_000])
def test_speech_is_found_at_any_rate_and_block(tmp_path: Path, rate_hz: int) -> None:
    # 12 s are more than one block; frames of 20 ms are no whole number of samples at 11,025 Hz
    samples = np.zeros(12 * rate_hz)
    samples[11 * rate_hz : 11 * rate_hz + rate_hz // 2] = 0.1
    assert np.allclose(speech_in(tmp_path / "a.wav", samples, rate_hz), [(11.0, 11.5)], atol=0.02)


# ---- make data


def test_make_data_writes_manifest_and_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fisher(tmp_path / "calls")
    folder = main(["fisher", str(tmp_path / "calls"), *TINY, f"run.dir={tmp_path / 'runs'}"])
    assert folder == tmp_path / "runs/data/fisher"
    read, skipped = read_conversations(folder)
    assert [item.id for item in read] == ["call-1", "call-2"] and not skipped
    numbers = json.loads((folder / "report.json").read_text())
    # The reply of 2.4 s follows after 0.4 s; "i see now" of 4.0 s after 0.6 s.
    assert numbers["offset_median_s"] == numbers["gap_median_s"] == pytest.approx(0.5)
    assert numbers["gap_share"] == 1.0 and "overlap_median_s" not in numbers
    # Two ends with a reply in 12 s of two sides.
    assert numbers["turn_ends_per_minute"] == pytest.approx(10.0)
    assert numbers["train/conversations"] == 2 and numbers["unusable"] == 0
    page, screen = (folder / "report.html").read_text(), capsys.readouterr().out
    assert "median gap (s)" in page and "0.38 (CANDOR)" in page and "<rect" in page
    assert "median gap (s)" in screen and "too small to hold any out" in screen
    assert "src=" not in page


def test_too_many_broken_conversations_fail_after_the_report(tmp_path: Path) -> None:
    side = Side(talk(tmp_path / "c.wav"), 0)
    turns = [said("user", 1.0, 2.0), said("agent", 2.4, 3.4)]
    good = conversation(*turns, duration_s=6.0, user=side, agent=None)
    late = conversation(*turns, id="late", duration_s=9.0, user=side, agent=None)
    write_conversations([good, late], tmp_path / MANIFEST)
    runs = tmp_path / "runs"
    args = ["conversations", str(tmp_path), *TINY, f"run.dir={runs}"]
    with pytest.raises(ValueError, match="1 of 2 files .* more than data.max_bad_share=0.05"):
        main(args)
    assert (
        "c.wav ends at 6.00 s, 3.00 s before"
        in (runs / "data/conversations/report.html").read_text()
    )
    main([*args, "data.max_bad_share=0.5"])
    assert [item.id for item in read_conversations(runs / "data/conversations")[0]] == ["c-1"]


def test_names_of_corpora_select_their_format() -> None:
    assert format_of("ami") is CONVERSATION_FORMATS["two-channel-cuts"]
    assert format_of("librispeech") is None
    with pytest.raises(ValueError, match="ROOT= does not exist; give moshi-finetune's stereo"):
        main(["moshi-finetune", "", *TINY])


def test_the_default_slices_label_conversations(config: Any) -> None:
    labels = slice_labels(conversation(said("user", 1.0, 2.0, answered=True)), Slices.of(config))
    assert labels.count("response") == 1


# ---- CANDOR


TURN_ROWS = """turn_id,speaker,start,stop,utterance,interval,n_words
0,ann,1.0,2.0,"So, what is it?",,4
1,bob,2.4,3.4,A lamp.,0.4,2
2,ann,2.9,3.1,Mhm.,-0.5,1
3,ann,4.0,5.0,I see now what you mean.,0.6,6
"""
BACKCHANNEL_ROWS = (
    "turn_id,speaker,start,stop,utterance,backchannel,backchannel_count,"
    "backchannel_speaker,backchannel_start,backchannel_stop\n"
    "0,ann,1.0,2.0,So what is it,,0,,,\n"
    "1,bob,2.4,3.4,A lamp,Mhm,1,ann,2.9,3.1\n"
)


def candor(root: Path, channels: str = '{"L": "ann", "R": "bob"}', rows: str = TURN_ROWS) -> None:
    stereo = np.stack([bursts(SPOKEN, 6.0), bursts([(2.4, 3.4)], 6.0)], axis=1)
    (root / "c1/processed").mkdir(parents=True)
    sf.write(root / "c1/processed/c1.mp3", stereo, RATE_HZ, format="MP3")
    write(root / "c1/processed/channel_map.json", channels)
    write(root / "c1/transcription/transcript_audiophile.csv", rows)
    write(root / "c1/transcription/transcript_backbiter.csv", BACKCHANNEL_ROWS)


def test_candor_has_turns_of_one_table_and_backchannels_of_the_other(tmp_path: Path) -> None:
    candor(tmp_path)
    found, skipped = converted("candor", tmp_path)
    assert not skipped and list(found) == ["c1-1", "c1-2"]
    first = found["c1-1"]
    assert brief(first.turns) == [
        ("user", 1.0, 2.0, "so what is it"),
        ("agent", 2.4, 3.4, "a lamp"),
        ("user", 2.9, 3.1, "mhm"),
        ("user", 4.0, 5.0, "i see now what you mean"),
    ]
    assert [turn.kind for turn in first.of("user")] == [None, "backchannel", None]
    assert first.user.channel == 0 and found["c1-2"].user.channel == 1


@pytest.mark.parametrize(
    ("channels", "rows", "problem"),
    [
        ('{"L": "ann"}', TURN_ROWS, r'channel_map.json must be {"L": user, "R": user}'),
        ('{"L": "ann", "R": "ann"}', TURN_ROWS, "names ann for both channels"),
        ('{"L": "ann", "R": "eve"}', TURN_ROWS, "speaker='bob' is none of ann, eve"),
        ('{"L": "ann", "R": "bob"}', TURN_ROWS.replace("5.0", "x"), "line 5: stop='x' must be"),
        ('{"L": "ann", "R": "bob"}', "speaker,start\n", "has no column stop, utterance"),
    ],
)
def test_broken_conversations_of_candor_are_named(
    tmp_path: Path, channels: str, rows: str, problem: str
) -> None:
    candor(tmp_path, channels, rows)
    if "eve" in channels:
        (tmp_path / "c1/transcription/transcript_backbiter.csv").write_text(
            BACKCHANNEL_ROWS.splitlines()[0] + "\n"
        )
    _, [skipped] = converted("candor", tmp_path)
    assert re.search(problem, skipped.detail)


# ---- Easy-Turn


EASY_TURN = {
    "a": "请问今天天气<COMPLETE>",
    "b": "我想<INCOMPLETE>",
    "c": "嗯<BACKCHANNEL>",
    "d": "别说了<WAIT>",
    "e": "你好<DONE>",
}


def test_clips_of_easy_turn_have_one_of_four_states(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    for key in EASY_TURN:
        sf.write(tmp_path / f"wavs/{key}.wav", bursts([(0.2, 1.0)], 1.5), RATE_HZ)
    rows = [{"key": key, "wav": f"wavs/{key}.wav", "txt": text} for key, text in EASY_TURN.items()]
    rows.append({"key": "f", "wav": "wavs/f.wav", "txt": "<WAIT>"})
    write(tmp_path / "train.jsonl", lines(rows))
    found, skipped = converted("easy-turn", tmp_path)
    kinds = [(item.turns[0].kind, item.turns[0].answered) for item in found.values()]
    assert kinds == [
        ("question", True),
        ("question", False),
        ("backchannel", None),
        ("talking_to_other", None),
    ]
    assert found["a"].turns[0].label == "COMPLETE" and "<" not in found["a"].turns[0].text
    last = [slice_labels(item, SLICES)[-3:] for item in found.values()]
    assert "response" in last[0] and "response" not in (*last[1], *last[2], *last[3])
    assert [item.reason == "unusable" for item in skipped] == [True, False]
    assert "ends with none of <COMPLETE>" in skipped[0].detail


def test_clips_of_easy_turn_lie_in_shards_with_or_without_a_list(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", bursts([(0.2, 1.0)], 1.5), RATE_HZ)
    write(tmp_path / "a.txt", EASY_TURN["a"])
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set/0.tar", "w") as tar:
        for name in ("a.wav", "a.txt"):
            tar.add(tmp_path / name, name)
    found, skipped = converted("easy-turn", tmp_path / "set")
    assert not skipped and isinstance(found["a"].user.audio, TarSource)
    write(tmp_path / "set/data.list", lines([{"key": "a", "wav": "x/a.wav", "txt": "x<WAIT>"}]))
    found, skipped = converted("easy-turn", tmp_path / "set")
    assert not skipped and found["a"].turns[0].label == "WAIT"


# ---- HumDial-FDBench


SEGMENTS = [(1.0, 2.0, "what is it"), (4.0, 5.0, "and where")]


def humdial(root: Path, scenario: str, segments: Any = SEGMENTS) -> dict[str, Conversation]:
    folder = root / "en_test_nondev" / scenario
    folder.mkdir(parents=True)
    notes = [{"xmin": start_s, "xmax": end_s, "text": text} for start_s, end_s, text in segments]
    for name in ("ann_01", "clean_ann_01"):
        sf.write(folder / f"{name}.wav", bursts(SPOKEN, 6.0), RATE_HZ)
        write(folder / f"{name}.json", json.dumps({"speech_segments": notes}))
    found, skipped = converted("humdial", root)
    return found if not skipped else {item.detail: None for item in skipped}


@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [
        ("ask", [("question", True), ("interruption", True)]),
        ("backchannel", [("question", True), ("backchannel", None)]),
        ("talk_to_others", [("question", True), ("talking_to_other", None)]),
        ("others_talk_to_user_before", [("background_speech", None), ("question", True)]),
        ("pause", [("question", True)]),
        ("wait", [("question", True)]),
    ],
)
def test_scenarios_of_humdial_say_what_segments_are(
    tmp_path: Path, scenario: str, kinds: list[tuple[str, bool | None]]
) -> None:
    [item] = humdial(tmp_path, scenario).values()
    assert [(turn.kind, turn.answered) for turn in item.turns] == kinds
    assert item.language == "en" and item.agent is None and item.split == "test"
    if scenario == "pause":
        assert item.turns[0].pauses == ((2.0, 4.0),) and item.turns[0].end_s == 5.0
    assert bool(item.excluded) == (scenario == "wait")


def test_unknown_scenarios_and_clips_without_speech_are_named(tmp_path: Path) -> None:
    [problem] = humdial(tmp_path / "a", "singing")
    assert "is none of the scenarios ask" in problem
    [problem] = humdial(tmp_path / "b", "ask", [])
    assert "there is no speech; remove it" in problem
