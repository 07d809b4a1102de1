"""The root fields of W&B's GraphQL that its client uses."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any

from sweeps.hub.agents import Agents
from sweeps.hub.answer import Arguments, Refused, Roots, answer, connection
from sweeps.hub.artifacts import Artifacts
from sweeps.hub.files import Files
from sweeps.hub.filters import matches, ordered
from sweeps.hub.private import private_folder
from sweeps.hub.runs import Runs, now, number_of
from sweeps.hub.store import Record, Store
from sweeps.hub.sweep_store import SweepStore

ENTITY = "local"
"""W&B user to whom everything on the hub belongs."""
ENTITY_NODE = {"id": ENTITY, "name": ENTITY}
DEFAULT_PROJECT = "uncategorized"
"""Project of runs for which the client names none."""
MAX_VIEW_NUMBER = 10**8
OWNER = {
    "id": "owner",
    "name": ENTITY,
    "username": ENTITY,
    "entity": ENTITY,
    "email": "",
    "flags": "{}",
    "admin": True,
}
"""The user in the form in which the client asks for it."""


class Api:
    """The hub's data, and the requests of clients for it.

    Args:
        root: folder of its database and files.
        folder: folder of the sweep files that agents may name.
        key: that clients must show; the tokens of file addresses are made from it too.
        url: by which clients reach the hub.
        heartbeat_timeout_s: seconds of silence after which a run is handed out again.
    """

    def __init__(self, root: Path, folder: Path, key: str, url: str, heartbeat_timeout_s: float):
        self.store = Store(private_folder(root) / "hub.db")
        self.files = Files(root / "storage", key, url)
        self.runs = Runs(self.store, self.files)
        self.sweeps = SweepStore(self.store, self.runs, folder)
        self.agents = Agents(self.store, self.runs, self.sweeps, heartbeat_timeout_s)
        self.artifacts = Artifacts(self.store, self.files)
        self.key = key

    def graphql(self, body: Any) -> dict[str, Any]:
        """Answer a GraphQL request, in one transaction.

        Args:
            body: content of the request, which ought to be `{query, variables}`.

        Raises:
            Refused: the request is malformed, or asks for something that is not there.
        """
        if not isinstance(body, dict) or not isinstance(body.get("query"), str):
            raise Refused("need {query, variables}")
        with self.store.transaction():
            return answer(body["query"], body.get("variables") or {}, self._roots())

    def stream(self, project: str, run: str, body: Any) -> dict[str, Any]:
        """Take lines of a run's files, in one transaction.

        Args:
            project: name of the project.
            run: name of the run.
            body: what the client posts to the file stream.

        Returns:
            The answer, which tells the client whether to stop the run.

        Raises:
            Refused: the body is no object.
        """
        if not isinstance(body, dict):
            raise Refused("need an object")
        with self.store.transaction():
            stopped = self.runs.stream(project, run, body)["stop"]
        return {"exitcode": None, "limits": {}, "stopped": stopped}

    def _roots(self) -> Roots:
        queries: Roots = {
            "viewer": self._viewer,
            "entity": lambda arguments: {**ENTITY_NODE, "organization": {}},
            "serverInfo": self._server_info,
            "project": self._project,
            # An older name of the same field, which some queries of the client still use.
            "model": self._project,
            "models": self._projects,
            "view": lambda arguments: self.store.get("view", arguments["id"]),
        }
        mutations: Roots = {
            "upsertModel": self._upsert_project,
            "upsertSweep": self._upsert_sweep,
            "createAgent": lambda arguments: {"agent": self.agents.create(arguments)},
            "agentHeartbeat": self._heartbeat,
            "upsertBucket": self._upsert_run,
            "stopRun": self._stop_run,
            "createRunFiles": self._create_run_files,
            # Files are complete as soon as they are there.
            "markRunFilesUploaded": lambda arguments: {"success": True},
            "createArtifact": self.artifacts.create,
            "createArtifactManifest": self.artifacts.manifest,
            "updateArtifactManifest": self.artifacts.manifest,
            "createArtifactFiles": self.artifacts.create_files,
            "commitArtifact": self.artifacts.commit,
            "upsertView": self._upsert_view,
        }
        return {**queries, **mutations}

    def _viewer(self, arguments: Arguments) -> Record:
        return {**OWNER, "teams": connection([ENTITY_NODE])}

    def _server_info(self, arguments: Arguments) -> Record:
        # A version above that of any client, which would else ask for an update.
        versions = {"max_cli_version": "99.0.0"}
        return {"features": [], "cliVersionInfo": json.dumps(versions)}

    def _projects(self, arguments: Arguments) -> Record:
        records = self.store.all("run") + self.store.all("sweep")
        names = dict.fromkeys(record["project"] for record in records)
        return connection([self._project({"name": name}) for name in names], arguments)

    def _project(self, arguments: Arguments) -> Record:
        """Fields of a project; it exists as soon as it is named."""
        name = arguments.get("name") or DEFAULT_PROJECT
        number = number_of(name)
        return {
            "__typename": "Project",
            "id": f"project-{number}",
            "internalId": number,
            "name": name,
            "entityName": ENTITY,
            "entity": ENTITY_NODE,
            "createdAt": now(),
            "isBenchmark": False,
            "user": OWNER,
            # Functions are called with the arguments of the field, if the client asks for it.
            "runCount": lambda arguments: len(self._matching_runs(name, arguments)),
            "bucket": lambda arguments: self._started_run(name, arguments),
            "runs": lambda arguments: self._runs_of_project(name, arguments),
            "run": lambda arguments: self._run(self.runs.find(name, arguments["name"])),
            "sweep": lambda arguments: self._sweep_of_project(name, arguments),
            "sweeps": lambda arguments: self._sweeps_of_project(name, arguments),
        }

    def _matching_runs(self, project: str, arguments: Arguments) -> list[Record]:
        """Runs of a project that pass the client's filters, in the order that it asks for."""
        filters = json.loads(arguments.get("filters") or "{}")
        runs = [run for run in self.runs.of_project(project) if matches(run, filters)]
        return ordered(runs, arguments.get("order"))

    def _runs_of_project(self, project: str, arguments: Arguments) -> Record:
        runs = self._matching_runs(project, arguments)
        return connection([self._run(run) for run in runs], arguments)

    def _started_run(self, project: str, arguments: Arguments) -> Record | None:
        run = self.runs.find(project, arguments["name"])
        if run is None or not run["started"]:
            return None
        return self._run(run)

    def _sweep_of_project(self, project: str, arguments: Arguments) -> Record | None:
        name = arguments.get("sweepName") or arguments["name"]
        return self._sweep(self.sweeps.find(project, name))

    def _sweeps_of_project(self, project: str, arguments: Arguments) -> Record:
        sweeps = []
        for sweep in self.store.all("sweep"):
            if sweep["project"] == project:
                sweeps.append(self._sweep(sweep))
        return connection(sweeps, arguments)

    def _upsert_project(self, arguments: Arguments) -> Record:
        project = self._project(arguments)
        return {"model": project, "project": project, "inserted": True}

    def _run(self, run: Record | None) -> Record | None:
        if run is None:
            return None
        project = {
            "name": run["project"],
            "id": run["project"],
            "entityName": ENTITY,
            "entity": ENTITY_NODE,
        }
        return {**self.runs.node(run), "user": OWNER, "project": project}

    def _sweep(self, sweep: Record | None) -> Record | None:
        if sweep is None:
            return None
        project = self._project({"name": sweep["project"]})
        return {**self.sweeps.node(sweep), "user": OWNER, "project": project}

    def _upsert_sweep(self, arguments: Arguments) -> Record:
        sweep = self.sweeps.upsert(arguments)
        return {"sweep": self._sweep(sweep), "configValidationWarnings": []}

    def _heartbeat(self, arguments: Arguments) -> Record:
        agent, commands = self.agents.heartbeat(arguments)
        return {"agent": agent, "commands": json.dumps(commands)}

    def _upsert_run(self, arguments: Arguments) -> Record:
        """Start, resume or update a run; as on the cloud, one of an unknown sweep is refused."""
        project = arguments.get("modelName") or DEFAULT_PROJECT
        sweep = arguments.get("sweep")
        if sweep and self.sweeps.find(project, sweep) is None:
            raise Refused(f"sweep {sweep} not found", 404)
        run, is_new = self.runs.upsert(arguments)
        return {"bucket": self._run(run), "inserted": is_new}

    def _stop_run(self, arguments: Arguments) -> Record:
        run = self.runs.by_id(arguments["id"])
        if run:
            self.runs.save({**run, "stop": True})
        return {"success": run is not None}

    def _create_run_files(self, arguments: Arguments) -> Record:
        """Addresses to which the client may upload files of a run."""
        project = arguments["projectName"]
        run = arguments["runName"]
        files = []
        for name in arguments["files"]:
            address = self.files.address("runs", project, run, name)
            files.append({"name": name, "uploadUrl": address})
        return {"runID": run, "uploadHeaders": [], "files": files}

    def _upsert_view(self, arguments: Arguments) -> Record:
        """Create or change a view, which is W&B's word for a saved report."""
        id_ = arguments.get("id") or _new_view_id()
        previous = self.store.get("view", id_) or {"createdAt": now()}
        changes = {name: value for name, value in arguments.items() if value is not None}
        project = {"name": arguments.get("projectName"), "entityName": ENTITY}
        view = {**previous, **changes, "id": id_, "updatedAt": now(), "project": project}
        self.store.put("view", id_, view)
        return {"view": view, "inserted": True}


def _new_view_id() -> str:
    # The client decodes it to read the number.
    text = f"View:{secrets.randbelow(MAX_VIEW_NUMBER)}"
    return base64.b64encode(text.encode()).decode()
