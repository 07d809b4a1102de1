"""Import rules: which package may import which, and where third-party libraries are used."""

import ast
from pathlib import Path

import pytest

LAYERS = [
    {"duplexmamba"},
    {"configs"},
    {"datamodules"},
    {"lightning_modules"},
    {"evaluation", "serving", "sweeps"},
    {"duplexmamba_cli", "train", "evaluate", "serve"},
]
"""Packages from the bottom up; each imports itself and the layers below it."""
SHARED = {"reporting"}
"""Figures and pages: every package may import them, and they import none."""
MODEL_LAYERS = [{"config"}, {"ops", "streaming"}, {"models", "text"}, {"duplex"}]
"""Parts of duplexmamba from the bottom up; those of one layer may import each other."""
EXPERIMENT_LIBRARIES = {"lightning", "wandb", "omegaconf"}
"""Libraries that the model does without."""
ONLY_IN = {
    "transformers": {"duplexmamba/models", "duplexmamba/text/tokenizer.py"},
    "peft": {"duplexmamba/models/lora.py", "duplexmamba/models/lora_drop.py"},
    "triton": {"duplexmamba/ops/scan_triton.py"},
    "mamba_ssm": {"duplexmamba/ops"},
    "causal_conv1d": {"duplexmamba/ops/conv.py"},
    "omegaconf": {"configs"},
    "fsspec": {"datamodules/sources"},
    "tarfile": {"datamodules/sources"},
    "lhotse": {"datamodules/sources"},
    "datasets": {"datamodules/sources"},
}
"""Library -> files and folders of the model and the data in which alone it is imported."""
DATA_MAY_SEE = {"config", "streaming", "text", "models.timing"}
"""Parts of duplexmamba that data code imports: data sets see no modules."""
OURS = set().union(*LAYERS) | SHARED
FILES = sorted(
    path for package in OURS if Path(package).is_dir() for path in Path(package).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, with the names taken from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(name: str, layers: list[set[str]]) -> int:
    return next(height for height, names in enumerate(layers) if name in names)


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in Path().glob("*/__init__.py")} - {"tests"}
    assert packages <= OURS


@pytest.mark.parametrize("path", FILES, ids=str)
def test_packages_import_downward(path: Path) -> None:
    package = path.parts[0]
    for name in imported(path):
        top = name.split(".")[0]
        if top not in OURS or top == package or top in SHARED:
            continue
        assert package not in SHARED, f"{path} imports {name}"
        assert layer_of(top, LAYERS) < layer_of(package, LAYERS), f"{path} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parts[0] == "duplexmamba"], ids=str
)
def test_the_model_imports_downward_and_no_experiment_libraries(path: Path) -> None:
    part = path.parts[1].removesuffix(".py")
    for name in imported(path):
        top, _, rest = name.partition(".")
        assert top not in EXPERIMENT_LIBRARIES, f"{path} imports {name}"
        if top == "duplexmamba" and rest and part != "__init__":
            other = rest.split(".")[0]
            assert layer_of(other, MODEL_LAYERS) <= layer_of(part, MODEL_LAYERS), (
                f"{path} imports {name}"
            )


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parts[0] == "datamodules"], ids=str
)
def test_data_sees_no_modules(path: Path) -> None:
    for name in imported(path):
        if name.startswith("duplexmamba."):
            rest = name.removeprefix("duplexmamba.")
            allowed = any(rest == part or rest.startswith(f"{part}.") for part in DATA_MAY_SEE)
            assert allowed or rest in ("models", "text"), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_libraries_are_used_in_one_place(path: Path) -> None:
    if path.parts[0] not in ("duplexmamba", "datamodules", "configs"):
        return
    for name in imported(path):
        places = ONLY_IN.get(name.split(".")[0])
        assert places is None or any(path.is_relative_to(place) for place in places), (
            f"{path} imports {name}"
        )


def test_modules_import_each_other_in_no_circle() -> None:
    """Imports at the top of modules; an import within a function is made later."""
    modules = {
        str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__") for path in FILES
    }
    edges: dict[str, set[str]] = {}
    for path in FILES:
        module = str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        top_level = ast.Module(
            [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], []
        )
        names = set()
        for node in ast.walk(top_level):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        edges[module] = (names & modules) - {module}

    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(edges[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())
