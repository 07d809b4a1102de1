"""Wrong input of users: a result, a counted skip, or an error with a remedy; never
wrong in silence."""

import dataclasses
import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from datamodules.sources.bandwidth import narrow_band_notes, sample_rates
from datamodules.sources.corpus_manifest import open_sources
from datamodules.sources.manifest_entry import summarise_skipped
from duplexmamba.text.metrics import exact_match
from duplexmamba.text.tokenizer import Tokenizer, normalise
from tests.corpora import (
    DATA,
    RATE_HZ,
    open_corpora,
    read_corpus,
    shard,
    sound,
    source,
    tone,
    write,
)

APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0Mac OS X        \xb0\xa3\xff"


def texts(path: Path) -> list[str]:
    return sorted(entry.text for entry in read_corpus(path)[0])


def left_out(path: Path) -> str:
    return "; ".join(summarise_skipped(read_corpus(path)[1]))


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as raised:
        read_corpus(path)
    return str(raised.value)


def manifest(root: Path, *rows: dict, name: str = "manifest.jsonl") -> Path:
    for number in range(3):
        sound(root / f"{number}.wav", 1.0)
    return write(root / name, "".join(json.dumps(row) + "\n" for row in rows))


def row(text: object = "good morning", **more: object) -> dict:
    return {"audio": "0.wav", "text": text, **more}


# --- text ---


@pytest.mark.parametrize("missing", [float("nan"), None, "NaN", "  ", "<NA>"])
def test_a_missing_transcript_is_counted_and_not_learnt(tmp_path: Path, missing: object) -> None:
    path = manifest(tmp_path, row(), row(missing, id="gone"))
    assert texts(path) == ["good morning"] and "1 without text (gone)" in left_out(path)


@pytest.mark.parametrize("odd", [["a", "b"], {"en": "a"}, True])
def test_a_transcript_that_is_no_text_is_counted(tmp_path: Path, odd: object) -> None:
    path = manifest(tmp_path, row(), row(odd))
    assert texts(path) == ["good morning"] and "manifest.jsonl, row 2" in left_out(path)


def test_numbers_and_line_separators_are_part_of_a_transcript(tmp_path: Path) -> None:
    path = manifest(tmp_path, row(42), row("one\u2028two\x85three\x0cfour"))
    assert texts(path) == ["42", "one two three four"]
    sound(tmp_path / "1/1-1-0.flac", 1.0)
    write(tmp_path / "1/1-1.trans.txt", "\ufeff1-1-0 ONE\u2028TWO\x0cTHREE\r\n")
    assert texts(tmp_path / "1") == ["one two three"]


@pytest.mark.parametrize("apostrophe", "’‘ʼ`´′＇")
def test_apostrophes_are_one(apostrophe: str) -> None:
    assert normalise(f"Don{apostrophe}t") == "don't"
    assert normalise(f"{apostrophe}quoted{apostrophe}") == "quoted"


@pytest.mark.parametrize("invisible", ["\u00ad", "\u200b", "\u200d", "\u2060", "\ufeff"])
def test_invisible_characters_do_not_part_words(invisible: str) -> None:
    assert normalise(f"soft{invisible}ware") == "software"


@pytest.mark.parametrize(
    "marker", ["<|endoftext|>", "<|response|>", "<|im_end|>", "<|endof<|user|>text|>"]
)
def test_markers_in_answers_are_never_encoded(tmp_path: Path, marker: str) -> None:
    tokenizer = Tokenizer.train([" write the word end", " it is five"] * 20)
    special = {tokenizer.eos_id, *tokenizer.turn_state_ids.values()}
    said = f"the marker {marker} follows"
    assert not special & set(tokenizer.encode_response(said)[:-1])
    [entry] = read_corpus(manifest(tmp_path, row(answer=said)))[0]
    assert tokenizer.decode(tokenizer.encode_response(said)) == entry.answer
    assert exact_match([(said, entry.answer)]) == 1


def test_white_space_is_no_error() -> None:
    assert exact_match([("It is five.\nAnything  else?", "It is five. Anything else?")]) == 1
    assert exact_match([("It is five.", "It is six.")]) == 0


@pytest.mark.parametrize("damaged", ["caf\ufffd", "donâ€™t", "cafÃ©"])
def test_damaged_letters_are_counted_and_not_learnt(tmp_path: Path, damaged: str) -> None:
    path = manifest(tmp_path, row(), row(damaged, id="broken"))
    assert texts(path) == ["good morning"] and "damaged letters; write" in left_out(path)


def test_characters_of_web_pages_are_read(tmp_path: Path) -> None:
    path = manifest(tmp_path, row("don&#39;t say &lt;unk&gt; &amp; go"))
    assert texts(path) == ["don't say go"]


@pytest.mark.parametrize("missing", ["nan", "None", "NULL", "N/A"])
def test_words_for_no_transcript_are_counted(tmp_path: Path, missing: str) -> None:
    path = manifest(tmp_path, row(answer="None"), row(missing))
    assert texts(path) == ["good morning"] and "1 without text" in left_out(path)
    assert read_corpus(path)[0][0].answer == "None"


def test_half_characters_and_keys_that_occur_twice_are_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, row())
    problems = {'"id": "\\ud800"': "half a character", '"text": "b"': "key text twice"}
    for field, problem in problems.items():
        write(path, '{"audio": "0.wav", "text": "a", ' + field + "}")
        assert "manifest.jsonl, line 1: " in refusal(path) and problem in refusal(path)


# --- tables ---


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('0.wav,"seven apples\n1.wav,thank you\n', "line 2: unexpected end of data"),
        ('0.wav,"seven\n1.wav,thank you"\n', "line 2: a quotation mark opens"),
        ("0.wav,hi\n1.wav,close, please\n", "line 3: 3 columns where the header has 2"),
        ('0.wav,"a" b\n', "line 2: "),
    ],
)
def test_a_row_that_is_not_as_meant_is_named(tmp_path: Path, table: str, problem: str) -> None:
    manifest(tmp_path)
    (tmp_path / "manifest.jsonl").unlink()
    write(tmp_path / "metadata.csv", "file_name,transcription\n" + table)
    assert f"metadata.csv, {problem}" in refusal(tmp_path) and "quotation marks" in refusal(
        tmp_path
    )


def test_long_fields_line_breaks_and_quotes_are_read(tmp_path: Path) -> None:
    manifest(tmp_path)
    (tmp_path / "manifest.jsonl").unlink()
    rows = ['0.wav,"one, two\nthree ""four""",', "1.wav,five," + "x " * 70_000]
    write(tmp_path / "metadata.csv", "\ufefffile_name,text,answer\n" + "\n".join(rows) + "\n")
    entries, _ = read_corpus(tmp_path)
    assert [entry.text for entry in entries] == ["one two three four", "five"]
    assert len(entries[1].answer.split()) == 70_000


@pytest.mark.parametrize(
    "table", ["audio;text\n0.wav;hi\n", "audio|text\n0.wav|hi\n", "sep=,\naudio,text\n0.wav,hi\n"]
)
def test_other_separators_are_named(tmp_path: Path, table: str) -> None:
    assert "m.csv, line 1: " in refusal(write(tmp_path / "m.csv", table))
    assert "commas" in refusal(tmp_path / "m.csv")


def test_rows_without_file_names_are_not_swallowed(tmp_path: Path) -> None:
    table = 'id,audio,text\na1,0.wav,hi\na2,1.wav,"hello\na3,x,"\n'
    assert "line 3: a quotation mark opens" in refusal(write(tmp_path / "m.csv", table))


def test_quotation_marks_of_a_tsv(tmp_path: Path) -> None:
    manifest(tmp_path)
    path = tmp_path / "m.tsv"
    write(path, 'audio\ttext\tanswer\n0.wav\thi\t"He said ""hi"""\n')
    assert read_corpus(path)[0][0].answer == 'He said "hi"'
    write(path, 'audio\ttext\n0.wav\t"hello\nworld"\n')
    assert "m.tsv, line 2: a quotation mark opens" in refusal(path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "audio,text,text\n0.wav,a,b\n")
    assert "line 1: two columns are called 'text'" in refusal(path)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le"])
def test_other_encodings_are_named_with_the_remedy(tmp_path: Path, encoding: str) -> None:
    for number in range(2):
        sound(tmp_path / f"{number}.wav", 1.0)
    write(tmp_path / "0.txt", "good morning")
    write(tmp_path / "1.txt", "café".encode(encoding))
    assert "1.txt" in refusal(tmp_path) and "save" in refusal(tmp_path)
    lines = '{"audio": "0.wav", "text": "good"}\n{"audio": "1.wav", "text": "café"}\n'
    write(tmp_path / "manifest.jsonl", lines.encode(encoding))
    assert "manifest.jsonl" in refusal(tmp_path) and "UTF-8" in refusal(tmp_path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps(row()).encode() * 50, mtime=0)
    for content in (whole[:-9], whole[:20] + bytes(9) + whole[29:], b"no gzip"):
        path = write(tmp_path / "m.jsonl.gz", content)
        assert "m.jsonl.gz cannot be unpacked" in refusal(path)


@pytest.mark.parametrize(("name", "content"), [
    ("m.jsonl", "no object\n"), ("m.json", "[1]"), ("m.json", "{"), ("m.csv", "audio,text\n0.wav,a,b\n"),
    ("m.tsv", "audio\ttext\n0.wav\ta\tb\n"),
])  # fmt: skip
def test_what_is_packed_is_named_as_it_lies_there(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / f"{name}.gz", gzip.compress(content.encode()))
    assert f"{name}.gz" in refusal(path)
    # and is wrong for the reason that it has unpacked
    unpacked = refusal(write(tmp_path / name, content))
    assert refusal(path).replace(f"{name}.gz", name) == unpacked


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    manifest(tmp_path)
    packed = gzip.compress(json.dumps(row()).encode())
    for name in ("m.jsonl", "m.jsonl.GZ"):
        assert texts(write(tmp_path / name, packed)) == ["good morning"]
    assert "packed with zip" in refusal(write(tmp_path / "m.jsonl.zip", b"PK\3\4"))


def test_one_manifest_in_two_formats_is_refused(tmp_path: Path) -> None:
    manifest(tmp_path, row())
    write(tmp_path / "manifest.csv", "audio,text\n0.wav,hi\n")
    assert "manifest.csv and manifest.jsonl" in refusal(tmp_path)


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        path = manifest(tmp_path, row(f"of {split}"), name=f"{split}_manifest.json")
    assert texts(path) == ["of test"]
    entries, _ = read_corpus(tmp_path)
    assert {entry.split for entry in entries} == {"train", "valid", "test"}
    assert "item 1: not a JSON object" in refusal(write(tmp_path / "x.json", "[1]"))


# --- rows ---


def test_audio_may_be_an_object_with_a_path(tmp_path: Path) -> None:
    audio = {"path": "0.wav", "sampling_rate": 16_000}
    assert texts(manifest(tmp_path, row(audio=audio))) == ["good morning"]
    for odd in ([0.1, 0.2], {"array": [0.1]}, 7):
        assert "row 1: audio is" in refusal(manifest(tmp_path, row(audio=odd)))


@pytest.mark.parametrize("channel", ["1", 1.0, 1])
def test_channels_may_be_text(tmp_path: Path, channel: object) -> None:
    [entry] = read_corpus(manifest(tmp_path, row(channel=channel)))[0]
    assert entry.channel == 1
    assert "channel='left'" in refusal(manifest(tmp_path, row(channel="left")))


@pytest.mark.parametrize("field", ["duration", "offset"])
def test_times_that_are_none_are_missing_or_refused(tmp_path: Path, field: str) -> None:
    for missing in (float("nan"), None, "", "nan"):
        [entry] = read_corpus(manifest(tmp_path, row(**{field: missing})))[0]
        assert (entry.start_s, entry.duration_s) == (0, None)
    for odd in (-1, float("inf"), "1:30"):
        assert f"row 1: {field}=" in refusal(manifest(tmp_path, row(**{field: odd})))


@pytest.mark.parametrize("key", ["remote", "member", "cell", "cut"])
def test_columns_with_names_of_locations(tmp_path: Path, key: str) -> None:
    for value in (True, "x", [1], {"a": 1}):
        assert texts(manifest(tmp_path, row(**{key: value}))) == ["good morning"]


def test_segments_by_columns_that_are_not_read_are_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, row(start=0.0, end=0.5), row("thank you", start=0.5, end=1.0))
    assert "0.wav stands in several rows, and end, start are not read" in refusal(path)


@pytest.mark.parametrize(("value", "wanted"), [(True, "true"), (1.0, "1"), (None, "null")])
def test_where_takes_values_as_json_writes_them(tmp_path: Path, value: object, wanted: str) -> None:
    path = manifest(tmp_path, row(x=value), row("thank you", x="other"))
    [entry] = read_corpus(path, where={"x": wanted})[0]
    assert entry.text == "good morning"


def test_durations_in_milliseconds_are_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, row(duration=1000))
    with pytest.raises(ValueError, match="divide milliseconds by 1000"):
        open_corpora(path, RATE_HZ, 0.1, 30)


def test_paths_of_other_systems_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sound(tmp_path / "c/wavs/0.wav", 1.0)
    decomposed = sound(tmp_path / "c/wavs/e\u03011.wav", 1.0)
    for name in ("wavs\\0.wav", "~/c/wavs/0.wav", "wavs/\u00e91.wav", "wavs\\\u00e91.wav"):
        path = write(tmp_path / "c/manifest.jsonl", json.dumps(row(audio=name)))
        [entry] = read_corpus(path)[0]
        assert Path(entry.path).is_file()
    assert Path(entry.path) == decomposed


def test_train_keeps_nothing_that_is_scored(tmp_path: Path) -> None:
    rows = [row("a", split="test"), row("b", split="train"), row(audio="1.wav", split="train")]
    corpora, survey = open_corpora(manifest(tmp_path, *rows), RATE_HZ, 0.1, 30)
    assert len(corpora["train"]) == 1 and "1 in train and in valid or test" in str(survey)


def test_train_keeps_no_part_of_what_is_scored(tmp_path: Path) -> None:
    part = row("b", split="test", offset=0.1, duration=0.5)
    rows = [row("a", split="train", duration=1.0), part, row(audio="1.wav", split="train")]
    rows.append(row("v", audio="2.wav", split="valid"))
    path = manifest(tmp_path, *rows, row("c", audio="link.wav", split="train", channel=0))
    (tmp_path / "link.wav").symlink_to("0.wav")
    corpora, survey = open_corpora(path, RATE_HZ, 0.1, 30)
    assert len(corpora["train"]) == 1 and "2 in train and in valid or test" in str(survey)


def test_train_keeps_nothing_that_another_source_scores(tmp_path: Path) -> None:
    path = manifest(tmp_path, row("a"), row("b", audio="1.wav"))
    scored = manifest(tmp_path, row("a"), name="scored.jsonl")
    sources = {"a": source(path, split={"train": "x"}), "b": source(scored, split={"test": "x"})}
    write(path, path.read_text().replace("}", ', "split": "x"}'))
    write(scored, scored.read_text().replace("}", ', "split": "x"}'))
    data = dataclasses.replace(DATA, sources=sources, min_s=0.1)
    corpora, survey = open_sources(data, RATE_HZ)["a"]
    assert [entry.text for entry in corpora["train"].entries] == ["b"]
    assert survey.splits["train"].utterances == 1 and "left out of train" in str(survey)


# --- layouts of other projects ---

SUPERVISION = {"id": "s", "recording_id": "r", "start": 0, "duration": 1.0, "text": "hi"}
RECORDING = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "0.wav"}]}
CUT = {"id": "c", "start": 0, "supervisions": [SUPERVISION], "recording": RECORDING}


@pytest.mark.parametrize(
    "change",
    [{"start": None}, {"supervisions": 7}, {"recording": {}}, {"supervisions": [{"id": "s"}]}],
)
def test_cuts_that_lack_a_field_are_named(tmp_path: Path, change: dict) -> None:
    assert texts(manifest(tmp_path, CUT, name="cuts.jsonl")) == ["hi"]
    path = manifest(tmp_path, CUT | change, name="cuts.jsonl")
    assert "cuts.jsonl: after 0 items comes one that is not as lhotse writes it" in refusal(path)


def test_times_that_are_no_seconds_are_counted(tmp_path: Path) -> None:
    for odd in ({"duration": float("nan")}, {"start": -0.5}):
        cut = CUT | {"supervisions": [SUPERVISION, SUPERVISION | odd]}
        path = manifest(tmp_path, cut, name="cuts.jsonl")
        assert texts(path) == ["hi"] and "1 with a start or length" in left_out(path)


def test_tables_of_published_corpora_that_lack_a_field_are_named(tmp_path: Path) -> None:
    audios = [{"path": "0.wav", "segments": [{"sid": "a", "begin_time": 0}]}]
    path = write(tmp_path / "GigaSpeech.json", json.dumps({"audios": audios}))
    sound(tmp_path / "0.wav", 1.0)
    assert "GigaSpeech.json: after 0 items" in refusal(path)
    clips = tmp_path / "cv/clips"
    sound(clips / "0.mp3", 1.0)
    for name in ("train", "dev", "test"):
        write(tmp_path / f"cv/{name}.tsv", "client_id\tsentence\na\thi\n")
    assert "dev.tsv, row 1: no path" in refusal(tmp_path / "cv")


# --- folders and shards ---


def test_files_of_macos_are_passed_over(tmp_path: Path) -> None:
    files = {}
    for name in ("0", "1"):
        sound(tmp_path / f"a/{name}.wav", 1.0)
        write(tmp_path / f"a/{name}.txt", f"words {name}")
        for suffix in ("wav", "txt"):
            path = tmp_path / f"a/{name}.{suffix}"
            write(tmp_path / f"a/._{name}.{suffix}", APPLE_DOUBLE)
            write(tmp_path / f"a/__MACOSX/{name}.{suffix}", APPLE_DOUBLE)
            files |= {f"._{path.name}": APPLE_DOUBLE, path.name: path.read_bytes()}
    assert texts(tmp_path / "a") == ["words 0", "words 1"] and not left_out(tmp_path / "a")
    shard(tmp_path / "b/train.tar", files)
    write(tmp_path / "b/._train.tar", APPLE_DOUBLE)
    assert texts(tmp_path / "b") == ["words 0", "words 1"] and not left_out(tmp_path / "b")
    manifest(tmp_path / "c", row())
    write(tmp_path / "c/._manifest.jsonl", APPLE_DOUBLE)
    assert texts(tmp_path / "c") == ["good morning"]


def test_links_in_circles_are_not_followed(tmp_path: Path) -> None:
    sound(tmp_path / "a/0.wav", 1.0)
    write(tmp_path / "a/0.txt", "once")
    (tmp_path / "a/again").symlink_to(tmp_path)
    assert texts(tmp_path) == ["once"]


def test_links_into_each_other_are_read_once(tmp_path: Path) -> None:
    for name in "ab":
        sound(tmp_path / f"{name}/{name}.wav", 1.0)
        write(tmp_path / f"{name}/{name}.txt", name)
    (tmp_path / "a/x").symlink_to("../b")
    (tmp_path / "b/y").symlink_to("../a")
    assert texts(tmp_path) == ["a", "b"]


def test_what_a_folder_has_beside_its_pairs_is_counted(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 1.0)
    sound(tmp_path / "a.flac", 1.0)
    write(tmp_path / "a.txt", "hi")
    write(tmp_path / "b.txt", "lost")
    sound(tmp_path / "c.wav", 1.0)
    write(tmp_path / "c.lab", "0 2500000 sil\n2500000 5000000 hello\n")
    assert texts(tmp_path) == ["hi"]
    for reason in ("without audio", "of the same name", "that is not text"):
        assert reason in left_out(tmp_path)


def test_file_names_that_are_not_utf_8_are_counted(tmp_path: Path) -> None:
    sound(tmp_path / "0.wav", 1.0)
    write(tmp_path / "0.txt", "hi")
    odd = os.fsdecode(b"caf\xe9")
    sound(tmp_path / "1.wav", 1.0).rename(tmp_path / f"{odd}.wav")
    write(tmp_path / "1.txt", "ho").rename(tmp_path / f"{odd}.txt")
    assert texts(tmp_path) == ["hi"] and "not UTF-8; rename it" in left_out(tmp_path)


def test_dots_and_links_in_names_of_a_shard(tmp_path: Path) -> None:
    encoded = sound(tmp_path / "0.wav", 1.0).read_bytes()
    files = {
        "s.1.wav": encoded,
        "s.1.txt": b"one",
        "s.2.wav": encoded,
        "s.2.txt": b"two",
        "3.txt": b"three",
    }
    path = shard(tmp_path / "train.tar", files)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("3.wav")
        link.type, link.linkname = tarfile.LNKTYPE, "s.1.wav"
        tar.addfile(link)
    corpora, _ = open_corpora(path, RATE_HZ, 0.1, 30)
    lengths = {}
    for corpus in corpora.values():
        lengths |= {corpus[n].text: len(corpus[n].samples) for n in range(len(corpus))}
    assert lengths == dict.fromkeys(("one", "two", "three"), RATE_HZ)


@pytest.mark.parametrize("suffix", ["m4a", "webm", "AMR", "wv", "mkv"])
def test_formats_that_are_not_read_are_counted(tmp_path: Path, suffix: str) -> None:
    for number in range(2):
        write(tmp_path / f"{number}.{suffix}", b"\0\0\0\40ftypM4A ")
        write(tmp_path / f"{number}.txt", "words")
    assert "2 in m4a or another unread format" in refusal(tmp_path)
    sound(tmp_path / "2.wav", 1.0)
    write(tmp_path / "2.txt", "read")
    assert texts(tmp_path) == ["read"] and f"0.{suffix}" in left_out(tmp_path)
    path = manifest(tmp_path, row(audio=f"0.{suffix}", duration=1.0), row(audio="2.wav"))
    _, survey = open_corpora(path, RATE_HZ, 0.1, 30)
    assert "ffmpeg" in survey.unusable[0]


def test_members_of_a_shard_may_stand_apart(tmp_path: Path) -> None:
    encoded = sound(tmp_path / "0.wav", 1.0).read_bytes()
    texts_first = {f"{n}.json": json.dumps({"text": f"words {n}"}).encode() for n in range(3)}
    sounds = {f"{n}.wav": encoded for n in range(3)}
    path = shard(tmp_path / "train.tar", texts_first | sounds)
    assert texts(path) == ["words 0", "words 1", "words 2"] and not left_out(path)
    bad = shard(tmp_path / "bad.tar", {"0.txt": "café".encode("cp1252"), **sounds, "1.txt": b"a"})
    assert texts(bad) == ["a"] and "bad.tar:0.txt, line 1: byte 0xe9" in left_out(bad)
    for name in ("x.tar.gz", "folder/x.tgz"):
        file = write(tmp_path / "packed" / name, gzip.compress(path.read_bytes()))
        assert "compressed tar" in refusal(file) and "gunzip" in refusal(tmp_path / "packed")


def test_parquet_of_samples_is_refused_by_name(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    samples = [0.1, -0.1] * 50
    for kind, cell in (("list", samples), ("struct", {"array": samples}), ("number", 7)):
        table = pa.table({"audio": [cell], "text": ["good morning"]})
        (tmp_path / kind).mkdir()
        pq.write_table(table, tmp_path / kind / "train.parquet")
        assert "train.parquet: column audio holds" in refusal(tmp_path / kind)


# --- sound files ---


def whole_and_cut(path: Path, kind: str, subtype: str, share: float) -> tuple[Path, Path]:
    samples = tone(6.0) + 0.01 * np.random.default_rng(0).standard_normal(6 * RATE_HZ)
    file = io.BytesIO()
    sf.write(file, samples, RATE_HZ, format=kind, subtype=subtype)
    content = file.getvalue()
    write(path.with_stem("whole"), content)
    return path.with_stem("whole"), write(path, content[: round(share * len(content))])


@pytest.mark.parametrize(
    ("suffix", "kind", "subtype"),
    [
        ("opus", "OGG", "OPUS"),
        ("ogg", "OGG", "VORBIS"),
        ("sph", "NIST", "PCM_16"),
        ("aiff", "AIFF", "PCM_16"),
        ("au", "AU", "PCM_16"),
        ("wav", "WAV", "GSM610"),
        ("flac", "FLAC", "PCM_16"),
        ("w64", "W64", "PCM_16"),
        ("caf", "CAF", "PCM_16"),
    ],
)
def test_files_that_are_cut_are_named(tmp_path: Path, suffix: str, kind: str, subtype: str) -> None:
    for share in (0.5, 0.9):
        whole, cut = whole_and_cut(tmp_path / f"cut.{suffix}", kind, subtype, share)
        limits = {"min_s": 0, "max_s": 100}
        assert abs(len(read_audio(whole, RATE_HZ, **limits)) / RATE_HZ - 6) < 0.1
        with pytest.raises(UnusableAudio, match=r"cut\.\w+ is (truncated|broken|empty)"):
            read_audio(cut, RATE_HZ, **limits)


def test_a_segment_of_a_file_without_seeking(tmp_path: Path) -> None:
    whole, _ = whole_and_cut(tmp_path / "gsm.wav", "WAV", "GSM610", 1)
    everything = read_audio(whole, RATE_HZ, min_s=0, max_s=100)
    segment = read_audio(whole, RATE_HZ, 2.0, 1.0, min_s=0, max_s=100)
    np.testing.assert_array_equal(segment, everything[2 * RATE_HZ : 3 * RATE_HZ])


def test_channels_in_opposite_phase_are_heard(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    sf.write(file, np.stack([tone(1.0), -tone(1.0)], 1), RATE_HZ)
    assert np.abs(read_audio(file, RATE_HZ, min_s=0, max_s=9)).max() > 0.05


def test_channels_that_nearly_cancel_and_constant_sound(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    sf.write(file, np.stack([0 * tone(1.0), tone(1.0), -0.999 * tone(1.0)], 1), RATE_HZ)
    assert np.abs(read_audio(file, RATE_HZ, min_s=0, max_s=9)).max() > 0.05
    sf.write(file, np.full(RATE_HZ, 0.3), RATE_HZ)
    with pytest.raises(UnusableAudio, match="silent"):
        read_audio(file, RATE_HZ, min_s=0, max_s=9)


def test_formats_that_do_not_show_a_cut_are_refused(tmp_path: Path) -> None:
    sf.write(tmp_path / "x.voc", tone(1.0), RATE_HZ, format="VOC", subtype="PCM_16")
    with pytest.raises(UnusableAudio, match="format VOC.*convert it"):
        read_audio(tmp_path / "x.voc", RATE_HZ, min_s=0, max_s=9)


def test_a_second_stream_of_an_ogg_file_is_named(tmp_path: Path) -> None:
    whole, _ = whole_and_cut(tmp_path / "x.opus", "OGG", "OPUS", 1)
    content = bytearray(whole.read_bytes())
    # another serial number on each page of the copy
    first = bytes(content)
    start = content.find(b"OggS")
    while start >= 0:
        content[start + 14] ^= 1
        start = content.find(b"OggS", start + 1)
    path = write(tmp_path / "chained.opus", first + bytes(content))
    with pytest.raises(UnusableAudio, match="another stream follows"):
        read_audio(path, RATE_HZ, min_s=0, max_s=99)


def test_recordings_of_less_bandwidth_than_the_models_are_said(tmp_path: Path) -> None:
    rates_hz = sample_rates([sound(tmp_path / "0.wav", 1.0), tmp_path / "none.wav"])
    assert rates_hz == {RATE_HZ: 1} and narrow_band_notes(rates_hz, RATE_HZ) == []
    [note] = narrow_band_notes(rates_hz, 16_000)
    assert "1 of 1 files have less than 16,000 Hz" in note and "band_limit" in note
