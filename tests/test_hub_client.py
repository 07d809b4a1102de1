"""What becomes of sweeps when anything is killed, of offline runs and of reports, with the real client and a hub."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr

from sweeps.hub import runs, sweep_store
from sweeps.hub.__main__ import KEY
from sweeps.hub.store import Store
from sweeps.report import wandb_report
from sweeps.report.answer import answer
from sweeps.report.gather import gather
from tests.fake_sweep import WER, write_sweep
from tests.hub_place import Place, until
from tests.small_runs import SHORT

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.hub.terminate()
    place.hub.wait()


def test_the_literal_command_survives_the_death_of_anything(place: Place) -> None:
    agent = place.call("wandb", "agent", "sweeps/grid.yaml")
    stopped, process = place.caught(set())
    os.kill(process, signal.SIGTERM)
    until(lambda: place.progress()[stopped]["step"] == 8)
    killed, process = place.caught({stopped})
    os.killpg(process, signal.SIGKILL)
    until(lambda: place.progress()[killed]["step"] == 8)
    place.caught({stopped, killed})
    place.hub.kill()
    place.hub.wait()
    place.start()
    assert agent.wait() == 0
    store = place.stored()
    found = {run["name"]: run for run in store.all("run")}
    assert [run["state"] for run in found.values()] == ["finished"] * 4
    assert sorted(run["summary"]["test/loss"] for run in found.values()) == [11, 12, 21, 22]
    for name, run in found.items():
        updates = [
            json.loads(line)["update"] for line in store.lines(runs.key_of(run), runs.HISTORY)
        ]
        if name == killed:  # what the client had not sent yet is lost, or is there twice
            updates = [*range(updates[0]), *sorted(set(updates))]
        assert updates == list(range(8))
    [sweep] = store.all("sweep")
    assert sweep["state"] == "FINISHED" and sweep["name"].startswith(sweep_store.ID)
    read = f"s = wandb.Api().sweep('local/tests/{sweep['name']}')"
    assert (
        place.python(read, "print(s.state, len(s.runs), s.best_run().summary['test/loss'])")
        == "FINISHED 4 11"
    )


def test_an_offline_run_is_synced_and_read_back(place: Place) -> None:
    offline = {"WANDB_MODE": "offline", "WANDB_PROJECT": "tests"}
    run = place.call(sys.executable, "sweep_point.py", "id=apart", "x=1", "y=2", **offline)
    assert run.wait() == 0
    [folder] = (place.folder / "wandb").glob("offline-run-*")
    synced = place.call("wandb", "sync", "-e", "local", "-p", "tests", str(folder))
    assert synced.wait() == 0
    read = "[r] = list(wandb.Api().runs('local/tests', {'state': 'finished'}))"
    shown = place.python(
        read, "print(r.id, r.state, r.summary['test/loss'], len(list(r.scan_history())))"
    )
    assert shown == "apart finished 3 8"
    [artifact] = place.stored().all("artifact")
    assert artifact["state"] == "COMMITTED" and artifact["sequence"] == "tests/progress"
    kept = place.folder / "hub" / "storage" / "artifacts" / artifact["id"] / "apart.json"
    assert json.loads(kept.read_text())["step"] == 8
    assert wandb.__version__.startswith("0.31.")


SWEEP_OF_TRAINING = """\
# Question: Does the encoder hear better for more updates?
# Cost: seconds.
# Figure: test/wer against trainer.max_steps
program: train.py
project: tests
method: grid
metric: {name: test/wer, goal: minimize}
parameters: {trainer.max_steps: {values: [0, 300]}}
command:
  - ${env}
  - ${interpreter}
  - ${program}
  - run.sweep=points
  - ${args_no_hyphens}
"""


def test_a_sweep_that_is_stopped_goes_on_and_tells_what_became_of_its_points(place: Place) -> None:
    pytest.importorskip("espeakng_loader")
    root = Path.cwd()
    text = SWEEP_OF_TRAINING.replace("train.py", str(root / "train.py"))
    place.write_sweep("points", text)
    files = [str(root / "configs" / name) for name in ("preset/tiny.yaml", "stage/encoder.yaml")]
    words = [
        *files,
        *(word for word in SHORT if not word.startswith("wandb")),
        "trainer.valid_every_steps=300",
    ]
    command = [sys.executable, "-m", "sweeps.run", "points", "--agents", "2", *words]
    first = place.call(*command)
    folder = until(lambda: next(place.folder.glob("runs/points-*/metrics.jsonl"), None)).parent
    first.terminate()
    assert (
        first.wait() == 143
        and json.loads((folder / "sweep.json").read_text())["state"] == "preempted"
    )
    second = subprocess.run(
        command, cwd=place.folder, env=place.env, capture_output=True, text=True
    )
    assert second.returncode == 1 and second.stdout.startswith(
        "points: a hub of this machine, http://127.0.0.1:"
    )
    assert (
        "points: 1 failed, 1 finished" in second.stdout
        or "points: 1 finished, 1 failed" in second.stdout
    )
    store = Store(place.folder / "runs" / "hub" / "hub.db")
    states = {run["name"]: run for run in store.all("run")}
    run = states[folder.name.removeprefix("points-")]
    assert (
        sorted(each["state"] for each in states.values()) == ["failed", "finished"]
        and run["state"] == "finished"
    )
    assert run["groupName"] == "points"
    assert (
        run["summary"]["test/wer"] == json.loads((folder / "summary.json").read_text())["test/wer"]
    )
    rows = [json.loads(line) for line in store.lines(runs.key_of(run), runs.HISTORY)]
    sent = [row["trainer/global_step"] for row in rows if "train/loss" in row]
    kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sent == [line["step"] for line in kept if "train/loss" in line]
    assert len({after - before for before, after in itertools.pairwise(sent)}) == 1
    found = gather("points", place.folder / "runs")
    assert [point.state for point in found.points] == ["failed", "finished"]
    assert "trainer.max_steps=0: must be at least 1" in found.points[0].remark
    assert all(word in found.file.command for word in words)


@pytest.fixture
def client_here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's own client speaks with the hub, and forgets it afterwards."""
    for name, value in {"BASE_URL": place.url, "API_KEY": KEY, "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    yield
    wandb.teardown()


def test_the_wandb_report_is_saved_and_read_back(place: Place, client_here: None) -> None:
    gathered = gather("slice_size", write_sweep(place.folder / "runs"))
    read = wr.Report.from_url(wandb_report.save(gathered))
    assert (read.entity, read.project) == ("local", "duplexmamba") and read.title.startswith(
        "slice_size: How long may"
    )
    assert read.description == answer(gathered)[0]
    grid = next(block for block in read.blocks if isinstance(block, wr.PanelGrid))
    assert [type(panel).__name__ for panel in grid.panels] == [
        "BarPlot",
        "ScatterPlot",
        "ParallelCoordinatesPlot",
        "ParameterImportancePlot",
        "RunComparer",
    ]
    assert [column.metric for column in grid.panels[2].columns] == [
        *map(wr.Config, gathered.file.swept),
        wr.SummaryMetric("test/wer"),
    ]
    assert {runset.name for runset in grid.runsets} == {f"encoder.context={value}" for value in WER}
    assert (
        sum(
            f"'{point.run}'" in runset.filters
            for runset in grid.runsets
            for point in gathered.finished
        )
        == 22
    )
    texts = [block.text for block in read.blocks if isinstance(block, wr.MarkdownBlock)]
    assert (
        "| 400 | causal_lookahead | 3.09 % |" in texts[0]
        and "| missing |" in texts[1]
        and texts[2] == "None."
    )
    assert texts[3].count("python train.py") == 24
