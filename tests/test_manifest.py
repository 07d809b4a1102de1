"""Folders and manifests: every supported layout, every error message, and the held-out splits."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from datamodules.corpus import UnusableAudio
from datamodules.sources import corpus_manifest as manifest
from datamodules.sources import lhotse_cuts as cuts
from datamodules.sources.corpus_manifest import Survey, check_bad_share, measure, split_entries
from datamodules.sources.duplex_cuts import OF_AGENT, UNKNOWN_ROLE
from datamodules.sources.manifest_entry import UNUSABLE, Entry, Skipped, split_of
from tests.corpora import open_corpora, read_corpus

RATE_HZ = 8000


def speak(path: Path, seconds: float = 0.5, channels: int = 1) -> str:
    """Write a sound file whose channels are soft tones around 0.1, 0.2, ...; returns its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    means = 0.1 * (1 + np.arange(channels))
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = 0.01 * np.sin(2 * np.pi * 100 * time_s)
    sf.write(path, means + tone[:, None], RATE_HZ)
    return path.name


def write_lines(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def librispeech(root: Path, speakers: list[str], utterances: int = 2, suffix: str = "flac") -> Path:
    for speaker in speakers:
        ids = [f"{speaker}-7-{n:04d}" for n in range(utterances)]
        write_lines(
            root / speaker / "7" / f"{speaker}-7.trans.txt",
            [f"{id} HELLO, IT'S {id[-1]}" for id in ids],
        )
        for id in ids:
            speak(root / speaker / "7" / f"{id}.{suffix}")
    return root


def skips(skipped) -> dict[str, list[str]]:
    return {
        reason: [s.detail for s in skipped if s.reason == reason]
        for reason in {s.reason for s in skipped}
    }


def complaint(path) -> str:
    with pytest.raises(ValueError) as caught:
        read_corpus(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def entry(id: str, speaker: str = "", split: str | None = None, **more) -> Entry:
    return Entry(id, Path(id), 0.0, 1.0, "hello", "", speaker, split, **more)


# ---- LibriSpeech layout


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_librispeech_folder(tmp_path, suffix):
    for name, speaker in {
        "train-clean-100": "19",
        "train-other-500": "20",
        "dev-clean": "84",
        "test-other": "61",
    }.items():
        librispeech(tmp_path / "LibriSpeech" / name, [speaker], suffix=suffix)
    for path in (tmp_path, tmp_path / "LibriSpeech"):
        entries, skipped = read_corpus(path)
        assert [(e.speaker, e.split) for e in entries[::2]] == [
            ("84", "valid"),
            ("61", "test"),
            ("19", "train"),
            ("20", "train"),
        ]
        assert entries[0].id == "84-7-0000" and entries[0].text == "hello it's 0" and not skipped


def test_a_librispeech_subfolder_has_no_split(tmp_path):
    entries, _ = read_corpus(librispeech(tmp_path / "train-clean-5", ["1"]))
    assert {e.split for e in entries} == {None}


def test_missing_librispeech_files_and_transcripts_are_counted(tmp_path):
    librispeech(tmp_path, ["1", "2"])
    (tmp_path / "1/7/1-7-0000.flac").unlink()
    extra = tmp_path / "2/7/2-7-0009.flac"
    speak(extra)
    with (tmp_path / "2/7/2-7.trans.txt").open("a") as lines:
        lines.write("2-7-0005\n\n")
    speak(tmp_path / "2/7/2-7-0005.flac")
    entries, skipped = read_corpus(tmp_path)
    assert [e.id for e in entries] == ["1-7-0001", "2-7-0000", "2-7-0001"]
    assert skips(skipped) == {
        "in a transcript but without audio": ["1-7-0000"],
        "audio without a transcript": [str(extra)],
        "without text": ["2-7-0005"],
    }


# ---- JSONL manifests


def test_plain_manifest(tmp_path):
    row = {
        "audio": "a/1.flac",
        "text": "What's NEW?",
        "speaker": 0,
        "duration": 0.5,
        "answer": "So-so.",
        "split": "dev",
    }
    manifest_path = write_lines(
        tmp_path / "m.jsonl", [row | {"id": "x"}, "", row | {"offset": 1.5, "split": None}]
    )
    first, second = read_corpus(manifest_path)[0]
    expected = Entry("x", tmp_path / "a/1.flac", 0.0, 0.5, "what's new", "So-so.", "0", "valid")
    assert first == expected
    assert second == dataclasses.replace(expected, id="a/1.flac@1.5", start_s=1.5, split=None)


@pytest.mark.parametrize(
    "audio, text, speaker, answer",
    [
        ("audio", "text", "speaker", "answer"),
        ("audio_filepath", "text", "speaker_id", "answer"),
        ("path", "sentence", "client_id", "answer"),
        ("wav", "transcript", "speaker", "answer"),
        ("source_wav", "source_text", "speaker", "target_text"),
    ],
)
def test_usual_columns_are_recognised(tmp_path, audio, text, speaker, answer):
    row = {audio: "/far/1.wav", text: "Hello", speaker: "ann", answer: "Hi."}
    (only,), _ = read_corpus(write_lines(tmp_path / "m.jsonl.gz", [row]))
    assert only == Entry("/far/1.wav", Path("/far/1.wav"), 0.0, None, "hello", "Hi.", "ann", None)


def test_unusable_rows_are_counted(tmp_path):
    rows = [
        {"audio": "1.wav", "text": "hello", "split": "train"},
        {"audio": "2.wav", "text": None, "split": "background"},
        {"audio": "3.wav", "text": " ?! "},
        {"audio": "4.wav"},
        {"audio": None, "text": "hello"},
        {"audio": "5.wav", "text": "hello", "split": "background"},
    ]
    entries, skipped = read_corpus(write_lines(tmp_path / "m.jsonl", rows))
    assert [e.id for e in entries] == ["1.wav"]
    assert skips(skipped) == {
        "without text": ["2.wav", "3.wav", "4.wav"],
        "in a transcript but without audio": ["m.jsonl row 5"],
        "of split 'background', which is none of train, valid and test": ["5.wav"],
    }


def test_audio_paths_may_be_relative_to_a_folder_above_the_manifest(tmp_path):
    speak(tmp_path / "corpus" / "2.wav")
    rows = [{"audio": f"corpus/{n}.wav", "text": "hello"} for n in (1, 2)]
    entries, _ = read_corpus(write_lines(tmp_path / "data/manifests/m.jsonl", rows))
    assert [e.path for e in entries] == [tmp_path / "corpus/1.wav", tmp_path / "corpus/2.wav"]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_folder_with_manifests(tmp_path, suffix):
    for name in ("train", "dev", "test"):
        write_lines(tmp_path / f"{name}.{suffix}", [{"audio": f"{name}.wav", "text": "hello"}])
    assert {e.id: e.split for e in read_corpus(tmp_path)[0]} == {
        "train.wav": "train",
        "dev.wav": "valid",
        "test.wav": "test",
    }
    write_lines(tmp_path / f"manifest.{suffix}", [{"audio": "all.wav", "text": "hello"}])
    assert [(e.id, e.split) for e in read_corpus(tmp_path)[0]] == [("all.wav", None)]


@pytest.mark.parametrize(
    "name, split",
    [
        ("train", "train"),
        ("train-clean-100", "train"),
        ("train960", "train"),
        ("dev-clean", "valid"),
        ("validation", "valid"),
        ("Test", "test"),
        ("librispeech_cuts_dev-other", "valid"),
        ("validated", None),
        ("background", None),
        ("latest", None),
        ("", None),
    ],
)
def test_split_names(name, split):
    assert split_of(name) == split


# ---- lhotse


def recording(id: str, sources: list[tuple[str, list[int]]], **more) -> dict:
    files = [
        {"type": "file", "channels": channels, "source": source} for source, channels in sources
    ]
    return {
        "id": id,
        "sources": files,
        "sampling_rate": RATE_HZ,
        "num_samples": 16000,
        "duration": 2.0,
    } | more


def supervision(id: str, start: float = 0.0, duration: float = 1.0, **more) -> dict:
    named = {"recording_id": "r", "channel": 0, "text": "Hello.", "speaker": "ann"}
    return {"id": id, "start": start, "duration": duration} | named | more


def cut(id: str, supervisions: list[dict], of: dict, start: float = 0.0) -> dict:
    return {
        "id": id,
        "start": start,
        "duration": 2.0,
        "channel": 0,
        "supervisions": supervisions,
        "recording": of,
    }


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "cuts.jsonl", "x_cuts_train-a.jsonl.gz"])
def test_lhotse_cuts(tmp_path, name):
    rows = [
        cut(
            "one", [supervision("s1", custom={"answer": "Hi."})], recording("r", [("a.flac", [0])])
        ),
        cut(
            "two",
            [supervision("s2", -0.5), supervision("s3", 0.5)],
            recording("r", [("b.flac", [0])]),
            start=1.0,
        ),
    ]
    path = write_lines(tmp_path / name, rows)
    entries, _ = read_corpus(tmp_path if "cuts" in name else path)
    assert [(e.id, e.path.name, e.start_s, e.duration_s) for e in entries] == [
        ("s1", "a.flac", 0.0, 1.0),
        ("s2", "b.flac", 0.5, 1.0),
        ("s3", "b.flac", 1.5, 1.0),
    ]
    assert entries[0].text == "hello" and entries[0].speaker == "ann" and entries[0].answer == "Hi."
    assert {e.split for e in entries} == {"train" if "train" in name else None}


def test_lhotse_channels(tmp_path):
    speak(tmp_path / "stereo.wav", 2.0, channels=2)
    stereo, split = (
        recording("r", [("stereo.wav", [0, 1])]),
        recording("r", [("l.wav", [0]), ("r.wav", [1])]),
    )
    three = [
        supervision("left", channel=0),
        supervision("right", channel=1),
        supervision("both", channel=[0, 1]),
    ]
    rows = [cut("a", three, stereo), cut("b", [supervision("own file", channel=1)], split)]
    entries, _ = read_corpus(write_lines(tmp_path / "c.jsonl", rows))
    assert [e.channel for e in entries] == [0, 1, None, None] and entries[3].path.name == "r.wav"
    corpus = manifest.ManifestCorpus(entries, RATE_HZ, 0.1, 5.0)
    assert [round(float(corpus[n].samples.mean()), 2) for n in range(3)] == [0.1, 0.2, 0.15]


def nemo_cut(id: str, supervisions: list[dict], **more) -> dict:
    """A duplex cut as NVIDIA NeMo reads it: the agent's audio lies apart."""
    target = recording(f"{id}-agent", [("agent.wav", [0])])
    whole = cut(id, supervisions, recording("r", [("user.wav", [0])]))
    return whole | {"custom": {"target_audio": target}} | more


SPOKEN_BY_ROLE = [
    supervision("greeting", 0.0, 0.2, speaker="Assistant", text="Welcome."),
    supervision("q1", 0.2, 0.5, speaker="User", text="<|3|> One? <|7|>"),
    supervision("a1", 0.8, 0.3, speaker="Assistant", text="<|11|> A <|12|> one."),
    supervision("a2", 1.1, 0.2, speaker="agent", text="Yes."),
    supervision("q2", 1.3, 0.5, speaker="user", text="Two?"),
    supervision("x", 1.8, 0.1, speaker="passer-by", text="Hey."),
]


@pytest.mark.parametrize("has_target_audio", [True, False])
def test_an_agents_words_are_never_paired_with_the_users_audio(tmp_path, has_target_audio):
    duplex = nemo_cut("c", SPOKEN_BY_ROLE)
    if not has_target_audio:
        del duplex["custom"]
    entries, skipped = read_corpus(write_lines(tmp_path / "c.jsonl", [duplex]))
    assert [(e.id, e.path.name, e.text, e.answer) for e in entries] == [
        ("q1", "user.wav", "one", "A one. Yes."),
        ("q2", "user.wav", "two", ""),
    ]
    assert skips(skipped) == {OF_AGENT: [""] * 3, UNKNOWN_ROLE: ["x"]}


def test_roles_in_channels_of_their_own_are_speakers(tmp_path):
    stereo = recording("r", [("calls.wav", [0, 1])])
    spoken = [supervision("q", speaker="user"), supervision("a", speaker="agent", channel=1)]
    entries, skipped = read_corpus(write_lines(tmp_path / "c.jsonl", [cut("c", spoken, stereo)]))
    assert [(e.id, e.channel) for e in entries] == [("q", 0), ("a", 1)] and not skipped


def test_shar_and_transformed_duplex_cuts_pair_the_users_words_alone(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    speak(tmp_path / "user.wav", 2.0)
    speak(tmp_path / "agent.wav", 2.0)
    duplex = lhotse.Recording.from_file(tmp_path / "user.wav", recording_id="r").to_cut()
    duplex.target_audio = lhotse.Recording.from_file(tmp_path / "agent.wav", recording_id="a")
    for row in SPOKEN_BY_ROLE[:5]:
        duplex.supervisions.append(lhotse.SupervisionSegment.from_dict(row))
    (tmp_path / "shar").mkdir()
    fields = {"recording": "flac", "target_audio": "flac"}
    lhotse.CutSet.from_cuts([duplex]).to_shar(tmp_path / "shar", fields=fields)
    entries, _ = read_corpus(tmp_path / "shar")
    assert [(e.id, e.text, e.answer) for e in entries] == [
        ("q1", "one", "A one. Yes."),
        ("q2", "two", ""),
    ]
    padded = duplex.pad(duration=3.0)
    lhotse.CutSet.from_cuts([padded]).to_file(tmp_path / "c.jsonl")
    [whole], _ = read_corpus(tmp_path / "c.jsonl")
    assert (whole.text, whole.answer) == ("one two", "A one. Yes.")


def test_cuts_that_need_lhotse_are_counted_without_lhotse(tmp_path, monkeypatch):
    monkeypatch.setattr(cuts.importlib.util, "find_spec", lambda name: None)
    plain = recording("r", [("a.wav", [0])])
    in_memory = plain | {"sources": [{"type": "memory", "channels": [0], "source": "UklGRg=="}]}
    rows = [
        cut("fine", [supervision("fine")], plain),
        cut("slow", [supervision("slow")], plain | {"transforms": [{"name": "Speed"}]}),
        cut("memory", [supervision("memory")], in_memory),
        {"id": "mixed", "tracks": [], "type": "MixedCut"},
        cut("wordless", [], plain),
    ]
    entries, skipped = read_corpus(write_lines(tmp_path / "c.jsonl", rows))
    assert [e.id for e in entries] == ["fine"]
    assert skips(skipped) == {
        cuts.NEEDS_LHOTSE: ["slow", "memory", "mixed"],
        "without text": ["wordless"],
    }


def test_lhotse_reads_mixed_and_transformed_cuts(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    speak(tmp_path / "a.wav", 2.0)
    plain = lhotse.Recording.from_file(tmp_path / "a.wav", recording_id="r").to_cut()
    supervision = lhotse.SupervisionSegment("s", "r", 0.0, 1.0, text="Hello", speaker="ann")
    one = plain.truncate(duration=1.0)
    one.supervisions = [supervision]
    mixed = one.pad(duration=1.5).mix(plain, offset_other_by=0.5)
    mixed.id = "mixed"
    quick = one.perturb_speed(2.0)
    quick.id = "quick"
    lhotse.CutSet.from_cuts([mixed, quick]).to_file(tmp_path / "c.jsonl")
    corpora, _ = open_corpora(tmp_path / "c.jsonl", RATE_HZ, 0.1, 5.0)
    utterances = {
        u.id: u for corpus in corpora.values() for u in (corpus[i] for i in range(len(corpus)))
    }
    assert {id: (u.text, len(u.samples) / RATE_HZ) for id, u in utterances.items()} == {
        "mixed": ("hello", 2.5),
        "quick": ("hello", 0.5),
    }
    assert utterances["mixed"].samples[6000] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    "name, split", [("recordings.jsonl", None), ("libri_recordings_dev-clean.jsonl.gz", "valid")]
)
def test_lhotse_recordings_and_supervisions(tmp_path, name, split):
    write_lines(
        tmp_path / name, [recording("r", [("a.wav", [0])]), recording("mute", [("b.wav", [0])])]
    )
    rows = [supervision("s1"), supervision("s2", 1.0), supervision("lost", recording_id="gone")]
    write_lines(tmp_path / name.replace("recordings", "supervisions"), rows)
    entries, skipped = read_corpus(tmp_path)
    assert [(e.id, e.start_s, e.path, e.split) for e in entries] == [
        ("s1", 0.0, tmp_path / "a.wav", split),
        ("s2", 1.0, tmp_path / "a.wav", split),
    ]
    assert skips(skipped) == {
        "in a transcript but without audio": ["lost"],
        "audio without a transcript": ["mute"],
    }


# ---- complaints


def test_errors_about_folders(tmp_path):
    assert "does not exist; give a LibriSpeech-layout folder" in complaint(tmp_path / "nowhere")
    assert "holds no speech; understood are a LibriSpeech-layout folder" in complaint(tmp_path)
    speak(tmp_path / "deep" / "a.mp3")
    assert "holds audio but no transcripts; understood are" in complaint(tmp_path)
    write_lines(tmp_path / "recordings.jsonl", [recording("r", [("a.wav", [0])])])
    assert "put supervisions.jsonl there" in complaint(tmp_path)


def test_errors_about_manifests(tmp_path):
    path = tmp_path / "m.jsonl"
    for bad in ("{'audio': 1}", "[1]", "\x00\xff"):
        write_lines(path, [{"audio": "a.wav", "text": "hello"}, bad])
        assert "line 2: not a JSON object" in complaint(path)
    write_lines(path, [])
    assert "is empty" in complaint(path)
    write_lines(path, [{"clip": "a.wav", "text": "hello"}])
    assert (
        "no line has a key for audio; its keys are clip, text; give one of audio, audio_filepath"
        in complaint(path)
    )
    write_lines(path, [{"audio": "a.wav", "words": "hello"}])
    assert (
        "no line has a key for text; its keys are audio, words; give one of text, transcript"
        in complaint(path)
    )
    write_lines(path, [{"audio": f"{n}.wav", "text": None} for n in range(4)])
    assert "holds nothing usable; left out: 4 without text (0.wav, 1.wav, 2.wav, ...)" in complaint(
        path
    )


def test_broken_gzip(tmp_path):
    path = write_lines(
        tmp_path / "m.jsonl.gz", [{"audio": f"{n}.wav", "text": "hello"} for n in range(999)]
    )
    path.write_bytes(path.read_bytes()[:-50])
    assert "cannot be unpacked" in complaint(path)


def test_a_manifest_whose_files_are_all_unusable_is_rejected(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", [{"audio": "gone.wav", "text": "hello"}])
    with pytest.raises(
        ValueError, match="nothing usable; left out: 1 unusable .*gone.wav is missing"
    ):
        open_corpora(path, RATE_HZ, 0.1, 5.0)


# ---- measuring and reading


def test_open_corpora(tmp_path):
    rows = [
        {"audio": speak(tmp_path / f"{n}.wav", 0.5), "text": "Hello", "speaker": f"s{n}"}
        for n in range(9)
    ]
    rows += [
        {"audio": speak(tmp_path / "long.wav", 3.0), "text": "Hello"},
        {"audio": speak(tmp_path / "short.wav", 0.05), "text": "Hello"},
        {"audio": "gone.wav", "text": "Hello", "duration": 1.0},
        {"audio": speak(tmp_path / "empty.wav", 0.0), "text": "Hello"},
    ]
    corpora, survey = open_corpora(write_lines(tmp_path / "m.jsonl", rows), 16000, 0.1, 2.0)
    assert [len(corpora[name]) for name in ("train", "valid", "test")] == [7, 1, 1]
    utterance = corpora["valid"][0]
    assert utterance.samples.shape == (8000,) and utterance.samples.dtype == np.float32
    assert utterance.text == "hello" and utterance.speaker[0] == "s" and utterance.answer == ""
    assert corpora["valid"].duration_s(0) == 0.5 and corpora["valid"].qa_pair(0) == ("hello", "")
    assert skips(survey.skipped) == {
        "over data.max_s=2": ["long.wav: 3.00 s"],
        "under data.min_s=0.1": ["short.wav: 0.05 s"],
        "unusable": survey.unusable,
    }
    assert [sentence.split("/")[-1] for sentence in survey.unusable] == [
        "gone.wav is missing",
        "empty.wav is empty, or its header does not say how long it is",
    ]
    lines = str(survey).splitlines()
    assert lines[0].split() == ["train", "7", "utterances", "0.00", "h", "7", "speakers"]
    assert "left out: 1 over data.max_s=2 (long.wav: 3.00 s)" in lines
    assert lines[-1] == "the corpus gives no valid and no test: held out of train, whole speakers"


def test_the_first_utterances_of_a_split_are_from_many_speakers(tmp_path):
    librispeech(tmp_path / "train", ["1", "2", "3"])
    corpora, _ = open_corpora(
        librispeech(tmp_path / "test", list("abcdef"), 10).parent, RATE_HZ, 0.1, 2.0
    )
    assert len({corpora["test"][n].speaker for n in range(10)}) > 3


def test_problems_that_only_decoding_detects_are_raised_by_indexing(tmp_path):
    sf.write(tmp_path / "mute.wav", np.zeros(8000), RATE_HZ)
    corpora, survey = open_corpora(
        write_lines(tmp_path / "m.jsonl", [{"audio": "mute.wav", "text": "hello"}]),
        RATE_HZ,
        0.1,
        2.0,
    )
    assert not survey.unusable
    with pytest.raises(UnusableAudio, match=r"mute.wav is silent"):
        corpora["train"][0]


def test_headers_are_read_only_where_the_manifest_has_no_duration(tmp_path, monkeypatch):
    speak(tmp_path / "a.wav", 2.0)
    rows = [
        {"audio": "a.wav", "text": "hello", "duration": 1.25},
        {"audio": "a.wav", "text": "hello", "offset": 0.5},
    ]
    measured_paths = []
    monkeypatch.setattr(
        manifest, "audio_duration_s", lambda path: measured_paths.append(path) or 2.0
    )
    entries, _ = measure(read_corpus(write_lines(tmp_path / "m.jsonl", rows))[0], 0.1, 5.0)
    assert [e.duration_s for e in entries] == [1.25, 1.5] and len(measured_paths) == 1


def test_the_share_of_unusable_files_is_checked():
    def survey(good: int, bad: int) -> Survey:
        facts = {"train": manifest.SplitFacts(good, 1.0, 1)}
        return Survey(facts, [Skipped(UNUSABLE, f"{n}.flac is broken") for n in range(bad)], [])

    check_bad_share(survey(95, 5), 0.05)
    with pytest.raises(ValueError) as caught:
        check_bad_share(survey(88, 12), 0.05)
    assert str(caught.value) == (
        "12 of 100 files (12.0 %) cannot be used, more than data.max_bad_share=0.05: "
        "0.flac is broken; "
        "1.flac is broken; 2.flac is broken; ...; mend or remove them, or raise data.max_bad_share"
    )


# ---- held-out splits


def test_the_splits_of_the_corpus_are_used_and_other_entries_join_train():
    entries = [
        entry(name, name, split)
        for name, split in zip("abcd", ["train", "valid", "test", None], strict=True)
    ]
    splits, notes = split_entries(entries)
    assert {name: [e.id for e in held] for name, held in splits.items()} == {
        "train": ["a", "d"],
        "valid": ["b"],
        "test": ["c"],
    }
    assert not notes


def test_valid_is_held_out_of_train_if_the_corpus_has_only_test():
    entries = [entry(f"{n}", f"s{n // 2}", "test" if n < 4 else "train") for n in range(100)]
    splits, notes = split_entries(entries)
    assert splits["test"] == entries[:4] and splits["valid"]
    assert {e.speaker for e in splits["valid"]}.isdisjoint(e.speaker for e in splits["train"])
    assert notes == ["the corpus gives no valid: held out of train, whole speakers"]


def test_a_corpus_with_only_test_has_no_other_split():
    splits, notes = split_entries([entry("a", "a", "test")])
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [0, 0, 1] and not notes


@given(st.lists(st.text(max_size=5), min_size=3, max_size=60, unique=True), st.integers(1, 4))
def test_no_speaker_is_in_two_splits_and_no_split_is_empty(speakers, utterances):
    splits, _ = split_entries([entry(f"{s}{n}", s) for s in speakers for n in range(utterances)])
    voices = [{e.speaker for e in held} for held in splits.values()]
    assert all(voices) and sum(map(len, voices)) == len(speakers)
    assert sum(map(len, splits.values())) == len(speakers) * utterances


def test_about_five_percent_are_held_out():
    splits, _ = split_entries([entry(str(n), str(n)) for n in range(2000)])
    assert all(80 < len(splits[name]) < 120 for name in ("valid", "test"))


def test_held_out_speakers_stay_held_out_when_files_and_speakers_are_added():
    def split_by_speaker(speakers: int, utterances: int) -> dict[str, str]:
        splits, _ = split_entries(
            [entry(f"{s}-{n}", f"s{s}") for s in range(speakers) for n in range(utterances)]
        )
        return {e.speaker: name for name, held in splits.items() for e in held}

    assert split_by_speaker(200, 1) == split_by_speaker(200, 3)
    assert split_by_speaker(200, 1).items() <= split_by_speaker(400, 2).items()


@pytest.mark.parametrize("speaker", ["", "only one"])
def test_with_few_speakers_single_utterances_are_held_out(speaker):
    splits, notes = split_entries([entry(str(n), speaker) for n in range(300)])
    assert all(5 < len(splits[name]) < 30 for name in ("valid", "test"))
    assert notes[0].endswith(
        "held out of train, single utterances, since it names fewer than 3 speakers"
    )


@pytest.mark.parametrize("key", ["duration", "offset"])
def test_a_time_that_is_not_a_number_is_named_with_its_row(tmp_path: Path, key: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(
        json.dumps({"audio": "a.wav", "text": "hello", key: "long"})
    )
    with pytest.raises(ValueError, match=f"row 1: {key}='long' is not a number of seconds"):
        read_corpus(tmp_path)
