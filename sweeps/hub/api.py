"""The GraphQL fields that the W&B client uses."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any

from sweeps.hub.agents import Agents
from sweeps.hub.answer import Refused, Roots, answer, connection
from sweeps.hub.artifacts import Artifacts
from sweeps.hub.files import Files
from sweeps.hub.filters import matches, ordered
from sweeps.hub.runs import Runs, now, number_of
from sweeps.hub.store import Record, Store
from sweeps.hub.sweep_store import SweepStore

ENTITY = "local"
OWNER = {
    "id": "owner",
    "name": ENTITY,
    "username": ENTITY,
    "entity": ENTITY,
    "email": "",
    "flags": "{}",
    "admin": True,
}


class Api:
    """Everything the hub knows and does.

    Args:
        root: folder of its database and files.
        folder: of the sweep files that agents may name.
        key: that clients must show; also makes the tokens of file addresses.
        url: by which clients reach it.
        heartbeat_timeout_s: seconds of silence after which a run is handed out again.
    """

    def __init__(self, root: Path, folder: Path, key: str, url: str, heartbeat_timeout_s: float):
        self.store = Store(root / "hub.db")
        self.files = Files(root / "storage", key, url)
        self.runs = Runs(self.store, self.files)
        self.sweeps = SweepStore(self.store, self.runs, folder)
        self.agents = Agents(self.store, self.runs, self.sweeps, heartbeat_timeout_s)
        self.artifacts = Artifacts(self.store, self.files)
        self.key = key

    def graphql(self, body: Any) -> dict[str, Any]:
        """Raises Refused: what is asked for is not to be had."""
        if not isinstance(body, dict) or not isinstance(body.get("query"), str):
            raise Refused("need {query, variables}")
        with self.store.transaction():
            return answer(body["query"], body.get("variables") or {}, self._roots())

    def stream(self, project: str, run: str, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise Refused("need an object")
        with self.store.transaction():
            stopped = self.runs.stream(project, run, body)["stop"]
        return {"exitcode": None, "limits": {}, "stopped": stopped}

    def _roots(self) -> Roots:
        return {
            "viewer": lambda given: {**OWNER, "teams": connection([{"id": ENTITY, "name": ENTITY}])},
            "entity": lambda given: {"id": ENTITY, "name": ENTITY, "organization": {}},
            "serverInfo": lambda given: {
                "features": [], "cliVersionInfo": json.dumps({"max_cli_version": "99.0.0"}),
            },
            "project": self._project, "model": self._project,
            "models": lambda given: connection([self._project(p) for p in self._projects()], given),
            "view": lambda given: self.store.get("view", given["id"]),
            "upsertModel": lambda given: self._upsert_project(given),
            "upsertSweep": self._upsert_sweep,
            "createAgent": lambda given: {"agent": self.agents.create(given)},
            "agentHeartbeat": self._heartbeat,
            "upsertBucket": self._upsert_run,
            "stopRun": self._stop,
            "createRunFiles": self._place,
            "markRunFilesUploaded": lambda given: {"success": True},
            "createArtifact": self.artifacts.create,
            "createArtifactManifest": self.artifacts.manifest,
            "updateArtifactManifest": self.artifacts.manifest,
            "createArtifactFiles": self.artifacts.place,
            "commitArtifact": self.artifacts.commit,
            "upsertView": self._upsert_view,
        }  # fmt: skip

    def _projects(self) -> list[Record]:
        names = dict.fromkeys(
            record["project"] for kind in ("run", "sweep") for record in self.store.all(kind)
        )
        return [{"name": name} for name in names]

    def _project(self, given: dict[str, Any]) -> Record:
        """A project is there as soon as it is named."""
        name = given.get("name") or "uncategorized"
        number = number_of(name)

        def runs(asked: dict[str, Any]) -> list[Record]:
            filters = json.loads(asked.get("filters") or "{}")
            return ordered(
                [run for run in self.runs.of_project(name) if matches(run, filters)],
                asked.get("order"),
            )

        def started(asked: dict[str, Any]) -> Record | None:
            run = self.runs.find(name, asked["name"])
            return self._run(run) if run and run["started"] else None

        return {
            "__typename": "Project", "id": f"project-{number}", "internalId": number, "name": name,
            "entityName": ENTITY, "entity": {"id": ENTITY, "name": ENTITY}, "createdAt": now(), "isBenchmark": False,
            "user": OWNER, "runCount": lambda asked: len(runs(asked)), "bucket": started,
            "runs": lambda asked: connection([self._run(run) for run in runs(asked)], asked),
            "run": lambda asked: self._run(self.runs.find(name, asked["name"])),
            "sweep": lambda asked: self._sweep(self.sweeps.find(name, asked.get("sweepName") or asked.get("name"))),
            "sweeps": lambda asked: connection(
                [self._sweep(sweep) for sweep in self.store.all("sweep") if sweep["project"] == name], asked
            ),
        }  # fmt: skip

    def _upsert_project(self, given: dict[str, Any]) -> Record:
        project = self._project(given)
        return {"model": project, "project": project, "inserted": True}

    def _run(self, run: Record | None) -> Record | None:
        project = (
            {"name": run["project"], "id": run["project"], "entityName": ENTITY} if run else None
        )
        entity = {"id": ENTITY, "name": ENTITY}
        return run and {
            **self.runs.node(run),
            "user": OWNER,
            "project": {**(project or {}), "entity": entity},
        }

    def _sweep(self, sweep: Record | None) -> Record | None:
        project = self._project({"name": sweep["project"]}) if sweep else None
        return sweep and {**self.sweeps.node(sweep), "user": OWNER, "project": project}

    def _upsert_sweep(self, given: dict[str, Any]) -> Record:
        return {"sweep": self._sweep(self.sweeps.upsert(given)), "configValidationWarnings": []}

    def _heartbeat(self, given: dict[str, Any]) -> Record:
        agent, commands = self.agents.heartbeat(given)
        return {"agent": agent, "commands": json.dumps(commands)}

    def _upsert_run(self, given: dict[str, Any]) -> Record:
        """Raises Refused: a sweep that the hub does not know, as the cloud does."""
        project = given.get("modelName") or "uncategorized"
        if given.get("sweep") and self.sweeps.find(project, given["sweep"]) is None:
            raise Refused(f"sweep {given['sweep']} not found", 404)
        run, new = self.runs.upsert(given)
        return {"bucket": self._run(run), "inserted": new}

    def _stop(self, given: dict[str, Any]) -> Record:
        run = self.runs.by_id(given["id"])
        if run:
            self.runs.save({**run, "stop": True})
        return {"success": run is not None}

    def _place(self, given: dict[str, Any]) -> Record:
        place = ("runs", given["projectName"], given["runName"])
        files = [
            {"name": name, "uploadUrl": self.files.address(*place, name)} for name in given["files"]
        ]
        return {"runID": given["runName"], "uploadHeaders": [], "files": files}

    def _upsert_view(self, given: dict[str, Any]) -> Record:
        """A report. The client reads its number out of the id."""
        id_ = (
            given.get("id")
            or base64.b64encode(f"View:{secrets.randbelow(10**8)}".encode()).decode()
        )
        known = self.store.get("view", id_) or {"createdAt": now()}
        told = {name: value for name, value in given.items() if value is not None}
        project = {"name": given.get("projectName"), "entityName": ENTITY}
        view = self.store.put(
            "view", id_, {**known, **told, "id": id_, "updatedAt": now(), "project": project}
        )
        return {"view": view, "inserted": True}
