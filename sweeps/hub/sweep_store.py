"""Sweeps: made by `wandb sweep`, or by an agent that names a file of the sweep folder."""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import yaml

from sweeps.hub.answer import Refused, connection
from sweeps.hub.runs import OVER, Runs, key_of, now
from sweeps.hub.search import Trial, check
from sweeps.hub.store import Record, Store

ID = "hub-"
"""How the ids of the hub's sweeps begin, by which a run knows that its sweep is not the cloud's."""
KEPT = ("config", "description", "controller", "scheduler", "state", "displayName")
ENDED = ("FINISHED", "CANCELED")


class Board:
    """All sweeps.

    Args:
        folder: of the sweep files that agents may name.
    """

    def __init__(self, store: Store, runs: Runs, folder: Path):
        self.store, self.runs, self.folder = store, runs, folder.resolve()

    def new(self, text: str, project: str | None) -> Record:
        """Raises Refused: a sweep that cannot be searched, and why."""
        config = parsed(text)
        sweep = {
            "__typename": "Sweep", "id": secrets.token_hex(8), "name": ID + secrets.token_hex(4), "state": "PENDING",
            "project": project or config.get("project") or "uncategorized", "createdAt": now(), "config": text,
        }  # fmt: skip
        return self.save(sweep)

    def save(self, sweep: Record) -> Record:
        return self.store.put("sweep", key_of(sweep), sweep)

    def find(self, project: str | None, name: str) -> Record | None:
        """By its id, or by the name of its file: as long as that is the same, so is the sweep."""
        if not name.endswith((".yaml", ".yml")):
            named = self.store.get("sweep", f"{project or 'uncategorized'}/{name}")
            return named or next(
                (sweep for sweep in self.store.all("sweep") if sweep["name"] == name), None
            )
        path = (self.folder / name).resolve()
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

    def upsert(self, given: dict[str, Any]) -> Record:
        """`wandb sweep`: a new one, or another file or state of one that is there."""
        if not given.get("id"):
            return self.new(given.get("config") or "", given.get("projectName"))
        sweep = next((s for s in self.store.all("sweep") if s["id"] == given["id"]), None)
        if sweep is None:
            raise Refused("sweep not found", 404)
        if given.get("config"):
            parsed(given["config"])
        return self.save(
            {**sweep, **{name: given[name] for name in KEPT if given.get(name) is not None}}
        )

    def begin(self, sweep: Record) -> Record:
        """An agent has come: points that failed are tried again where the sweep had ended."""
        if sweep["state"] == "FINISHED":
            again = [
                run
                for run in self.runs.of_sweep(key_of(sweep))
                if run["state"] in ("failed", "crashed")
            ]
            for run in again:
                self.runs.save({**run, "state": "preempted", "failures": 0})
            if not again:
                return sweep
        return (
            self.save({**sweep, "state": "RUNNING"})
            if sweep["state"] in ("PENDING", "FINISHED")
            else sweep
        )

    def trials(self, sweep: Record, runs: list[Record]) -> list[Trial]:
        """What is known of the points handed out."""
        name = (parsed(sweep["config"]).get("metric") or {}).get("name")
        values = [run["summary"].get(name) if run["state"] == "finished" else None for run in runs]
        return [
            Trial(
                run["args"],
                value if isinstance(value, int | float) else None,
                run["state"] not in OVER,
            )
            for run, value in zip(runs, values, strict=True)
        ]

    def node(self, sweep: Record) -> Record:
        """The fields that the client asks for."""
        config, runs = parsed(sweep["config"]), self.runs.of_sweep(key_of(sweep))
        values = [trial.value for trial in self.trials(sweep, runs) if trial.value is not None]
        best = max if (config.get("metric") or {}).get("goal") == "maximize" else min
        return {
            **sweep, "method": config["method"], "bestLoss": best(values, default=None), "runCount": len(runs),
            "runs": lambda given: connection([self.runs.node(run) for run in runs], given),
            "agents": lambda given: connection(self.store.all("agent", key_of(sweep)), given),
            "priorRuns": {"edges": []}, "displayName": sweep.get("displayName") or config.get("name"),
        }  # fmt: skip


def parsed(text: str) -> dict[str, Any]:
    """Raises Refused: no sweep."""
    try:
        config = yaml.safe_load(text)
        check(config)
    except (yaml.YAMLError, ValueError) as error:
        raise Refused(f"invalid sweep: {error}") from None
    return config
