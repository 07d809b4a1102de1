"""Runs as the W&B client reports them: fields, history, and how they end."""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sweeps.hub.answer import Arguments, connection
from sweeps.hub.files import Files
from sweeps.hub.store import Record, Store, read_json

ACTIVE = ("pending", "running")
"""States of runs that an agent works on."""
OVER = ("finished", "failed", "crashed", "killed")
"""States of runs that are not handed out again by themselves."""
HISTORY = "wandb-history.jsonl"
EVENTS = "wandb-events.jsonl"
OUTPUT = "output.log"
PASSIVE_FIELDS = (
    "displayName",
    "notes",
    "tags",
    "groupName",
    "jobType",
    "host",
    "commit",
    "jobProgram",
)
"""Fields of a run that are stored for the client and have no effect here."""
DEFAULT_SAMPLES = 500
"""Rows of a sampled history, unless the client asks for another number."""


class Runs:
    """All runs of all projects.

    Runs of sweeps are also found by their name alone: `wandb agent sweeps/x.yaml` makes the client
    believe in a project `sweeps`.
    """

    def __init__(self, store: Store, files: Files):
        self.store = store
        self.files = files

    def new(self, project: str, name: str, sweep: str = "", **fields: Any) -> Record:
        """Create and store a run.

        Args:
            project: name of its project.
            name: its id within the project.
            sweep: key of the sweep that it belongs to; "" for none.
            fields: values that differ from those of a new run.
        """
        run = {
            "__typename": "Run",
            "id": secrets.token_hex(8),
            "name": name,
            "project": project,
            "displayName": name,
            "state": "running",
            "sweep": sweep,
            "args": {},
            "config": {},
            "summary": {},
            "started": False,
            "preempting": False,
            "failures": 0,
            "agent": None,
            "createdAt": now(),
            "beat": time.time(),
            "tags": [],
            "exitcode": None,
            "stop": False,
        }
        run.update(fields)
        return self.save(run)

    def save(self, run: Record) -> Record:
        """Store a run; returns it."""
        key = key_of(run)
        sweep = run["sweep"]
        if sweep:
            # The client may ask for it in a project that it does not belong to.
            self.store.put("place", run["name"], {"key": key})
        return self.store.put("run", key, run, sweep)

    def find(self, project: str, name: str) -> Record | None:
        """The run of a name, in its project or, for a run of a sweep, in any.

        Args:
            project: in which the client looks for it.
            name: of the run.
        """
        run = self.store.get("run", f"{project}/{name}")
        if run is not None:
            return run
        location = self.store.get("place", name)
        if location is None:
            return None
        return self.store.get("run", location["key"])

    def by_id(self, id_: str) -> Record | None:
        """The run of an id, which is unique in all projects."""
        for run in self.store.all("run"):
            if run["id"] == id_:
                return run
        return None

    def of_project(self, project: str) -> list[Record]:
        """All runs of a project."""
        runs = self.store.all("run")
        return [run for run in runs if run["project"] == project]

    def of_sweep(self, sweep: str) -> list[Record]:
        """All runs of the sweep with this key."""
        return self.store.all("run", sweep)

    def cancel(self, sweep: str) -> None:
        """Stop all runs of the sweep with this key; none of them is handed out again."""
        for run in self.of_sweep(sweep):
            if run["state"] not in OVER:
                state = run["state"] if run["state"] in ACTIVE else "killed"
                self.save({**run, "stop": True, "state": state})

    def upsert(self, variables: Arguments) -> tuple[Record, bool]:
        """Start, resume or update a run.

        Args:
            variables: of the client's mutation.

        Returns:
            The run, and whether it has not been started before.
        """
        project = variables.get("modelName") or "uncategorized"
        if variables.get("id"):
            run = self.by_id(variables["id"])
        else:
            run = self.find(project, variables.get("name") or "")
        is_new = run is None or not run["started"]
        if run is None:
            run = self.new(project, variables.get("name") or secrets.token_hex(4))

        # The hub has created the runs of a sweep before their programs start.
        run["started"] = True
        run["beat"] = time.time()
        run["exitcode"] = None
        run["state"] = variables.get("state") or "running"
        if variables.get("config"):
            run["config"] = read_json(variables["config"])
        if variables.get("summaryMetrics"):
            run["summary"] = read_json(variables["summaryMetrics"])
        for name in PASSIVE_FIELDS:
            if variables.get(name):
                run[name] = variables[name]
        return self.save(run), is_new

    def stream(self, project: str, name: str, body: Mapping[str, Any]) -> Record:
        """Append lines to the files of a run, and note its end.

        Args:
            project: name of the project.
            name: name of the run.
            body: what the client posts to the file stream.
        """
        run = self.find(project, name) or self.new(project, name)
        for file, part in (body.get("files") or {}).items():
            lines = part.get("content") or []
            # Each line of the summary is a whole one, so only the last counts.
            if file == "wandb-summary.json" and lines:
                run["summary"] = read_json(lines[-1])
            elif file in (HISTORY, EVENTS, OUTPUT):
                first = part.get("offset") or 0
                self.store.write(key_of(run), file, first, lines)
        run["beat"] = time.time()
        # The client sends the mark once, and may send more before the end.
        run["preempting"] = run["preempting"] or bool(body.get("preempting"))
        if body.get("complete"):
            run["exitcode"] = body.get("exitcode")
            run["state"] = _final_state(run)
            run["preempting"] = False
        return self.save(run)

    def node(self, run: Record) -> Record:
        """The fields that the client asks for; JSON within JSON is W&B's own format."""
        key = key_of(run)
        state = run["state"]
        shown_state = "preempting" if run["preempting"] and state in ACTIVE else state
        heartbeat = datetime.fromtimestamp(run["beat"], UTC)
        return {
            **run,
            "projectId": number_of(run["project"]),
            "config": json.dumps(run["config"]),
            "summaryMetrics": json.dumps(run["summary"]),
            "systemMetrics": "{}",
            "state": shown_state,
            "sweepName": run["sweep"].rpartition("/")[2] or None,
            "group": run.get("groupName"),
            "historyLineCount": lambda arguments: self.store.count(key, HISTORY),
            "eventsLineCount": lambda arguments: self.store.count(key, EVENTS),
            "logLineCount": lambda arguments: self.store.count(key, OUTPUT),
            "historyTail": lambda arguments: json.dumps(self.store.last(key, HISTORY)),
            "eventsTail": lambda arguments: json.dumps(self.store.last(key, EVENTS)),
            "wandbConfig": json.dumps({"t": 1} if run["started"] else {}),
            "shouldStop": run["stop"],
            "stopped": run["stop"],
            "failed": state == "failed",
            "running": state == "running",
            "readOnly": False,
            "heartbeatAt": heartbeat.isoformat(timespec="seconds"),
            # Functions are called with the arguments of the field, if the client asks for it.
            "history": lambda arguments: self._history(key, arguments),
            "historyKeys": lambda arguments: self._history_keys(key),
            "sampledHistory": lambda arguments: self._sampled_history(key, arguments),
            "events": lambda arguments: self.store.lines(key, EVENTS),
            "files": lambda arguments: self._files(run, arguments),
            "fileCount": lambda arguments: len(self.files.nodes(run["project"], run["name"])),
        }

    def _files(self, run: Record, arguments: Arguments) -> Record:
        names = arguments.get("names") or []
        pattern = arguments.get("pattern") or ""
        nodes = self.files.nodes(run["project"], run["name"], names, pattern)
        return connection(nodes, arguments)

    def _rows(self, key: str) -> list[Record]:
        """Logged values of each step."""
        lines = self.store.lines(key, HISTORY)
        return [read_json(line) for line in lines]

    def _history(self, key: str, arguments: Arguments) -> list[str]:
        """Rows from minStep up to maxStep, at most `samples`, as JSON."""
        first = arguments.get("minStep") or 0
        end = arguments.get("maxStep") or float("inf")
        rows = []
        for row in self._rows(key):
            if first <= row.get("_step", 0) < end:
                rows.append(json.dumps(row))
        return rows[: arguments.get("samples") or None]

    def _sampled_history(self, key: str, arguments: Arguments) -> list[list[Record]]:
        """For each specification the rows that have all its keys, thinned evenly."""
        specifications = arguments.get("specs") or ["{}"]
        # The client sends one or a list of them, each as JSON or as an object.
        if isinstance(specifications, str):
            specifications = [specifications]
        samples = []
        for specification in specifications:
            if isinstance(specification, str):
                specification = json.loads(specification)
            samples.append(self._sample(key, specification))
        return samples

    def _sample(self, key: str, specification: Arguments) -> list[Record]:
        names = specification.get("keys") or []
        rows = []
        for row in self._rows(key):
            if row.keys() >= set(names):
                rows.append(row)
        num_samples = specification.get("samples") or DEFAULT_SAMPLES
        # Rounded up, so that there are never more samples than that.
        stride = max(1, -(-len(rows) // num_samples))
        sampled = rows[::stride]
        if not names:
            return sampled
        return [{name: row[name] for name in names} for row in sampled]

    def _history_keys(self, key: str) -> dict[str, Any]:
        """Names of all values in the history, in W&B's format."""
        rows = self._rows(key)
        names = sorted({name for row in rows for name in row})
        # The hub does not look at the values: all count as numbers.
        types = [{"type": "number", "count": len(rows)}]
        last_step = rows[-1].get("_step", 0) if rows else 0
        return {
            "keys": {name: {"typeCounts": types} for name in names},
            "sets": [],
            "lastStep": last_step,
        }


def _final_state(run: Record) -> str:
    if run["exitcode"] == 0:
        return "finished"
    if run["stop"]:
        return "killed"
    return "preempted" if run["preempting"] else "failed"


def key_of(run: Record) -> str:
    """Key of a run or sweep in the store: project and name.

    Args:
        run: record of the run or sweep.
    """
    return f"{run['project']}/{run['name']}"


def number_of(project: str) -> str:
    """Id of a project, a whole number as text, as the client reads it."""
    digest = hashlib.sha256(project.encode()).hexdigest()
    return str(int(digest[:7], 16))


def now() -> str:
    """Current time in UTC, in W&B's format."""
    return datetime.now(UTC).isoformat(timespec="seconds").removesuffix("+00:00")
