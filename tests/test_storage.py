"""Reading over an unreliable network: shards and parquet in parts, retries, and error messages."""

import dataclasses
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.corpus import UnusableAudio
from datamodules.sources import storage
from datamodules.sources.audio_sources import RemoteSource, TarSource
from datamodules.sources.corpus_manifest import ManifestCorpus, open_source
from datamodules.sources.storage import read_bytes
from tests import corpora
from tests.corpora import DATA, RATE_HZ, encoded, read_corpus, source, write

pytest.importorskip("aiohttp")
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # aiohttp's
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # connections dropped on purpose
]


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder, with ranges; the next `drops` responses are incomplete."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.drops, self.sent = folder, 0, 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Clients that close the connection are expected."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        byte_range = self.headers.get("Range")
        first, last = 0, len(content) - 1
        if byte_range:
            a, _, b = byte_range.removeprefix("bytes=").partition("-")
            first, last = int(a), min(int(b or last), last)
        part = content[first : last + 1]
        self.send_response(206 if byte_range else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if byte_range:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if not body:
            return
        if self.server.drops > 0:
            self.server.drops -= 1
            part = part[: len(part) // 2]
            self.close_connection = True
        self.server.sent += len(part)
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(storage, "WAITS_S", (0.0, 0.0, 0.0))
    server = Server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_tar_shards_are_read_by_ranges(server: Server, tmp_path: Path) -> None:
    corpora.webdataset(tmp_path)
    near = sorted(read_corpus(tmp_path / "train-000000.tar")[0], key=lambda e: e.id)
    far = sorted(read_corpus(f"{server.url}/train-{{000000..000000}}.tar")[0], key=lambda e: e.id)
    assert [(e.id, e.text, e.duration_s) for e in far] == [
        (e.id, e.text, e.duration_s) for e in near
    ]
    server.sent = 0
    samples = [ManifestCorpus(entries, RATE_HZ, 0.1, 5.0)[0].samples for entries in (near, far)]
    assert (samples[0] == samples[1]).all()
    assert server.sent == far[0].path.size  # the one sound, and nothing else of the shard


def test_parquet_is_read_by_ranges(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    corpora.parquet(tmp_path)
    far = source(
        f"{server.url}/train-00000-of-00001.parquet", kind="huggingface", split={"train": "train"}
    )
    opened, survey = open_source(far, DATA, RATE_HZ)
    train = opened["train"]
    assert survey.splits["train"].utterances == 3 and train.groups is not None
    names = {train.entries[i].id: i for i in range(3)}
    whole = train[names[min(names)]]
    assert len(whole.samples) == RATE_HZ and whole.text == "one"
    with pytest.raises(UnusableAudio, match="parquet:1:0 is broken"):
        train[names[max(names)]]


def test_manifests_and_their_audio_may_be_urls(server: Server, tmp_path: Path) -> None:
    write(tmp_path / "a.flac", encoded(1.0))
    for audio in ("a.flac", f"{server.url}/a.flac"):
        write(tmp_path / "m.jsonl", f'{{"audio": "{audio}", "text": "Hi", "duration": 1.0}}\n')
        [entry], _ = read_corpus(f"{server.url}/m.jsonl")
        assert entry.path == RemoteSource(f"{server.url}/a.flac")
        assert len(ManifestCorpus([entry], RATE_HZ, 0.1, 5.0)[0].samples) == RATE_HZ


def test_an_incomplete_response_is_retried(server: Server, tmp_path: Path) -> None:
    content = write(tmp_path / "a.bin", bytes(range(256)) * 100).read_bytes()
    server.drops = 3
    assert read_bytes(f"{server.url}/a.bin", 100, 20000) == content[100:20000] and server.drops == 0


def test_incomplete_responses_are_retried_while_a_shard_is_searched(
    server: Server, tmp_path: Path
) -> None:
    corpora.webdataset(tmp_path)
    server.drops = 3
    entries, skipped = read_corpus(f"{server.url}/train-000000.tar")
    assert [e.id for e in entries] == ["000", "001"] and server.drops == 0
    assert [s.reason for s in skipped].count("unusable") == 1  # the broken sound in it


def test_a_file_is_named_after_too_many_incomplete_responses(
    server: Server, tmp_path: Path
) -> None:
    write(tmp_path / "a.flac", encoded(1.0))
    server.drops = 100
    with pytest.raises(UnusableAudio, match=f"{server.url}/a.flac cannot be read, tried 4 times"):
        RemoteSource(f"{server.url}/a.flac").read()
    assert server.drops == 96


def test_a_missing_file_is_not_retried(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda s: pytest.fail("waited"))
    with pytest.raises(UnusableAudio, match="none.flac is missing"):
        RemoteSource(f"{server.url}/none.flac").read()
    with pytest.raises(
        ValueError, match="holds nothing usable; left out: 1 unusable .*none.tar is missing"
    ):
        read_corpus(f"{server.url}/none.tar")


def test_a_failed_disk_read_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, failures = (
        write(tmp_path / "a.bin", b"0123456789"),
        [OSError(5, "Input/output error")] * 2,
    )
    monkeypatch.setattr(storage, "WAITS_S", (0.0, 0.0, 0.0))

    def fail_twice(*args: object) -> object:
        if failures:
            raise failures.pop()
        return path.open("rb")

    monkeypatch.setattr(storage, "open", fail_twice, raising=False)
    member = TarSource(str(path), "x", 2, 3)
    assert member.read() == b"234" and not failures
    with pytest.raises(UnusableAudio, match="is cut off: 1 of 3 bytes are there"):
        dataclasses.replace(member, start=9).read()
