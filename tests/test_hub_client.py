"""The hub with the real W&B client: killed sweeps, offline runs, and reports."""

import contextlib
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
from sweeps.hub.store import Store
from sweeps.report import wandb_report
from sweeps.report.answer import answer
from sweeps.report.gather import gather
from tests.fake_sweep import WER, write_sweep
from tests.hub_server import PROGRAM, HubServer, wait_until
from tests.small_runs import SHORT

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    server = HubServer(tmp_path)
    yield server
    server.process.terminate()
    server.process.wait()


def holders_of(secret: str, folder: Path) -> dict[str, int]:
    """Files below a folder and command lines of processes that hold a text -> permissions."""
    holders = {}
    paths = [*folder.rglob("*"), *Path("/proc").glob("[0-9]*/cmdline")]
    for path in paths:
        # Processes end at any time.
        with contextlib.suppress(OSError):
            if path.is_file() and secret.encode() in path.read_bytes():
                name = path.relative_to(folder) if path.is_relative_to(folder) else path
                holders[str(name)] = path.stat().st_mode & 0o777
    return holders


def test_wandb_agent_with_a_file_survives_killed_trials_and_a_killed_hub(
    server: HubServer,
) -> None:
    agent = server.call("wandb", "agent", "sweeps/grid.yaml")
    stopped, process = server.wait_for_running(set())
    assert holders_of(server.key(), server.folder) == {"hub/key": 0o600, "wandb/settings": 0o600}
    os.kill(process, signal.SIGTERM)
    wait_until(lambda: server.progress()[stopped]["step"] == 8)
    killed, process = server.wait_for_running({stopped})
    os.killpg(process, signal.SIGKILL)
    wait_until(lambda: server.progress()[killed]["step"] == 8)
    server.wait_for_running({stopped, killed})
    server.process.kill()
    server.process.wait()
    server.start()
    assert agent.wait() == 0
    store = server.store()
    stored = {run["name"]: run for run in store.all("run")}
    assert [run["state"] for run in stored.values()] == ["finished"] * 4
    assert sorted(run["summary"]["test/loss"] for run in stored.values()) == [11, 12, 21, 22]
    for name, run in stored.items():
        updates = [
            json.loads(line)["update"] for line in store.lines(runs.key_of(run), runs.HISTORY)
        ]
        # Steps that the killed client had not sent are missing, or are there twice.
        if name == killed:
            updates = [*range(updates[0]), *sorted(set(updates))]
        assert updates == list(range(8))
    [sweep] = store.all("sweep")
    assert sweep["state"] == "FINISHED" and sweep["name"].startswith(sweep_store.ID)
    read = f"s = wandb.Api().sweep('local/tests/{sweep['name']}')"
    show = "print(s.state, len(s.runs), s.best_run().summary['test/loss'])"
    assert server.python(read, show) == "FINISHED 4 11"


def test_an_offline_run_is_synced_and_read_back(server: HubServer) -> None:
    offline = {"WANDB_MODE": "offline", "WANDB_PROJECT": "tests"}
    run = server.call(sys.executable, PROGRAM, "id=apart", "x=1", "y=2", **offline)
    assert run.wait() == 0
    [folder] = (server.folder / "wandb").glob("offline-run-*")
    synced = server.call("wandb", "sync", "-e", "local", "-p", "tests", str(folder))
    assert synced.wait() == 0
    read = "[r] = list(wandb.Api().runs('local/tests', {'state': 'finished'}))"
    show = "print(r.id, r.state, r.summary['test/loss'], len(list(r.scan_history())))"
    assert server.python(read, show) == "apart finished 3 8"
    show = "print(r.file('wandb-summary.json').name, r.metadata['program'])"
    assert server.python(read, show).startswith("wandb-summary.json /")
    restored = (
        "print('test/loss' in wandb.restore('wandb-summary.json', 'local/tests/apart').read())"
    )
    assert server.python(restored) == "True"
    [artifact] = server.store().all("artifact")
    assert artifact["state"] == "COMMITTED" and artifact["sequence"] == "tests/progress"
    uploaded = server.folder / "hub" / "storage" / "artifacts" / artifact["id"] / "apart.json"
    assert json.loads(uploaded.read_text())["step"] == 8
    assert wandb.__version__.startswith("0.31.")


SWEEP_OF_TRAINING = """\
# Question: Does the encoder transcribe better after more updates?
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
  - run.sweep=updates
  - ${args_no_hyphens}
"""


def read_jsonl(lines: list[str]) -> list[dict]:
    return [json.loads(line) for line in lines]


def test_a_stopped_sweep_resumes_and_reports_the_states_of_its_trials(server: HubServer) -> None:
    pytest.importorskip("espeakng_loader")
    root = Path.cwd()
    text = SWEEP_OF_TRAINING.replace("train.py", str(root / "train.py"))
    server.write_sweep("updates", text)
    files = [str(root / "configs" / name) for name in ("preset/tiny.yaml", "stage/encoder.yaml")]
    short = [override for override in SHORT if not override.startswith("wandb")]
    overrides = [*files, *short, "trainer.valid_every_steps=300"]
    command = [sys.executable, "-m", "sweeps.run", "updates", "--agents", "2", *overrides]

    # Stopped while a trial trains.
    first = server.call(*command)
    metrics = wait_until(lambda: next(server.folder.glob("runs/updates-*/metrics.jsonl"), None))
    folder = metrics.parent
    first.terminate()
    assert first.wait() == 143
    assert json.loads((folder / "sweep.json").read_text())["state"] == "preempted"

    # The same command continues; the trial with 0 updates has an invalid configuration.
    second = subprocess.run(
        command, cwd=server.folder, env=server.env, capture_output=True, text=True
    )
    assert second.returncode == 1
    assert second.stdout.startswith("updates: a hub of this machine, http://127.0.0.1:")
    assert (
        "updates: 1 failed, 1 finished" in second.stdout
        or "updates: 1 finished, 1 failed" in second.stdout
    )

    # The hub has the same states and metrics as the folders of the runs.
    store = Store(server.folder / "runs" / "hub" / "hub.db")
    stored = {run["name"]: run for run in store.all("run")}
    run = stored[folder.name.removeprefix("updates-")]
    assert sorted(each["state"] for each in stored.values()) == ["failed", "finished"]
    assert run["state"] == "finished"
    assert run["groupName"] == "updates"
    summary = json.loads((folder / "summary.json").read_text())
    assert run["summary"]["test/wer"] == summary["test/wer"]
    history = read_jsonl(store.lines(runs.key_of(run), runs.HISTORY))
    sent_steps = [line["trainer/global_step"] for line in history if "train/loss" in line]
    logged = read_jsonl((folder / "metrics.jsonl").read_text().splitlines())
    assert sent_steps == [line["step"] for line in logged if "train/loss" in line]
    assert len({after - before for before, after in itertools.pairwise(sent_steps)}) == 1

    results = gather("updates", server.folder / "runs")
    assert [trial.state for trial in results.trials] == ["failed", "finished"]
    assert "trainer.max_steps=0: must be at least 1" in results.trials[0].remark
    assert all(override in results.file.command for override in overrides)


@pytest.fixture
def client_here(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the client in this process use the hub, until the test ends."""
    variables = {"BASE_URL": server.url, "API_KEY": server.key(), "ERROR_REPORTING": "false"}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    yield
    wandb.teardown()


def test_the_wandb_report_is_saved_and_read_back(server: HubServer, client_here: None) -> None:
    results = gather("slice_size", write_sweep(server.folder / "runs"))
    read = wr.Report.from_url(wandb_report.save(results))
    assert (read.entity, read.project) == ("local", "duplexmamba")
    assert read.title.startswith("slice_size: How long may")
    assert read.description == answer(results)[0]
    grid = next(block for block in read.blocks if isinstance(block, wr.PanelGrid))
    assert [type(panel).__name__ for panel in grid.panels] == [
        "BarPlot",
        "ScatterPlot",
        "ParallelCoordinatesPlot",
        "ParameterImportancePlot",
        "RunComparer",
    ]
    assert [column.metric for column in grid.panels[2].columns] == [
        *map(wr.Config, results.file.swept),
        wr.SummaryMetric("test/wer"),
    ]
    assert {runset.name for runset in grid.runsets} == {f"encoder.context={value}" for value in WER}
    num_shown = 0
    for trial in results.finished:
        num_shown += sum(f"'{trial.run}'" in runset.filters for runset in grid.runsets)
    assert num_shown == 22
    texts = [block.text for block in read.blocks if isinstance(block, wr.MarkdownBlock)]
    assert "| 400 | causal_lookahead | 3.09 % |" in texts[0]
    assert "| missing |" in texts[1]
    assert texts[2] == "None."
    assert texts[3].count("python train.py") == 24
