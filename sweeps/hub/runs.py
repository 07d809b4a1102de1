"""Runs as the client reports them: what they are, their history and how they ended."""

import hashlib
import json
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from sweeps.hub.answer import connection
from sweeps.hub.files import Files
from sweeps.hub.store import Record, Store

ACTIVE, OVER = ("pending", "running"), ("finished", "failed", "crashed")
HISTORY, EVENTS, OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "output.log"
TOLD = ("displayName", "notes", "tags", "groupName", "jobType", "host", "commit", "jobProgram")
"""What the client says of a run that is only kept."""
SAMPLES = 500


class Runs:
    """Of all projects; those of sweeps are also found by their name alone, since `wandb agent sweeps/x.yaml` makes the
    client believe in a project `sweeps`."""

    def __init__(self, store: Store, files: Files):
        self.store, self.files = store, files

    def new(self, project: str, name: str, sweep: str = "", **given: Any) -> Record:
        """sweep: the key of the sweep it belongs to."""
        run = {
            "__typename": "Run", "id": secrets.token_hex(8), "name": name, "project": project, "displayName": name,
            "state": "running", "sweep": sweep, "args": {}, "config": {}, "summary": {}, "started": False,
            "preempting": False, "failures": 0, "agent": None, "createdAt": now(), "beat": time.time(), "tags": [],
            "exitcode": None, "stop": False,
        }  # fmt: skip
        return self.save({**run, **given})

    def save(self, run: Record) -> Record:
        if run["sweep"]:
            self.store.put("place", run["name"], {"key": key_of(run)})
        return self.store.put("run", key_of(run), run, run["sweep"])

    def find(self, project: str, name: str) -> Record | None:
        place = self.store.get("place", name)
        return self.store.get("run", f"{project}/{name}") or (
            self.store.get("run", place["key"]) if place else None
        )

    def by_id(self, id_: str) -> Record | None:
        return next((run for run in self.store.all("run") if run["id"] == id_), None)

    def of_project(self, project: str) -> list[Record]:
        return [run for run in self.store.all("run") if run["project"] == project]

    def of_sweep(self, sweep: str) -> list[Record]:
        return self.store.all("run", sweep)

    def upsert(self, given: dict[str, Any]) -> tuple[Record, bool]:
        """A run that begins, goes on, or says more of itself; and whether it is new."""
        project = given.get("modelName") or "uncategorized"
        found = (
            self.by_id(given["id"])
            if given.get("id")
            else self.find(project, given.get("name") or "")
        )
        new = found is None or not found["started"]
        run = found or self.new(project, given.get("name") or secrets.token_hex(4))
        run.update(
            started=True, beat=time.time(), exitcode=None, state=given.get("state") or "running"
        )
        if given.get("config"):
            run["config"] = json.loads(given["config"])
        if given.get("summaryMetrics"):
            run["summary"] = json.loads(given["summaryMetrics"])
        run |= {name: given[name] for name in TOLD if given.get(name)}
        return self.save(run), new

    def stream(self, project: str, name: str, body: dict[str, Any]) -> Record:
        """New lines of a run's files, and its end."""
        run = self.find(project, name) or self.new(project, name)
        for file, part in (body.get("files") or {}).items():
            lines = part.get("content") or []
            if file == "wandb-summary.json" and lines:
                run["summary"] = json.loads(lines[-1])
            elif file in (HISTORY, EVENTS, OUTPUT):
                self.store.write(key_of(run), file, part.get("offset") or 0, lines)
        run["beat"] = time.time()
        run["preempting"] = run["preempting"] or bool(body.get("preempting"))
        if body.get("complete"):
            code = run["exitcode"] = body.get("exitcode")
            run["state"] = (
                "finished" if code == 0 else "preempted" if run["preempting"] else "failed"
            )
            run["preempting"] = False
        return self.save(run)

    def node(self, run: Record) -> Record:
        """The fields that the client asks for; JSON within JSON is W&B's."""
        key, state = key_of(run), run["state"]
        return {
            **run, "projectId": number_of(run["project"]), "config": json.dumps(run["config"]),
            "summaryMetrics": json.dumps(run["summary"]), "systemMetrics": "{}",
            "state": "preempting" if run["preempting"] and state in ACTIVE else state,
            "sweepName": run["sweep"].rpartition("/")[2] or None, "group": run.get("groupName"),
            "historyLineCount": self.store.count(key, HISTORY), "eventsLineCount": self.store.count(key, EVENTS),
            "logLineCount": self.store.count(key, OUTPUT),
            "historyTail": json.dumps(self.store.last(key, HISTORY)),
            "eventsTail": json.dumps(self.store.last(key, EVENTS)),
            "wandbConfig": json.dumps({"t": 1} if run["started"] else {}), "shouldStop": run["stop"],
            "stopped": run["stop"], "failed": state == "failed", "running": state == "running", "readOnly": False,
            "heartbeatAt": datetime.fromtimestamp(run["beat"], UTC).isoformat(timespec="seconds"),
            "history": lambda given: self._history(key, given), "historyKeys": lambda given: self._keys(key),
            "sampledHistory": lambda given: self._sampled(key, given),
            "events": lambda given: self.store.lines(key, EVENTS),
            "files": lambda given: connection(self.files.nodes(run["project"], run["name"]), given),
            "fileCount": len(self.files.nodes(run["project"], run["name"])),
        }  # fmt: skip

    def _rows(self, key: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.store.lines(key, HISTORY)]

    def _history(self, key: str, given: dict[str, Any]) -> list[str]:
        low, high = given.get("minStep") or 0, given.get("maxStep") or float("inf")
        rows = [json.dumps(row) for row in self._rows(key) if low <= row.get("_step", 0) < high]
        return rows[: given.get("samples") or None]

    def _sampled(self, key: str, given: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """For each specification the rows that have all its keys, thinned evenly."""
        specs = given.get("specs") or ["{}"]
        found = []
        for spec in [specs] if isinstance(specs, str) else specs:
            wanted = json.loads(spec) if isinstance(spec, str) else spec
            names = wanted.get("keys")
            rows = [row for row in self._rows(key) if all(name in row for name in names or [])]
            thin = rows[:: max(1, -(-len(rows) // (wanted.get("samples") or SAMPLES)))]
            found.append([{name: row[name] for name in names} for row in thin] if names else thin)
        return found

    def _keys(self, key: str) -> dict[str, Any]:
        rows = self._rows(key)
        names = sorted({name for row in rows for name in row})
        kinds = {name: {"typeCounts": [{"type": "number", "count": len(rows)}]} for name in names}
        return {"keys": kinds, "sets": [], "lastStep": rows[-1].get("_step", 0) if rows else 0}


def key_of(run: Record) -> str:
    return f"{run['project']}/{run['name']}"


def number_of(project: str) -> str:
    """The client reads it as a whole number."""
    return str(int(hashlib.sha256(project.encode()).hexdigest()[:7], 16))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").removesuffix("+00:00")
