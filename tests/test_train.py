"""The real entry points on a very small model: train, resume after a kill, score, two ranks."""

import itertools
import json
import shutil
import signal
import subprocess
from pathlib import Path

import lightning as L
import peft
import pytest
import torch

from configs.loading import load_config
from configs.recipes import STAGES
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.streaming.padded import Padded
from lightning_modules.speech import InstructStage
from lightning_modules.trainer.callbacks import ResumeCheckpoint
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.stage_graph import checkpoint_sources
from tests.conftest import SMALL_SIZES, TINY
from tests.small_runs import (
    SHORT,
    chain_of,
    losses,
    refused,
    run,
    train,
    train_in_two,
    write_corpus,
)
from train import main

pytestmark = pytest.mark.timeout(300)
CHAIN = chain_of("streaming")
"""The stages in the order of their training."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs in which stage asr and its prerequisites were trained."""
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("runs")
    done = train(folder, "wandb.mode=offline")
    assert done.returncode == 0, done.err
    assert "word error rate" not in done.err and "make train STAGE=instruct" in done.out
    return folder


def test_asr_trains_its_prerequisites_and_writes_its_scores(runs: Path) -> None:
    latest = (runs / "latest").resolve()
    assert latest.name.startswith("asr-tiny-") and len(list(runs.glob("*-tiny-*"))) == 3
    summary = json.loads((latest / "summary.json").read_text())
    names = {
        "test/wer",
        "test/cer",
        "time/encoder_s",
        "time/lm_s",
        "time/asr_s",
        "time/total_s",
        "memory/peak_gib",
    }
    assert names <= summary.keys() and all(value >= 0 for value in summary.values())
    stages = [summary[f"time/{stage}_s"] for stage in ("encoder", "lm", "asr")]
    assert summary["time/total_s"] == pytest.approx(sum(stages), abs=0.2)
    for name in ("config.yaml", "metrics.jsonl", "curves.png", "checkpoint.pt", "starts.jsonl"):
        assert (latest / name).stat().st_size > 0, name
    assert any(
        "valid/wer" in json.loads(line)
        for line in (latest / "metrics.jsonl").read_text().splitlines()
    )
    assert list((latest / "wandb").glob("offline-run-*/*.wandb"))


def test_the_same_command_finds_finished_runs(runs: Path) -> None:
    again = train(runs, "wandb.mode=offline")
    assert again.returncode == 0 and again.out.count("already trained") == 3, again.out + again.err


def test_checkpoint_sources_have_one_order(tmp_path: Path) -> None:
    """The fingerprint of a run depends on the order, which must not depend on the hash seed."""
    for name in "edcba":
        (tmp_path / name).mkdir()
    parts = zip(
        ("features", "frontend", "encoder", "connector", "lm"), ["asr", *"dcba"], strict=True
    )
    overrides = [
        f"stage.init.{part}={name if name == 'asr' else tmp_path / name}" for part, name in parts
    ]
    config = load_config([TINY[0], "configs/stage/instruct.yaml", *overrides])
    assert checkpoint_sources(config) == ["asr", *(str(tmp_path / name) for name in "abcd")]


def test_frozen_parts_do_not_change_and_trained_parts_do(runs: Path) -> None:
    weights = {
        p.name.split("-")[0]: torch.load(p / "checkpoint.pt")["weights"]
        for p in runs.glob("*-tiny-*")
    }
    asr = weights["asr"]
    assert all(torch.equal(asr[n], w) for n, w in weights["lm"].items())
    changed = [n for n, w in weights["encoder"].items() if n in asr and not torch.equal(asr[n], w)]
    assert any(n.startswith("encoder.") for n in changed) and not any(
        n.startswith("features.") for n in changed
    )


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_frozen_parts_are_in_eval_mode_from_the_first_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_config([TINY[0], "configs/stage/instruct.yaml", *SMALL_SIZES])
    module = InstructStage(config, SpeechLM(config.model), None)
    modes = []

    def step(batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        modes.append({name: part.training for name, part in module.model.named_children()})
        return sum(p.sum() for p in module.model.connector.parameters())

    monkeypatch.setattr(module, "training_step", step)
    trainer = L.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([0], batch_size=1))
    assert modes == [
        {"features": False, "frontend": False, "encoder": False, "connector": True, "lm": True}
    ]


@pytest.mark.parametrize("context", ["full", "slice", "causal_lookahead"])
def test_every_context_trains(context: str, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    summary = main(
        [
            TINY[0],
            "configs/stage/encoder.yaml",
            *SHORT,
            f"run.dir={tmp_path}",
            f"encoder.context={context}",
        ]
    )
    assert summary["test/cer"] > 0


def test_streaming_trains_the_stages_in_between(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs, tmp_path / "runs", symlinks=True)
    done = train(folder, stage="streaming")
    assert done.returncode == 0 and done.out.count("already trained") == 3, done.out + done.err
    latest = (folder / "latest").resolve()
    summary = json.loads((latest / "summary.json").read_text())
    assert {"test/exact_match", "test/state_accuracy", "test/state_macro_f1"} <= summary.keys()
    assert {f"time/{stage}_s" for stage in CHAIN} <= summary.keys()
    chain = [next(folder.glob(f"{stage}-tiny-*")) for stage in CHAIN[2:]]
    weights = [torch.load(f / "checkpoint.pt")["weights"] for f in chain]
    changed = [
        {
            name.split(".")[0]
            for name, weight in after.items()
            if not torch.equal(before[name], weight)
        }
        for before, after in itertools.pairwise(weights)
    ]
    assert changed == [
        {"connector", "lm"},
        {"connector", "lm"},
        {"frontend", "encoder", "connector", "lm"},
    ]
    scored = run("evaluate.py", "wer", str(latest))
    assert scored.returncode == 0 and "test/wer" in scored.out, scored.err


def test_every_stage_trains_a_transformer(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    one_update = [
        "trainer.max_steps=1",
        "trainer.valid_every_steps=1",
        "trainer.average_last=1",
        "wandb.mode=disabled",
    ]
    prerequisites = [
        f"stages.{stage}.{override}" for stage in STAGES[:-1] for override in one_update
    ]
    small_data = [
        "data.valid_dialogues=1",
        "data.test_dialogues=1",
        "data.valid_size=2",
        "data.test_size=2",
    ]
    overrides = [
        *SHORT,
        f"run.dir={tmp_path}",
        "lm.kind=transformer",
        *one_update,
        *prerequisites,
        *small_data,
    ]
    summary = main([TINY[0], "configs/stage/streaming.yaml", *overrides])
    assert {f"time/{stage}_s" for stage in CHAIN} <= summary.keys() and summary[
        "test/state_macro_f1"
    ] >= 0
    before, after = (
        torch.load(next(tmp_path.glob(f"{stage}-*")) / "checkpoint.pt")["weights"]
        for stage in ("asr", "streaming")
    )
    lm = [name for name in after if name.startswith("lm.backbone.layers.")]
    assert lm and not any(torch.equal(before[name], after[name]) for name in lm)


def test_evaluate_scores_a_run_as_training_did(runs: Path, tmp_path: Path) -> None:
    done = run("evaluate.py", "wer", str(runs / "latest"), "--json", str(tmp_path / "wer.json"))
    assert done.returncode == 0, done.err
    summary = json.loads((runs / "latest" / "summary.json").read_text())
    assert json.loads((tmp_path / "wer.json").read_text())["test/wer"] == pytest.approx(
        summary["test/wer"]
    )
    assert len((runs / "latest" / "scores" / "wer.jsonl").read_text().splitlines()) == 4


def test_evaluate_on_other_speech(runs: Path, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus", 3)  # all of it in the test split
    done = run("evaluate.py", "wer", str(runs / "latest"), f"data.path={manifest}")
    assert done.returncode == 0 and "test/wer" in done.out, done.err


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_resumes_to_the_same_losses(tmp_path: Path, kill: signal.Signals) -> None:
    pytest.importorskip("espeakng_loader")
    args = [
        "trainer.max_steps=12",
        "trainer.accumulate=2",
        "trainer.checkpoint_every_s=0",
        "encoder.dropout=0.2",
    ]
    args += ["data.num_workers=1"]
    uninterrupted = train(tmp_path / "uninterrupted", *args, stage="encoder")
    assert uninterrupted.returncode == 0, uninterrupted.err
    train_in_two(tmp_path / "resumed", *args, stage="encoder", kill=kill)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "uninterrupted")


class Killed(Exception):
    """Ends a training at once, as SIGKILL does."""


def train_and_kill(args: list[str], step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the checkpoint of an update is written."""
    save = ResumeCheckpoint._save

    def save_and_die(callback: ResumeCheckpoint, trainer: L.Trainer) -> None:
        save(callback, trainer)
        if trainer.global_step == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ResumeCheckpoint, "_save", save_and_die)
        main(args)


def test_a_run_killed_at_a_snapshot_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_corpus(tmp_path / "corpus", 12)
    files = [TINY[0], "configs/stage/encoder.yaml"]
    args = [*files, *SHORT, f"data.path={manifest}", "data.max_bad_share=1"]
    args += ["trainer.checkpoint_every_s=0", "trainer.valid_every_steps=4"]
    args += ["trainer.average_last=4"]
    main([*args, f"run.dir={tmp_path}", "run.id=whole"])
    killed = [*args, f"run.dir={tmp_path}", "run.id=killed"]
    for step in (1, 2, 3):
        train_and_kill(killed, step, monkeypatch)
    main(killed)
    expected = torch.load(tmp_path / "whole" / "checkpoint.pt")["weights"]
    weights = torch.load(tmp_path / "killed" / "checkpoint.pt")["weights"]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


ADAPTED = ["lora.enabled=true", "lora.rank=2"]


def test_adapters_resume_after_a_kill_to_the_same_losses(runs: Path, tmp_path: Path) -> None:
    uninterrupted, resumed = (
        shutil.copytree(runs, tmp_path / name, symlinks=True)
        for name in ("uninterrupted", "resumed")
    )
    args = [*ADAPTED, "lora.dropout=0.2", "trainer.max_steps=12", "trainer.checkpoint_every_s=0"]
    done = train(uninterrupted, *args, stage="instruct")
    assert done.returncode == 0, done.err
    train_in_two(resumed, *args, stage="instruct", kill=signal.SIGKILL)
    assert losses(resumed, "instruct") == losses(uninterrupted, "instruct")
    expected, weights = (
        torch.load(next(f.glob("instruct-*/checkpoint.pt")))["weights"]
        for f in (uninterrupted, resumed)
    )
    assert all(torch.equal(weight, weights[name]) for name, weight in expected.items())


def test_adapters_are_passed_on_merged_and_are_saved_separately(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs, tmp_path / "runs", symlinks=True)
    done = train(
        folder,
        *ADAPTED,
        *(f"stages.instruct.{a}" for a in ADAPTED),
        # the stages before it are those of the copied folder
        "stages.state.trainer.devices=2",
        stage="state",
    )
    assert done.returncode == 0, done.out + done.err
    chain = [next(folder.glob(f"{stage}-tiny-*")) for stage in ("asr", "instruct", "state")]
    weights = [torch.load(f / "checkpoint.pt")["weights"] for f in chain]
    linear_layers = ("in_proj.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight")
    expected = {
        n
        for n in weights[0]
        if n.startswith("connector.") or n.startswith("lm.") and n.endswith(linear_layers)
    }
    for before, after in itertools.pairwise(weights):
        assert {
            name for name, weight in after.items() if not torch.equal(before[name], weight)
        } == expected
    counts = [json.loads((f / "summary.json").read_text())["params/trained"] for f in chain]
    assert counts[0] > counts[1] == counts[2]

    merged, base = (
        SpeechLM(StageCheckpoint.load(chain[2] / "checkpoint.pt").config.model).eval()
        for _ in range(2)
    )
    merged.load_state_dict(weights[2])
    base.load_state_dict(
        {**weights[2], **{n: w for n, w in weights[1].items() if n.startswith("lm.")}}
    )
    separate = peft.PeftModel.from_pretrained(base, chain[2] / "adapter").eval().base_model.model
    audio = Padded(torch.randn(1, 16000))
    ids = Padded(torch.arange(5)[None])
    merged_logits, separate_logits = (
        m(ids, m.embed_speech(audio, final=True)[0], ids)[0].values for m in (merged, separate)
    )
    torch.testing.assert_close(separate_logits, merged_logits, atol=1e-5, rtol=1e-4)


def test_lora_drop_probes_selects_and_trains(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs, tmp_path / "runs", symlinks=True)
    overrides = [
        "lora.rank=2",
        "lora_drop.steps=2",
        "lora_drop.sample=6",
        "lora_drop.keep=1",
        "lora_drop.start=probe",
    ]
    command = [
        TINY[0],
        "configs/stage/instruct.yaml",
        *SHORT,
        f"run.dir={folder}",
        "lora_drop.enabled=true",
        *overrides,
    ]
    done = run("train.py", *command)
    assert done.returncode == 0 and "lora.rank=" in done.out, done.out + done.err
    [probe] = [file.parent for file in folder.glob("instruct-*/importance.json")]
    layers = json.loads((probe / "importance.json").read_text())["linears"]
    assert sum(layer["kept"] for layer in layers.values()) == 4 == len(layers) / 2
    assert sum(layer["importance"] for layer in layers.values()) == pytest.approx(4)  # kinds
    assert (probe / "importance.png").stat().st_size > 0
    latest = (folder / "latest").resolve()
    shared = StageCheckpoint.load(latest / "checkpoint.pt").config.lora.shared
    assert sorted(shared) == sorted(name for name, layer in layers.items() if not layer["kept"])
    again = run("train.py", *command)
    assert again.returncode == 0 and again.out.count("instruct: already trained") == 2, (
        again.out + again.err
    )
    frozen = run("train.py", *command, "lora_drop.rest=frozen")
    assert frozen.returncode == 0, frozen.out + frozen.err
    summaries = [
        json.loads((f / "summary.json").read_text())
        for f in (latest, (folder / "latest").resolve())
    ]
    counts = [summary["params/trained"] for summary in summaries]
    assert len(list(probe.glob("start-*"))) == 2 and counts[1] < counts[0]


def test_two_ranks_train_and_score(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    done = train(tmp_path, "trainer.devices=2")
    assert done.returncode == 0, done.err
    assert "test/wer" in json.loads((tmp_path / "latest" / "summary.json").read_text())


def test_a_checkpoint_of_another_shape_is_rejected(runs: Path, tmp_path: Path) -> None:
    encoder = next(runs.glob("encoder-*"))
    overrides = [
        "encoder.d_model=48",
        *(f"stage.init.{part}={encoder}" for part in ("features", "frontend", "encoder")),
    ]
    assert "does not fit this configuration" in refused(tmp_path, *overrides)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_help_lists_every_target() -> None:
    text = subprocess.run(["make", "help"], capture_output=True, text=True, check=True).stdout
    assert all(target in text for target in ("make train", "eval-wer", "test", "lint"))
