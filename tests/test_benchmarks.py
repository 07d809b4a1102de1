"""Every benchmark runs and writes its documented numbers; their values are not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LM_KINDS

SMALL = {
    "scan": ["--lengths", "16", "--precisions", "float32", "--rounds", "1"],
    "decode": ["--sizes", "tiny", "--contexts", "32", "--rounds", "1"],
    "long_audio": ["--minutes", "1"],
    "long_session": ["--minutes", "1", "--rounds", "1"],
    "memory": ["--lengths", "16"],
    "sessions": ["--seconds", "0.4", "--most", "2"],
    "settings": ["--rounds", "1", "--length", "64"],
    "stages": ["--rounds", "1", "--updates", "1", "--stages", "asr", "streaming"],
    "data": ["--rounds", "1", "--utterances", "8", "--steps", "1"],
    "conversations": ["--conversations", "1"],
}
KEYS = {
    "scan": [
        "cpu/l16/scan_speedup_vs_mambapy",
        "cpu/l16/train_over_floor",
        "cpu/l16/train_speedup_vs_mambapy",
        "cpu/l16/train_speedup_vs_transformers",
        "cpu/l16/train_speedup_vs_transformer_layers",
    ],
    "decode": [
        "decode/tiny/ctx_32_ms",
        "decode/tiny_transformer/ctx_32_ms",
        "decode/tiny/slice_15_over_steps",
    ],
    "long_audio": ["long_audio/minute_1_memory_mb", "long_audio/minute_1_max_error"],
    "long_session": [
        f"{kind}/minutes_1/{name}"
        for kind in LM_KINDS
        for name in ("slice_ms", "state_bytes", "fork_ms")
    ],
    "memory": ["memory/ours/l16_bytes_per_token"],
    "sessions": [
        "sessions/realtime_per_core",
        "sessions/p99_ms",
        "sessions/batched_over_single",
        "sessions/state_bytes",
    ],
    "data": [
        *[f"{name}/utt_per_s" for name in ("files", "shar", "webdataset", "parquet")],
        *[f"{name}/peer_utt_per_s" for name in ("files", "shar", "webdataset", "parquet")],
        "train/data_wait_share",
    ],
    "stages": [
        "asr/two_threads_speedup",
        "asr/1_thread_s",
        "asr/2_threads_s",
        "asr/gates_speedup",
        "streaming/sharing_speedup",
    ],
    "conversations": [
        "conversations/two_channel_cuts_s",
        "conversations/moshi_finetune_decoded_share",
    ],
    "settings": [
        "settings/medium_speedup",
        "settings/medium_error",
        "settings/keep_freed_memory_speedup",
    ],
}


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", SMALL)
def test_benchmark_writes_its_numbers(name: str, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    command = [sys.executable, f"benchmarks/{name}.py", "--json", str(file), "--threads", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *SMALL[name]], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(file.read_text())
    assert set(KEYS[name]) <= set(numbers)
    assert all(isinstance(value, float | int) for value in numbers.values())
    assert numbers.get("long_audio/minute_1_max_error", 0) < 1e-4
