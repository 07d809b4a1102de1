"""Run a sweep with the real `wandb agent`: on the W&B cloud where you are logged in, else on a hub of this machine.

python -m sweeps.run slice_size [--agents 2] [--backend auto|cloud|local] [trainer.max_steps=400 ...]
"""

import argparse
import collections
import contextlib
import difflib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from sweeps.hub.__main__ import KEY, wandb_login
from sweeps.hub.api import ENTITY

FOLDER = Path("sweeps")
PATIENT = {"WANDB_AGENT_DISABLE_FLAPPING": "true", "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000000"}
"""Points that cannot be do not keep an agent from the others."""
SWEEP_FILE = "DUPLEXMAMBA_SWEEP"
"""The variable that tells a point where the file of its sweep lies."""
GRACE_S = 90
"""Time that a point has to write its checkpoint after SIGTERM."""


def main(args: list[str]) -> int:
    """Exit code: 0 where every point has finished, 1 where one has not, 143 where it was stopped."""
    given = parse(args)
    name = sweep_file(given.sweep).stem
    file = with_words(sweep_file(given.sweep), given.words, given.runs)
    backend = given.backend
    if backend == "auto":
        backend = "cloud" if wandb_login() else "local"
    with (
        stoppable(),
        (on_cloud if backend == "cloud" else on_hub)(file, given.runs) as (where, sweep, variables),
    ):
        print(f"{name}: {where}", flush=True)
        work(sweep, given.agents, {**os.environ, **PATIENT, SWEEP_FILE: str(file), **variables})
    return report(name, given.runs)


def parse(args: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sweeps.run")
    parser.add_argument("sweep", help="name of a file in sweeps/")
    parser.add_argument("words", nargs="*", help="of the configuration, for every point")
    parser.add_argument("--agents", type=int, default=1, help="points trained at the same time")
    parser.add_argument("--backend", choices=("auto", "cloud", "local"), default="auto")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser.parse_intermixed_args(args)


def sweep_file(name: str) -> Path:
    """Raises ValueError naming the nearest sweep."""
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    stem = Path(name).stem
    if stem not in known:
        near = difflib.get_close_matches(stem, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"SWEEP={name}: no such sweep.{hint} Known: {', '.join(known)}.")
    return FOLDER / f"{stem}.yaml"


def with_words(file: Path, words: list[str], runs: Path) -> Path:
    """The file itself, or a copy beside the report in which every point is given these words of the configuration."""
    if not words:
        return file
    lines = file.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if line.strip() == "- ${args_no_hyphens}")
    begin = lines[place].partition("-")[0]
    given = [f"{begin}- {json.dumps(word)}" for word in words]
    copy = runs / "sweeps" / file.stem / "sweep.yaml"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text("\n".join([*lines[:place], *given, *lines[place:], ""]))
    return copy


@contextlib.contextmanager
def on_cloud(file: Path, runs: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Raises ValueError: W&B does not take the sweep."""
    made = subprocess.run(["wandb", "sweep", str(file)], capture_output=True, text=True)
    found = re.search(r"wandb agent (\S+)\s*$", made.stderr)
    if made.returncode or not found:
        raise ValueError(f"wandb sweep {file} failed: {made.stderr.strip()}")
    yield f"the W&B cloud, {found[1]}", found[1], {}


@contextlib.contextmanager
def on_hub(file: Path, runs: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Its database outlives it: the same command goes on with the same sweep."""
    command = [sys.executable, "-m", "sweeps.hub", "--port", "0", "--root", str(runs / "hub")]
    command += ["--sweeps", str(file.parent)]
    hub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert hub.stdout is not None
    try:
        url = hub.stdout.readline().removeprefix("hub: ").strip()
        if not url:
            raise ValueError("the hub did not start")
        variables = {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": ENTITY}
        yield (
            f"a hub of this machine, {url}, without a W&B account",
            f"sweeps/{file.name}",
            variables,
        )
    finally:
        hub.terminate()
        hub.wait()


def work(sweep: str, agents: int, variables: dict[str, str]) -> None:
    """Until the agents have nothing left to do. They are sessions of their own: Ctrl-C reaches them as SIGTERM."""
    variables["PATH"] = (
        f"{Path(sys.executable).parent}:{variables.get('PATH', '')}"  # W&B calls `python`
    )
    command = ["wandb", "agent", "--forward-signals", "--term-timeout", str(GRACE_S), sweep]
    working = [
        subprocess.Popen(command, env=variables, start_new_session=True) for _ in range(agents)
    ]
    try:
        for agent in working:
            agent.wait()
    finally:
        for agent in working:
            agent.terminate()
        for agent in working:
            agent.wait()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends the sweep as Ctrl-C does: the points are saved, and the same command goes on."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(143) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def report(name: str, runs: Path) -> int:
    """How the points ended; an agent's own exit code is 0 even where all have failed."""
    paths = [
        path for path in sorted(runs.glob("*/sweep.json")) if not path.parent.is_symlink()
    ]  # runs/latest
    noted = [json.loads(path.read_text()) | {"folder": path.parent} for path in paths]
    points = [point for point in noted if point["name"] == name]
    counts = collections.Counter(point["state"] for point in points)
    print(
        f"{name}: "
        + (", ".join(f"{count} {state}" for state, count in counts.items()) or "no point")
    )
    unfinished = [point for point in points if point["state"] != "finished"]
    for point in unfinished:
        print(
            f"  {point['state']}: {point['folder']}  {point['parameters']}  {point.get('error', '')}"
        )
    return int(bool(unfinished) or not points)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
