"""A sweep that was never trained: 4 x 2 settings, 3 seeds, one trial failed and one missing."""

import itertools
import json
import random
from pathlib import Path

import yaml

HEAD = """\
# Question: How long may a slice be before the word error rate suffers,
#   and does it help to carry a state from one slice to the next?
# Cost: 24 runs of 7 minutes on two CPU cores, 2.8 h in all.
# Figure: test/wer against encoder.slice_ms, one line per encoder.context
"""
FILE = """\
program: train.py
method: grid
metric: {name: test/wer, goal: minimize}
parameters:
  encoder.slice_ms: {values: [200, 400, 1000, 2000]}
  encoder.context: {values: [slice, causal_lookahead]}
  seed: {values: [1, 2, 3]}
command:
  ["${env}", "${interpreter}", "${program}", configs/preset/tiny.yaml, configs/stage/asr.yaml,
   "${args_no_hyphens}"]
"""
COMMIT = "48ceeb1d0f0c5c0f3d8f6f3c7b1a2e4d5c6b7a80"
WER = {"slice": [0.094, 0.061, 0.042, 0.0375], "causal_lookahead": [0.035, 0.0318, 0.0312, 0.0326]}
SLICES = [200, 400, 1000, 2000]
FAILED = (2000, "slice", 3)
MISSING = (200, "slice", 2)


def write_run(runs: Path, name: str, parameters: dict, wer: float | None) -> Path:
    """Write a run's folder as training leaves it; without a score if it failed."""
    folder = runs / name
    folder.mkdir(parents=True)
    overrides = " ".join(f"{key}={value}" for key, value in parameters.items())
    command = f"python train.py configs/preset/tiny.yaml configs/stage/asr.yaml {overrides}"
    state = "failed" if wer is None else "finished"
    record = {"sweep": "ab12cd34", "name": "slice_size", "parameters": parameters, "state": state}
    start = {"time": "2026-11-20T08:00:00+00:00", "command": command, "git_commit": COMMIT}
    encoder = {"slice_ms": parameters["encoder.slice_ms"], "context": parameters["encoder.context"]}
    config = {
        "run": {"id": name},
        "wandb": {"project": "duplexmamba"},
        "seed": parameters["seed"],
        "encoder": encoder,
        "data": {"batch_s": 20},
    }
    (folder / "sweep.json").write_text(json.dumps(record))
    (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1340, "train/loss": 0.3}) + "\n")
    if wer is not None:
        scores = {
            "test/wer": wer,
            "test/cer": 0.8 * wer,
            "time/total_s": 421.5,
            "memory/peak_gib": 2.1,
        }
        (folder / "summary.json").write_text(json.dumps(scores))
    return folder


def write_sweep(runs: Path, head: str = HEAD, file: str = FILE) -> Path:
    """Write runs/ as the whole sweep leaves it."""
    rng = random.Random(4)
    (runs / "sweeps" / "slice_size").mkdir(parents=True)
    (runs / "sweeps" / "slice_size" / "sweep.yaml").write_text(head + file)
    for slice_ms, context, seed in itertools.product(SLICES, WER, [1, 2, 3]):
        mean = WER[context][SLICES.index(slice_ms)]
        wer = round(mean * (1 + 0.05 * rng.gauss(0, 1)), 5)
        trial = (slice_ms, context, seed)
        if trial == MISSING:
            continue
        name = f"asr-tiny-{slice_ms}-{context}-{seed}"
        parameters = {"encoder.slice_ms": slice_ms, "encoder.context": context, "seed": seed}
        write_run(runs, name, parameters, None if trial == FAILED else wer)
    return runs
