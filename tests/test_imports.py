"""Who may import whom."""

import ast
from pathlib import Path

import pytest

ENTRIES = {"train", "evaluate", "serve", "lora_drop"}
OURS = {
    "duplexmamba",
    "lightning_modules",
    "datamodules",
    "evaluation",
    "pages",
    "serving",
    "sweeps",
} | ENTRIES
MAY_IMPORT = {
    "duplexmamba": {"duplexmamba"},
    "datamodules": {"datamodules", "duplexmamba"},
    "lightning_modules": {"lightning_modules", "datamodules", "duplexmamba"},
    "pages": {"pages"},
    "evaluation": {"evaluation", "pages", "duplexmamba"},
    "evaluation/commands": {
        "evaluation",
        "pages",
        "lightning_modules",
        "datamodules",
        "duplexmamba",
    },
    "serving": {"serving", "datamodules", "duplexmamba"},
    "sweeps": {"sweeps", "pages", "duplexmamba"},
}
DATA_SEES = {"schema", "checks", "config", "timing", "tokens", "padded"}
ONLY_IN = {
    "omegaconf": {"config"}, "transformers": {"lm", "transformer", "tokens"}, "peft": {"lora", "lora_drop"},
    "lightning": set(), "wandb": set(), "triton": {"scan_triton"}, "mamba_ssm": {"scan_mamba_ssm", "ssd"},
    "causal_conv1d": {"conv"},
}  # fmt: skip
DATA_ONLY_IN = {
    "fsspec": {"storage"}, "tarfile": {"shards"}, "lhotse": {"places"}, "datasets": {"parquet"},
    "pyarrow": {"parquet", "places"}, "soundfile": {"audio", "places", "recorded_noise", "write_dialogues"},
}  # fmt: skip
FLOORS = [
    {"schema", "jsonl", "padded", "state", "native", "scan_torch", "scan_triton", "scan_mamba_ssm"},
    {"scan_cpp", "timing", "tokens", "features", "ctc", "losses"}, {"conv_cpp", "scan", "checks"}, {"gates"},
    {"config", "conv", "ssd", "step_cpp"},
    {"mamba", "attention"}, {"mamba2", "transformer", "blocks", "connector", "metrics"}, {"lm", "encoder"},
    {"decoding", "policy"}, {"model"}, {"together"},
    {"conversation"}, {"session", "multiplex", "lora"}, {"lora_drop"},
]  # fmt: skip
FILES = sorted({path for room in MAY_IMPORT for path in Path(room).rglob("*.py")})


def room_of(path: Path) -> str:
    """The innermost room of the table: commands open runs and data, which what they score never sees."""
    return max((room for room in MAY_IMPORT if path.is_relative_to(room)), key=len)


def imported(path: Path) -> set[str]:
    """Dotted names of all modules a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = room_of(path)
    for name in imported(path):
        top, _, rest = name.partition(".")
        assert top not in OURS or top in MAY_IMPORT[room], f"{path} imports {name}"
        assert not name.startswith("evaluation.commands") or room == "evaluation/commands", (
            f"{path} imports {name}"
        )
        if room == "datamodules" and top == "duplexmamba" and rest:
            assert rest.split(".")[0] in DATA_SEES, f"{path} imports {name}"
        if room == "duplexmamba" and top in ONLY_IN:
            assert path.stem in ONLY_IN[top], f"{path} imports {name}"
        if room == "datamodules" and top in DATA_ONLY_IN:
            assert path.stem in DATA_ONLY_IN[top], f"{path} imports {name}"


def test_inside_duplexmamba_imports_run_downward() -> None:
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    for path in Path("duplexmamba").glob("[!_]*.py"):
        for name in imported(path):
            if name.startswith("duplexmamba."):
                below = name.split(".")[1]
                assert floor[below] < floor[path.stem], f"{path} imports {below}"
