"""Run a sweep with the real `wandb agent`.

The sweep runs on the W&B cloud if there is a W&B login, else on a hub of this machine.

python -m sweeps.run slice_size [--agents 2] [--backend auto|cloud|local] [key=value ...]
"""

import argparse
import collections
import contextlib
import difflib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
import yaml

from lightning_modules.trainer.sweep_file import SAVED_SWEEP, SWEEP_VARIABLE, file_digest
from sweeps.hub.__main__ import has_wandb_login
from sweeps.hub.api import ENTITY
from sweeps.hub.private import KEY_FILE
from sweeps.hub.search import check
from sweeps.report.sweep_file import has_head, read_sweep_file
from sweeps.trials import outcomes

FOLDER = Path("sweeps")
"""Folder of the sweep files."""
DEFAULT_RUNS = Path("runs")
"""Folder of all runs, as in configs/base.yaml."""
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a process may use, separated by commas."""
AGENT_SETTINGS = {
    "WANDB_AGENT_DISABLE_FLAPPING": "true",
    "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000000",
}
"""Environment in which an agent goes on with other trials after failed ones."""
TERM_TIMEOUT_S = 90
"""Time in which a trial may write its checkpoint after SIGTERM."""
EXIT_STOPPED = 143
"""Exit code of a program that SIGTERM has ended."""
PARAMETERS = "${args_no_hyphens}"
"""Part of a sweep file's command that W&B replaces with the parameters of a trial."""


class Backend(NamedTuple):
    """Server that hands out the trials of a sweep."""

    description: str
    sweep: str
    """Name of the sweep as `wandb agent` takes it."""
    variables: dict[str, str]
    """Environment variables with which a W&B client reaches the server."""


def main(arguments: list[str]) -> int:
    """Run a sweep until its agents have nothing left to do, and print how its trials ended.

    Args:
        arguments: name of the sweep, overrides of the configuration, and options.

    Returns:
        Exit code: 0 if every trial has finished, else 1.

    Raises:
        ValueError: there is no such sweep, or the server does not take it; nothing has run then.
        SystemExit: with code 143, if the sweep was stopped.
    """
    args = parse(arguments)
    path = sweep_file(args.sweep)
    name = args.backend
    if name == "auto":
        name = "cloud" if has_wandb_login() else "local"
    check_sweep(path, name)
    warn_of_report(path)
    devices = devices_of_agents(args.agents)
    overrides = list(args.overrides)
    if args.runs != DEFAULT_RUNS:
        overrides.append(f"run.dir={args.runs}")
    file = with_overrides(path, overrides, args.runs)
    open_backend = on_cloud if name == "cloud" else on_hub
    with stoppable(), open_backend(file, args.runs) as backend:
        print(f"{path.stem}: {backend.description}", flush=True)
        variables = {
            **os.environ,
            **AGENT_SETTINGS,
            SWEEP_VARIABLE: str(file),
            **backend.variables,
        }
        run_agents(backend.sweep, [{**variables, **device} for device in devices])
    return report(file, args.runs)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.run")
    parser.add_argument("sweep", help="name of a file in sweeps/")
    parser.add_argument("overrides", nargs="*", help="of the configuration, for every trial")
    parser.add_argument("--agents", type=int, default=1, help="trials trained at the same time")
    parser.add_argument("--backend", choices=("auto", "cloud", "local"), default="auto")
    parser.add_argument("--runs", type=Path, default=DEFAULT_RUNS)
    # Overrides may stand after options, which `parse_args` would not accept.
    return parser.parse_intermixed_args(arguments)


def sweep_file(name: str) -> Path:
    """Path of the file of a sweep.

    Raises:
        ValueError: there is no such sweep; names the nearest one.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    stem = Path(name).stem
    if stem not in known:
        nearest = difflib.get_close_matches(stem, known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"SWEEP={name}: no such sweep.{hint} Known: {', '.join(known)}.")
    return FOLDER / f"{stem}.yaml"


def with_overrides(file: Path, overrides: Sequence[str], runs: Path) -> Path:
    """Add overrides of the configuration to the command of every trial.

    Args:
        file: sweep file.
        overrides: each `key=value`.
        runs: folder of all runs.

    Returns:
        A changed copy in the folder of the sweep's report; the file itself if there is no override.
    """
    if not overrides:
        return file
    sweep = read_sweep(file)
    command = sweep["command"]
    # They come before the parameters of a trial, which take precedence.
    index = parameters_index(file, sweep)
    changed = {**sweep, "command": [*command[:index], *overrides, *command[index:]]}
    # The report reads the comments at the top.
    lines = file.read_text().splitlines(keepends=True)
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    copy = runs / "sweeps" / file.stem / SAVED_SWEEP
    copy.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
    copy.write_text("".join(head) + text)
    return copy


def read_sweep(file: Path) -> dict[str, Any]:
    """Content of a sweep file.

    Raises:
        ValueError: it is no YAML map.
    """
    try:
        sweep = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(sweep, dict):
        raise ValueError(f"{file} is no sweep: it needs `method:`, `parameters:` and `command:`")
    return sweep


def check_sweep(file: Path, backend: str) -> None:
    """Check a sweep before a server or a trial is started.

    Args:
        file: sweep file.
        backend: cloud or local; the local hub does not do all that the cloud does.

    Raises:
        ValueError: the program could not be given its parameters, or the local hub cannot search
            them.
    """
    sweep = read_sweep(file)
    parameters_index(file, sweep)
    if backend == "cloud":
        return
    try:
        check(sweep)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def warn_of_report(file: Path) -> None:
    """Print what a sweep file lacks for its report, before it runs for hours.

    Args:
        file: sweep file.
    """
    try:
        read_sweep_file(file, file.stem)
    except ValueError as error:
        print(f"warning: there will be no report: {error}", flush=True)
        return
    if not has_head(file.read_text()):
        print(
            f"warning: {file} opens without `# Question:`, `# Cost:` and `# Figure:`; its report "
            "has its name and metric instead",
            flush=True,
        )


def parameters_index(file: Path, sweep: dict[str, Any]) -> int:
    """Place in the command of a sweep at which W&B puts the parameters of a trial.

    Raises:
        ValueError: there is no command, or it gives the parameters in a form that train.py does not
            take.
    """
    command = sweep.get("command")
    form = "`- ${args_no_hyphens}` as its last line, after `- ${program}` and the YAML files"
    if not isinstance(command, list):
        raise ValueError(
            f"{file}: command={command!r}: W&B would give the parameters as --name=value, which "
            f"train.py does not take; give a list with {form}"
        )
    for index, part in enumerate(command):
        if part == PARAMETERS:
            return index
        if str(part).startswith("${args"):
            raise ValueError(
                f"{file}: command has {part}: its programs take name=value; write {form}"
            )
    raise ValueError(f"{file}: command={command}: no place for the parameters; write {form}")


@contextlib.contextmanager
def on_cloud(file: Path, runs: Path) -> Iterator[Backend]:
    """Create the sweep on the W&B cloud.

    Args:
        file: sweep file.
        runs: folder of all runs; not used.

    Raises:
        ValueError: W&B does not take the sweep.
    """
    created = subprocess.run(["wandb", "sweep", str(file)], capture_output=True, text=True)
    match = re.search(r"wandb agent (\S+)\s*$", created.stderr)
    if created.returncode or not match:
        reason = (created.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(
            f"`wandb sweep {file}` failed: {reason}; without a network, BACKEND=local runs the sweep "
            "on this machine"
        )
    sweep = match[1]
    yield Backend(f"the W&B cloud, {sweep}", sweep, {})


@contextlib.contextmanager
def on_hub(file: Path, runs: Path) -> Iterator[Backend]:
    """Start a hub on this machine, and end it with the context.

    Its database outlives it, so the same command continues the same sweep.

    Args:
        file: sweep file.
        runs: folder of all runs.

    Raises:
        ValueError: the hub did not start.
    """
    root = runs / "hub"
    command = [sys.executable, "-m", "sweeps.hub", "--port", "0"]
    command += ["--root", str(root), "--sweeps", str(file.parent)]
    # In a session of its own, since Ctrl-C must not end it before the agents.
    hub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert hub.stdout is not None
    try:
        url = hub.stdout.readline().removeprefix("hub: ").strip()
        if not url:
            raise ValueError("the hub did not start")
        # Other users see the command lines of all processes, but not their environment.
        key = (root / KEY_FILE).read_text()
        variables = {"WANDB_BASE_URL": url, "WANDB_API_KEY": key, "WANDB_ENTITY": ENTITY}
        description = f"a hub of this machine, {url}, without a W&B account"
        yield Backend(description, f"sweeps/{file.name}", variables)
    finally:
        hub.terminate()
        hub.wait()


def devices_of_agents(num_agents: int) -> list[dict[str, str]]:
    """Environment variables by which each agent, and so each trial, has a GPU of its own.

    A single agent keeps all GPUs. Without a GPU nothing is set.

    Args:
        num_agents: trials trained at the same time.

    Raises:
        ValueError: there are fewer GPUs than agents.
    """
    devices = visible_devices()
    if num_agents == 1 or not devices:
        return [{} for _ in range(num_agents)]
    if num_agents > len(devices):
        raise ValueError(
            f"AGENTS={num_agents}: there are {len(devices)} GPUs ({', '.join(devices)}), and each "
            f"trial needs one of its own; at most AGENTS={len(devices)}"
        )
    return [{VISIBLE_DEVICES: device} for device in devices[:num_agents]]


def visible_devices() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    listed = os.environ.get(VISIBLE_DEVICES)
    if listed is not None:
        return [device.strip() for device in listed.split(",") if device.strip()]
    return [str(device) for device in range(torch.cuda.device_count())]


def run_agents(sweep: str, environments: Sequence[dict[str, str]]) -> None:
    """Run agents until they have nothing left to do.

    Args:
        sweep: name of the sweep as `wandb agent` takes it.
        environments: environment variables of each agent.
    """
    command = ["wandb", "agent", "--forward-signals", "--term-timeout", str(TERM_TIMEOUT_S), sweep]
    agents = []
    for variables in environments:
        # W&B calls `python`, which must be the one that runs this.
        path = f"{Path(sys.executable).parent}:{variables.get('PATH', '')}"
        # In a session of its own, so that Ctrl-C reaches it as a single SIGTERM.
        agent = subprocess.Popen(command, env={**variables, "PATH": path}, start_new_session=True)
        agents.append(agent)
    try:
        for agent in agents:
            agent.wait()
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM end the sweep like Ctrl-C: trials are saved, and the same command continues.

    Raises:
        SystemExit: with code 143, after either signal.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_STOPPED)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(EXIT_STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def report(file: Path, runs: Path) -> int:
    """Print how the trials of a sweep ended.

    Exit codes of the agents do not tell: an agent's is 0 even if all its trials have failed.

    Args:
        file: of the sweep, or its copy with overrides.
        runs: folder of all runs.

    Returns:
        Exit code: 0 if there are trials, no point of a grid is missing and all have finished; else
        1.
    """
    sweep = read_sweep(file)
    name = sweep_name(file)
    trials = outcomes(sweep, file_digest(file), name, runs)
    counts = collections.Counter(trial.state for trial in trials)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"{name}: {states or 'no trial'}")
    unfinished = [trial for trial in trials if trial.state != "finished"]
    for trial in unfinished:
        place = trial.folder or "no run"
        print(f"  {trial.state}: {place}  {trial.parameters}  {trial.error}")
    return 1 if unfinished or not trials else 0


def sweep_name(file: Path) -> str:
    """Name of a sweep, from its file or from the copy of that in the folder of its report."""
    return file.parent.name if file.name == SAVED_SWEEP else file.stem


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
