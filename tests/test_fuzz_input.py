"""Random input: the outcome is always a result, a counted skip, or an error that names the file."""

import gzip
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.conversations.manifest import (
    CONVERSATION_FIELDS,
    TURN_FIELDS,
    read_conversations,
)
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from datamodules.sources.audio_sources import BytesSource
from serving.messages import VERSION, ConversationEnded, Heard, check_hello
from tests.corpora import RATE_HZ, encoded, open_corpora

# The same examples in each run, without a database of earlier ones and without a limit on the time
# of one example, which a busy machine would break.
FUZZ = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
KEYS = ("audio", "text", "answer", "speaker", "id", "duration", "offset", "split", "channel", "x")
KEYS += ("remote", "member", "cell", "cut", "start", "supervisions", "audios", "conversation")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["0.wav", "1.wav", "~/0.wav", "a\\0.wav", "train", "test", "nan", "\u2028"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["path", "array", "bytes"]), st.text(max_size=5), max_size=2),
)
ROWS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
SOUND = encoded(1.0, "WAV")
CODECS = [("WAV", "PCM_16"), ("WAV", "GSM610"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
CODECS += [("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("NIST", "PCM_16")]


def sound_file(kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(RATE_HZ) * 0.3)
    sf.write(file, samples, RATE_HZ, format=kind, subtype=subtype)
    return file.getvalue()


FILES = [sound_file(kind, subtype) for kind, subtype in CODECS]


def outcome(name: str, content: bytes) -> None:
    """Read a manifest of this content beside two sounds: a corpus, or an error that names it."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            (Path(folder) / f"{number}.wav").write_bytes(SOUND)
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            corpora, survey = open_corpora(path, RATE_HZ, 0.1, 30)
        except ValueError as error:
            # Subclasses, such as UnicodeError, come from libraries and name nothing.
            assert type(error) is ValueError and (name in str(error) or "duration=" in str(error))
            return
        num_kept = sum(len(corpus) for corpus in corpora.values())
        assert num_kept > 0
        assert all(skip.reason for skip in survey.skipped)
        for corpus in corpora.values():
            assert all(entry.text for entry in corpus.entries)


@FUZZ
@given(st.lists(ROWS, min_size=1, max_size=3), st.booleans(), st.binary(max_size=3), st.data())
def test_manifests(
    rows: list[dict[str, Any]], packed: bool, junk: bytes, data: st.DataObject
) -> None:
    usable = {"audio": "0.wav", "text": "good morning"}
    lines = [json.dumps({**usable, **row} if data.draw(st.booleans()) else row) for row in rows]
    content = "\n".join([json.dumps(usable), *lines]).encode()
    at = data.draw(st.integers(0, len(content)))
    content = content[:at] + junk + content[at:]
    if not packed:
        return outcome("train.jsonl", content)
    compressed = gzip.compress(content, mtime=0)
    end = data.draw(st.integers(0, len(compressed)))
    outcome("train.jsonl.gz", compressed[:end] + junk + compressed[end:])


CELLS = st.text(alphabet=st.sampled_from(list("ab \",\t\n\r'\0é.w1")), max_size=8)


@FUZZ
@given(st.lists(st.lists(CELLS, max_size=4), max_size=4), st.sampled_from(["csv", "tsv"]))
def test_tables(rows: list[list[str]], suffix: str) -> None:
    separator = "," if suffix == "csv" else "\t"
    lines = [["audio", "text", "split"], ["0.wav", "good morning", "train"], *rows]
    content = "\n".join(separator.join(line) for line in lines)
    outcome(f"m.{suffix}", content.encode())


TURN = {"who": "user", "start_s": 0.0, "end_s": 1.0, "text": "hi", "pauses": [], "words": None}
CONVERSATION = {"id": "a", "duration_s": 3.0, "user": {"path": "0.wav"}, "turns": [TURN]}
TIMES = st.one_of(VALUES, st.lists(st.lists(st.floats(), min_size=2, max_size=2), max_size=2))


@FUZZ
@given(
    st.dictionaries(st.sampled_from(CONVERSATION_FIELDS), TIMES, max_size=2),
    st.dictionaries(st.sampled_from(TURN_FIELDS), TIMES, max_size=2),
)
def test_manifests_of_conversations(changes: dict[str, Any], turn_changes: dict[str, Any]) -> None:
    record = {**CONVERSATION, "turns": [TURN | turn_changes], **changes}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conversations.jsonl"
        path.write_text(json.dumps(record))
        try:
            conversations, skipped = read_conversations(path)
        except ValueError as error:
            # Half a character, which no manifest may hold.
            assert path.name in str(error)
            return
    assert all(f"{path.name}, line 1: " in skip.detail for skip in skipped)
    for conversation in conversations:
        assert math.isfinite(conversation.duration_s)
        assert all(math.isfinite(turn.end_s - turn.start_s) for turn in conversation.turns)


@FUZZ
@given(
    st.sampled_from(FILES),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_sound_files(content: bytes, share: float, changes: list[tuple[float, int]]) -> None:
    changed = bytearray(content[: round(share * len(content))])
    for place, value in changes:
        if changed:
            changed[round(place * (len(changed) - 1))] = value
    try:
        source = BytesSource(bytes(changed), "x.wav")
        samples = read_audio(source, RATE_HZ, min_s=0, max_s=60)
    except UnusableAudio as error:
        assert "x.wav" in str(error)
        return
    assert samples.dtype == np.float32 and np.isfinite(samples).all() and len(samples)
    assert np.abs(samples).max() <= 1


JSON = st.recursive(VALUES, lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3))
HELLOS = st.fixed_dictionaries(
    {"version": st.one_of(st.just(VERSION), VALUES), "rate_hz": st.one_of(st.just(16_000), VALUES)},
    optional={"heard": VALUES},
)


@FUZZ
@given(st.one_of(st.none(), st.text(max_size=30), JSON.map(json.dumps), HELLOS.map(json.dumps)))
def test_first_messages(text: str | None) -> None:
    try:
        assert check_hello(text, 16_000) in get_args(Heard)
    except ConversationEnded as end:
        assert end.reason in ("hello", "rate") and end.code == 1008 and len(end.message) < 200
    else:
        assert text is not None
        hello = json.loads(text)
        assert hello["version"] == VERSION and hello["rate_hz"] == 16_000
