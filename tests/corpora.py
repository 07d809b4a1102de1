"""Small corpora for tests, in the formats that people have."""

import dataclasses
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from configs.loading import load_config
from configs.schema import DataConfig, SourceConfig
from datamodules.sources.corpus_manifest import ManifestCorpus, Survey, open_source
from datamodules.sources.manifest_entry import Entry, Skipped
from datamodules.sources.readers import read_source
from tests.conftest import TINY

RATE_HZ = 8000
DATA: DataConfig = load_config(TINY).data


def source(path: Path | str, **more: Any) -> SourceConfig:
    """One line of data.sources."""
    return dataclasses.replace(DATA.source, path=str(path), **more)


def read_corpus(path: Path | str, **more: Any) -> tuple[list[Entry], list[Skipped]]:
    return read_source(source(path, **more))


def open_corpora(
    path: Path | str, rate_hz: int, min_s: float, max_s: float
) -> tuple[dict[str, ManifestCorpus], Survey]:
    return open_source(source(path), dataclasses.replace(DATA, min_s=min_s, max_s=max_s), rate_hz)


def tone(seconds: float, level: float = 0.1) -> np.ndarray:
    return level * np.sin(np.arange(round(seconds * RATE_HZ)) * 0.3)


def encoded(seconds: float, suffix: str = "FLAC") -> bytes:
    """A sound file."""
    file = io.BytesIO()
    sf.write(file, tone(seconds), RATE_HZ, format=suffix)
    return file.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sound(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".sph": "NIST", ".opus": "OGG"}.get(path.suffix)
    sf.write(
        path,
        tone(seconds),
        RATE_HZ,
        format=kind,
        subtype="OPUS" if path.suffix == ".opus" else None,
    )
    return path


def shard(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def mls(root: Path) -> None:
    for split in ("train", "dev", "test"):
        sound(root / split / "audio/10/20/10_20_000001.flac", 1.0)
        sound(root / split / "audio/10/20/10_20_000002.opus", 1.5)
        write(
            root / split / "transcripts.txt",
            "10_20_000001\thello there\n10_20_000002\tit's me\n10_20_3\tlost\n",
        )
        write(root / split / "segments.txt", "10_20_000001\thttp://x\t3.5\t4.5\n")


def tedlium(root: Path) -> None:
    sound(root / "data/sph/Ann_2010.sph", 4.0)
    write(root / "data/stm/Ann_2010.stm", "Ann_2010 1 Ann 0 1 <NA> not this one\n")
    for split in ("train", "dev", "test"):
        sound(root / "legacy" / split / "sph/Ann_2010.sph", 4.0)
        segments = [
            ";; a comment",
            "Ann_2010 1 Ann 0.5 1.5 <o,f0,female> hello <unk> there it 's me",
            "Ann_2010 1 Ann 1.5 2.0 <o,f0,female> ignore_time_segment_in_scoring",
            "Bob_2011 1 Bob 0 1 <NA> no sound",
        ]
        write(root / "legacy" / split / "stm/Ann_2010.stm", "\n".join(segments[:3]) + "\n")
        write(root / "legacy" / split / "stm/Bob_2011.stm", segments[3])


def commonvoice(root: Path) -> None:
    clips = root / "cv-corpus-17.0/en"
    for n, name in enumerate(("train", "dev", "test", "validated")):
        sound(clips / f"clips/{n}.mp3", 1.0)
        row = f'ann\t{n}.mp3\tHe said "Hi, {name}."\n'
        write(clips / f"{name}.tsv", "client_id\tpath\tsentence\n" + row + "ann\tnone.mp3\t\n")
    write(clips / "clip_durations.tsv", "clip\tduration[ms]\n0.mp3\t990\n")


def gigaspeech(root: Path) -> None:
    sound(root / "audio/podcast/P0/POD0.opus", 6.0)

    def segment(n: int, text: str, *subsets: str) -> dict[str, Any]:
        name = f"POD0_S{n}"
        return {
            "sid": name,
            "begin_time": n,
            "end_time": n + 1,
            "text_tn": text,
            "speaker": "N/A",
            "subsets": subsets,
        }

    said = [
        segment(0, "HELLO <COMMA> THERE <PERIOD>", "{XL}", "{M}"),
        segment(1, "BIG ONE", "{XL}"),
        segment(2, "<MUSIC>", "{XL}", "{M}"),
        segment(3, "DEVELOPED", "{DEV}"),
        segment(4, "TESTED", "{TEST}"),
    ]
    lost = [{"aid": "POD1", "path": "audio/lost.opus", "segments": [segment(9, "LOST", "{XL}")]}]
    audios = [{"aid": "POD0", "path": "audio/podcast/P0/POD0.opus", "segments": said}, *lost]
    write(root / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "audios": audios}))


def instructs2s(root: Path) -> None:
    turns = [
        {"from": "human", "text": "What is one and one?", "speech": "en/wav/0-0.wav"},
        {"from": "gpt", "text": "Two."},
        {"from": "human", "text": "And two?", "speech": "en/wav/0-1.wav"},
        {"from": "gpt", "text": "Four."},
    ]
    for n in range(2):
        sound(root / f"en/wav/0-{n}.wav", 1.0)
    write(root / "instructs2s.json", json.dumps([{"id": "q0", "conversation": turns}]))


def duplexmamba(root: Path) -> None:
    folder = root / "train/19/198"
    for id in ("asr-19-198-0", "19-198-1", "19-198-2-cut", "19-198-3-ignore"):
        sound(folder / f"{id}.flac", 1.0)
    lines = [
        "asr-19-198-0 hello there",
        "19-198-1 A reply.",
        "19-198-2-cut -",
        "19-198-3-ignore -",
        "asr-1-2-9 lost",
    ]
    write(folder / "19-198.response.txt", "\n".join(lines) + "\n")


def sidecars(root: Path) -> None:
    for split in ("train", "valid", "test"):
        sound(root / split / "a.wav", 1.0)
        write(root / split / "a.txt", "Hello there.\n")
    sound(root / "train/b.wav", 1.0)


def table(root: Path) -> None:
    sound(root / "data/a.wav", 1.0)
    write(root / "metadata.csv", 'file_name,transcription,split\ndata/a.wav,"Hello, there",train\n')


def webdataset(root: Path) -> None:
    for split in ("train", "dev", "test"):
        row = json.dumps({"text": "Hello there", "speaker": "ann"}).encode()
        shard(
            root / f"{split}-000000.tar",
            {
                "000.flac": encoded(1.0),
                "000.json": row,
                "001.wav": encoded(1.5, "WAV"),
                "001.txt": b"Two",
                "002.json": row,
                "003.flac": b"broken",
                "003.txt": b"Broken",
            },
        )


def shar(root: Path) -> None:
    """As lhotse's SharWriter lays it out."""
    for split in ("train", "dev", "test"):
        files, cuts = {}, []
        for n in range(2):
            heard = {
                "id": f"s{n}",
                "recording_id": "r",
                "start": 0.25,
                "duration": 0.5,
                "channel": 0,
                "text": "Hello",
            }
            source = {"type": "shar", "channels": [0], "source": ""}
            recording = {
                "id": "r",
                "sources": [source],
                "sampling_rate": RATE_HZ,
                "num_samples": 8000,
                "duration": 1.0,
            }
            cuts.append(
                {
                    "id": f"c.{n}",
                    "start": 0,
                    "duration": 1.0,
                    "channel": 0,
                    "supervisions": [heard],
                    "recording": recording,
                    "type": "MonoCut",
                }
            )
            files |= {f"c.{n}.flac": encoded(1.0), f"c.{n}.json": json.dumps(recording).encode()}
        shard(root / split / "recording.000000.tar", files)
        lines = "".join(json.dumps(cut) + "\n" for cut in cuts)
        write(root / split / "cuts.000000.jsonl.gz", gzip.compress(lines.encode()))


def parquet(root: Path) -> None:
    """Files as `datasets` writes them, in row groups of two."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        sounds = [
            {"bytes": encoded(1.0), "path": "a.flac"},
            {"bytes": encoded(1.5), "path": None},
            {"bytes": b"broken", "path": None},
            {"bytes": encoded(0.5), "path": None},
        ]
        rows = {
            "question": ["One?", "Two?", "Three?", ""],
            "question_audio": sounds,
            "answer": ["A.", None, "C.", "D."],
        }
        pq.write_table(pa.table(rows), root / f"{split}-00000-of-00001.parquet", row_group_size=2)
