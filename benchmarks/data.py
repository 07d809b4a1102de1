"""Speed of the data path: utterances per second on one core, and the share of a training step that
waits for data.

    python benchmarks/data.py [--json FILE] [--utterances 400] [--steps 40]

The same files are read by DuplexMamba and by the plain loaders of lhotse, webdataset and datasets.
DuplexMamba draws utterances in random order and checks every sound; the other loaders read in file
order.
"""

import argparse
import dataclasses
import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import lhotse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import torch
import webdataset
from lhotse.shar import SharWriter
from measure import arguments, interleave, machine, median, save, show

from configs.loading import load_config
from datamodules.corpora import Corpora
from datamodules.sources.corpus_manifest import open_source
from lightning_modules.assembly import build

PRESET = ["configs/preset/tiny.yaml", "configs/stage/encoder.yaml"]
RATE_HZ = 16000
UTTERANCE_S = 3.0
UTTERANCE_SAMPLES = int(UTTERANCE_S * RATE_HZ)
TEXT = "some words"
GROUP_SIZE = 100
"""Rows of a parquet row group, and utterances of a shard, as datasets and lhotse write them for
speech."""


def write_corpora(folder: Path, count: int) -> None:
    """Write `count` utterances of noise in every layout.

    The layouts are files with a manifest and with lhotse's cuts, Shar, tar shards, and parquet.
    """
    for name in ("files", "shar", "webdataset", "parquet"):
        (folder / name).mkdir()
    # All layouts hold the same encoded sounds, so that decoding takes the same time.
    files = _write_files(folder / "files", count)
    cuts = [_to_cut(file) for file in files]
    lhotse.CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl")
    _write_shar(folder / "shar", cuts)
    sounds = [file.read_bytes() for file in files]
    _write_tar_shards(folder / "webdataset", sounds)
    _write_parquet(folder / "parquet" / "train.parquet", sounds)


def _write_files(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    files = []
    manifest = ""
    for number in range(count):
        file = folder / f"{number}.flac"
        sf.write(file, 0.1 * rng.standard_normal(UTTERANCE_SAMPLES), RATE_HZ)
        files.append(file)
        entry = {"audio": file.name, "text": TEXT, "duration": UTTERANCE_S}
        manifest += json.dumps(entry) + "\n"
    (folder / "manifest.jsonl").write_text(manifest)
    return files


def _to_cut(file: Path) -> lhotse.MonoCut:
    id = file.stem
    cut = lhotse.Recording.from_file(file, recording_id=id).to_cut()
    cut.supervisions = [lhotse.SupervisionSegment(id, id, 0, UTTERANCE_S, text=TEXT)]
    return cut


def _write_shar(folder: Path, cuts: list[lhotse.MonoCut]) -> None:
    with SharWriter(str(folder), fields={"recording": "flac"}, shard_size=GROUP_SIZE) as writer:
        for cut in cuts:
            writer.write(cut)


def _write_tar_shards(folder: Path, sounds: list[bytes]) -> None:
    pattern = str(folder / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=GROUP_SIZE, verbose=0) as writer:
        for number, sound in enumerate(sounds):
            writer.write({"__key__": f"{number:06d}", "flac": sound, "txt": TEXT})


def _write_parquet(path: Path, sounds: list[bytes]) -> None:
    # The struct of bytes and path that `datasets` writes
    table = pa.table(
        {
            "audio": [{"bytes": sound, "path": None} for sound in sounds],
            "text": [TEXT] * len(sounds),
            "duration": [UTTERANCE_S] * len(sounds),
        }
    )
    pq.write_table(table, path, row_group_size=GROUP_SIZE)


def duplexmamba_reader(path: Path) -> Callable[[], int]:
    """Create a function that reads all utterances of a corpus once and counts their samples."""
    data = load_config(PRESET).data
    source = dataclasses.replace(data.source, path=str(path), split={"train": "train"})
    splits, _ = open_source(source, data, RATE_HZ)
    corpus = splits["train"]
    # Training reads in random order, so this is what is timed.
    order = random.Random(0).sample(range(len(corpus)), len(corpus))
    return lambda: sum(len(corpus[i].samples) for i in order)


def lhotse_files(folder: Path) -> Iterator[np.ndarray]:
    """Read the files by lhotse."""
    for cut in lhotse.load_manifest_lazy(folder / "cuts.jsonl"):
        yield cut.load_audio()


def lhotse_shar(folder: Path) -> Iterator[np.ndarray]:
    """Read Shar by lhotse."""
    for cut in lhotse.CutSet.from_shar(in_dir=folder / "shar"):
        yield cut.load_audio()


def plain_webdataset(folder: Path) -> Iterator[np.ndarray]:
    """Read tar shards by webdataset."""
    shards = sorted(str(path) for path in (folder / "webdataset").glob("*.tar"))
    utterances = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("flac", "txt")
    for sound, _ in utterances:
        yield _decode(sound)


def plain_datasets(folder: Path) -> Iterator[np.ndarray]:
    """Read parquet by datasets, row by row."""
    files = str(folder / "parquet" / "*.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    for row in rows:
        yield _decode(row["audio"]["bytes"])


def _decode(sound: bytes) -> np.ndarray:
    samples, _ = sf.read(io.BytesIO(sound), dtype="float32")
    return samples


PEERS = {
    "files": lhotse_files,
    "shar": lhotse_shar,
    "webdataset": plain_webdataset,
    "parquet": plain_datasets,
}
"""Layout -> the plain loader to compare with."""


def compare_readers(
    folder: Path, layout: str, num_utterances: int, rounds: int
) -> tuple[float, float]:
    """Utterances per second of DuplexMamba and of the plain loader, for one layout."""
    read_by_peer = PEERS[layout]
    variants: dict[str, Callable[[], int]] = {
        "ours": duplexmamba_reader(folder / layout),
        "peer": lambda: sum(samples.size for samples in read_by_peer(folder)),
    }
    # A loader that skips utterances would only seem fast.
    num_samples = num_utterances * UTTERANCE_SAMPLES
    for name, read in variants.items():
        assert read() == num_samples, name
    times = interleave(variants, rounds, layout)
    ours_per_s = 1000 * num_utterances / median(times, "ours")
    peer_per_s = 1000 * num_utterances / median(times, "peer")
    return ours_per_s, peer_per_s


def data_wait_share(num_steps: int) -> float:
    """Share of the time of a training step of preset `tiny` that waits for the next batch."""
    config = load_config([*PRESET, "data.synthetic_ramp=0"])
    torch.set_num_threads(config.trainer.threads)
    with tempfile.TemporaryDirectory() as folder:
        module, data = build(config, Corpora(config), {}, Path(folder))
    # A plain loop without Lightning, so that nothing but data and model takes time.
    optimizer = torch.optim.AdamW(p for p in module.model.parameters() if p.requires_grad)
    batches = iter(data.train_dataloader())
    waited_s = 0.0
    started_s = 0.0
    for step in range(num_steps + 1):
        waits_since_s = time.perf_counter()
        batch = next(batches)
        received_s = time.perf_counter()
        if step == 0:
            # The first batch waits for the workers to start, which is not counted.
            started_s = received_s
        else:
            waited_s += received_s - waits_since_s
        module.training_loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return waited_s / (time.perf_counter() - started_s)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--steps", type=int, default=40)
    return parser.parse_args()


def main() -> None:
    """Compare the readers, measure the waiting time, and print and save both."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    numbers: dict[str, float] = {}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpora(folder, args.utterances)
        for layout, peer in PEERS.items():
            ours_per_s, peer_per_s = compare_readers(folder, layout, args.utterances, args.rounds)
            numbers[f"{layout}/utt_per_s"] = ours_per_s
            numbers[f"{layout}/peer_utt_per_s"] = peer_per_s
            rows.append([layout, peer.__name__, f"{ours_per_s:,.0f}", f"{peer_per_s:,.0f}"])
    numbers["train/data_wait_share"] = data_wait_share(args.steps)
    print(machine())
    title = f"utterances of {UTTERANCE_S:g} s a second, one core"
    show(title, ["source", "peer", "ours", "peer's"], rows)
    print(
        "share of a training step of preset tiny that waits for data: "
        f"{numbers['train/data_wait_share']:.1%}"
    )
    save(numbers, args.json)


if __name__ == "__main__":
    main()
