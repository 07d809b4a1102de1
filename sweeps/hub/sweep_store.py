"""Sweeps: made by `wandb sweep`, or by an agent that names a file of the sweep folder."""

import functools
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sweeps.hub.answer import Refused, connection
from sweeps.hub.runs import OVER, Runs, key_of, now
from sweeps.hub.search import Trial, check
from sweeps.hub.store import Record, Store

ID = "hub-"
"""Prefix of the ids of the hub's sweeps, by which a run knows that its sweep is not the cloud's."""
STORED_FIELDS = ("config", "description", "controller", "scheduler", "state", "displayName")
"""Fields of a sweep that the client may change."""
ENDED = ("FINISHED", "CANCELED")
"""States in which no trial is handed out."""


class SweepStore:
    """All sweeps.

    Args:
        store: records on disk.
        runs: the runs of all sweeps.
        folder: folder of the sweep files that agents may name.
    """

    def __init__(self, store: Store, runs: Runs, folder: Path):
        self.store = store
        self.runs = runs
        self.folder = folder.resolve()

    def new(self, text: str, project: str | None) -> Record:
        """Create a sweep from the text of its file.

        Raises:
            Refused: it is no sweep, or cannot be searched; says why.
        """
        config = parse_sweep(text)
        sweep = {
            "__typename": "Sweep",
            "id": secrets.token_hex(8),
            "name": ID + secrets.token_hex(4),
            "state": "PENDING",
            "project": project or config.get("project") or "uncategorized",
            "createdAt": now(),
            "config": text,
        }
        return self.save(sweep)

    def save(self, sweep: Record) -> Record:
        """Store a sweep; returns it."""
        return self.store.put("sweep", key_of(sweep), sweep)

    def find(self, project: str | None, name: str) -> Record | None:
        """A sweep by its id, or by the name of its file.

        A file stands for one sweep as long as its text is the same; another text makes a new one.
        """
        if name.endswith((".yaml", ".yml")):
            return self._of_file(name)
        sweep = self.store.get("sweep", f"{project or 'uncategorized'}/{name}")
        if sweep is not None:
            return sweep
        # The client may not know the project.
        for sweep in self.store.all("sweep"):
            if sweep["name"] == name:
                return sweep
        return None

    def _of_file(self, name: str) -> Record | None:
        path = (self.folder / name).resolve()
        # A name with `..` must not read files elsewhere.
        if path.parent != self.folder or not path.is_file():
            return None
        text = path.read_text()
        content = f"{name} {hashlib.sha256(text.encode()).hexdigest()}"
        known = self.store.get("content", content)
        if known:
            return self.store.get("sweep", known["key"])
        sweep = self.new(text, None)
        self.store.put("content", content, {"key": key_of(sweep)})
        return sweep

    def upsert(self, variables: Mapping[str, Any]) -> Record:
        """`wandb sweep`: create a sweep, or change the file or state of one.

        Raises:
            Refused: there is no such sweep, the file is no sweep, or runs are to be taken into it.
        """
        if variables.get("priorRunsFilters"):
            raise Refused(
                "--prior_run (-R): the hub does not take runs into a sweep; leave it out: points "
                "that were trained before are found again by their configuration"
            )
        if not variables.get("id"):
            return self.new(variables.get("config") or "", variables.get("projectName"))
        sweep = self._by_id(variables["id"])
        # A text that cannot be searched must not be stored.
        if variables.get("config"):
            parse_sweep(variables["config"])
        changes = {}
        for name in STORED_FIELDS:
            if variables.get(name) is not None:
                changes[name] = variables[name]
        if changes.get("state") == "CANCELED":
            self.runs.cancel(key_of(sweep))
        return self.save({**sweep, **changes})

    def _by_id(self, id_: str) -> Record:
        for sweep in self.store.all("sweep"):
            if sweep["id"] == id_:
                return sweep
        raise Refused("sweep not found", 404)

    def begin(self, sweep: Record) -> Record:
        """Note that an agent has come; a finished sweep tries its failed trials again."""
        if sweep["state"] == "FINISHED":
            failed = [
                run
                for run in self.runs.of_sweep(key_of(sweep))
                if run["state"] in ("failed", "crashed")
            ]
            if not failed:
                return sweep
            for run in failed:
                self.runs.save({**run, "state": "preempted", "failures": 0})
        if sweep["state"] in ("PENDING", "FINISHED"):
            return self.save({**sweep, "state": "RUNNING"})
        return sweep

    def _agents(self, sweep: Record) -> list[Record]:
        return self.store.all("agent", key_of(sweep))

    def trials(self, sweep: Record, runs: Sequence[Record]) -> list[Trial]:
        """Parameters and results of the trials that have been handed out."""
        metric = parse_sweep(sweep["config"]).get("metric") or {}
        trials = []
        for run in runs:
            value = None
            if run["state"] == "finished":
                value = run["summary"].get(metric.get("name"))
            # NaN and infinity are text here: a diverged trial has no value.
            if not isinstance(value, int | float):
                value = None
            trials.append(Trial(run["args"], value, run["state"] not in OVER))
        return trials

    def node(self, sweep: Record) -> Record:
        """The fields that the client asks for."""
        config = parse_sweep(sweep["config"])
        runs = self.runs.of_sweep(key_of(sweep))
        values = [trial.value for trial in self.trials(sweep, runs) if trial.value is not None]
        maximize = (config.get("metric") or {}).get("goal") == "maximize"
        best = max(values, default=None) if maximize else min(values, default=None)
        return {
            **sweep,
            "method": config["method"],
            "bestLoss": best,
            "runCount": len(runs),
            # Functions are called with the arguments of the field, if the client asks for it.
            "runs": lambda arguments: connection([self.runs.node(run) for run in runs], arguments),
            "agents": lambda arguments: connection(self._agents(sweep), arguments),
            "priorRuns": {"edges": []},
            "displayName": sweep.get("displayName") or config.get("name"),
        }


@functools.lru_cache
def parse_sweep(text: str) -> dict[str, Any]:
    """The content of a sweep file. Raises Refused: it is no sweep that can be searched."""
    try:
        config: dict[str, Any] = yaml.safe_load(text)
        check(config)
    except (yaml.YAMLError, ValueError) as error:
        raise Refused(f"invalid sweep: {error}") from None
    return config
