"""Utterances a second on one core, ours and the plain loaders of lhotse, webdataset and datasets on
the same files, and the share of a training step that is spent waiting for data.

    python benchmarks/data.py [--json FILE] [--utterances 400] [--steps 40]

Ours draws utterances in random order, and checks and trims every sound; the others go through them
in theirs.
"""

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
RATE_HZ, SECONDS = 16000, 3.0
GROUP = 100
"""Rows in a row group of parquet, utterances in a shard: as datasets and lhotse make them for
speech."""


def make(folder: Path, count: int) -> None:
    """Write utterances as files with a manifest and with lhotse's, as tar shards, as Shar, and
    as parquet."""
    for name in ("files", "shar", "webdataset", "parquet"):
        (folder / name).mkdir()
    rng, cuts, rows, sounds = np.random.default_rng(0), [], [], []
    for n in range(count):
        file = folder / "files" / f"{n}.flac"
        sf.write(file, 0.1 * rng.standard_normal(int(SECONDS * RATE_HZ)), RATE_HZ)
        cut = lhotse.Recording.from_file(file, recording_id=str(n)).to_cut()
        cut.supervisions = [
            lhotse.SupervisionSegment(str(n), str(n), 0, SECONDS, text="some words")
        ]
        cuts.append(cut)
        rows.append({"audio": file.name, "text": "some words", "duration": SECONDS})
        sounds.append({"bytes": file.read_bytes(), "path": None})
    (folder / "files" / "manifest.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    lhotse.CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl")
    with SharWriter(str(folder / "shar"), fields={"recording": "flac"}, shard_size=GROUP) as shar:
        for cut in cuts:
            shar.write(cut)
    with webdataset.ShardWriter(
        str(folder / "webdataset" / "%06d.tar"), maxcount=GROUP, verbose=0
    ) as tar:
        for n, sound in enumerate(sounds):
            tar.write({"__key__": f"{n:06d}", "flac": sound["bytes"], "txt": "some words"})
    table = pa.table(
        {"audio": sounds, "text": ["some words"] * count, "duration": [SECONDS] * count}
    )
    pq.write_table(table, folder / "parquet" / "train.parquet", row_group_size=GROUP)


def ours(path: Path) -> Callable[[], int]:
    """All utterances of a source, once."""
    data = load_config(PRESET).data
    splits, _ = open_source(
        dataclasses.replace(data.source, path=str(path), split={"train": "train"}), data, RATE_HZ
    )
    corpus = splits["train"]
    order = random.Random(0).sample(range(len(corpus)), len(corpus))
    return lambda: sum(len(corpus[i].samples) for i in order)


def lhotse_files(folder: Path) -> Iterator[np.ndarray]:
    return (cut.load_audio() for cut in lhotse.load_manifest_lazy(folder / "cuts.jsonl"))


def lhotse_shar(folder: Path) -> Iterator[np.ndarray]:
    return (cut.load_audio() for cut in lhotse.CutSet.from_shar(in_dir=folder / "shar"))


def plain_webdataset(folder: Path) -> Iterator[np.ndarray]:
    shards = sorted(map(str, (folder / "webdataset").glob("*.tar")))
    samples = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("flac", "txt")
    return (sf.read(io.BytesIO(sound), dtype="float32")[0] for sound, _ in samples)


def plain_datasets(folder: Path) -> Iterator[np.ndarray]:
    files = str(folder / "parquet" / "*.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    return (sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0] for row in rows)


PEERS = {
    "files": lhotse_files,
    "shar": lhotse_shar,
    "webdataset": plain_webdataset,
    "parquet": plain_datasets,
}


def waiting_share(steps: int) -> float:
    """Share of the time of a training step on the default preset, after a first step that does not
    count."""
    config = load_config([*PRESET, "data.synthetic_ramp=0"])
    torch.set_num_threads(config.trainer.threads)
    with tempfile.TemporaryDirectory() as folder:
        module, data = build(config, Corpora(config), {}, Path(folder))
    optimizer = torch.optim.AdamW(p for p in module.model.parameters() if p.requires_grad)
    batches, waited_s, begun = iter(data.train_dataloader()), 0.0, 0.0
    for step in range(steps + 1):
        asked = time.perf_counter()
        batch = next(batches)
        if step == 0:
            begun = time.perf_counter()
        else:
            waited_s += time.perf_counter() - asked
        module.training_loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return waited_s / (time.perf_counter() - begun)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    numbers, rows = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, asked.utterances)
        for kind, peer in PEERS.items():
            variants = {
                "ours": ours(folder / kind),
                "peer": lambda peer=peer: sum(samples.size for samples in peer(folder)),
            }
            assert variants["ours"]() == variants["peer"]() == asked.utterances * SECONDS * RATE_HZ
            times = interleave(variants, asked.rounds, kind)
            rates = {who: 1000 * asked.utterances / median(times, who) for who in variants}
            numbers |= {f"{kind}/utt_per_s": rates["ours"], f"{kind}/peer_utt_per_s": rates["peer"]}
            rows.append([kind, peer.__name__, f"{rates['ours']:,.0f}", f"{rates['peer']:,.0f}"])
    numbers["train/data_wait_share"] = waiting_share(asked.steps)
    print(machine())
    show(
        f"utterances of {SECONDS:g} s a second, one core",
        ["source", "peer", "ours", "peer's"],
        rows,
    )
    print(
        "share of a training step of preset tiny that waits for data: "
        f"{numbers['train/data_wait_share']:.1%}"
    )
    save(numbers, asked.json)


if __name__ == "__main__":
    main()
