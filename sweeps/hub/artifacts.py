"""Artifacts: files with a version, as `wandb sync` and `log_model` upload them."""

import secrets
from typing import Any

from sweeps.hub.answer import Refused, connection
from sweeps.hub.files import Files
from sweeps.hub.store import Record, Store

MANIFEST = "wandb_manifest.json"


class Artifacts:
    """Artifacts of all projects. The same content under the same name is the same version."""

    def __init__(self, store: Store, files: Files):
        self.store, self.files = store, files

    def create(self, given: dict[str, Any]) -> Record:
        """A version that is to be filled, or the one that is there already."""
        sequence = f"{given['projectName']}/{given['artifactCollectionName']}"
        versions = [a for a in self.store.all("artifact", sequence) if a["state"] == "COMMITTED"]
        latest = (
            {"id": versions[-1]["id"], "versionIndex": versions[-1]["versionIndex"]}
            if versions
            else None
        )
        found = next((a for a in versions if a["digest"] == given["digest"]), None)
        artifact = found or self._new(sequence, given, len(versions))
        return {
            "artifact": {**artifact, "artifactSequence": {"id": sequence, "latestArtifact": latest}}
        }

    def _new(self, sequence: str, given: dict[str, Any], version: int) -> Record:
        id_ = secrets.token_hex(8)
        artifact = {
            "id": id_, "sequence": sequence, "digest": given["digest"], "state": "PENDING", "versionIndex": version,
            "type": given.get("artifactTypeName"), "metadata": given.get("metadata"), "run": given.get("runName"),
            "aliases": [alias["alias"] for alias in given.get("aliases") or []],
        }  # fmt: skip
        return self.store.put("artifact", id_, artifact, sequence)

    def manifest(self, given: dict[str, Any]) -> Record:
        """Where the list of the files goes. Its id is that of its artifact."""
        id_ = given.get("artifactID") or given["artifactManifestID"]
        self._known(id_)
        file = {
            "id": id_,
            "uploadUrl": self.files.address("artifacts", id_, MANIFEST),
            "uploadHeaders": [],
        }
        return {"artifactManifest": {"id": id_, "file": file}}

    def place(self, given: dict[str, Any]) -> Record:
        """Where the files go."""
        return {"files": connection([self._file(file) for file in given["artifactFiles"]])}

    def _file(self, file: dict[str, Any]) -> Record:
        id_, name = self._known(file["artifactID"])["id"], file["name"]
        return {
            "storagePath": f"artifacts/{id_}/{name}", "name": name, "uploadHeaders": [], "artifact": {"id": id_},
            "uploadUrl": self.files.address("artifacts", id_, name),
        }  # fmt: skip

    def commit(self, given: dict[str, Any]) -> Record:
        artifact = {**self._known(given["artifactID"]), "state": "COMMITTED"}
        return {"artifact": self.store.put("artifact", artifact["id"], artifact)}

    def _known(self, id_: str) -> Record:
        artifact = self.store.get("artifact", id_)
        if artifact is None:
            raise Refused(f"no artifact {id_}", 404)
        return artifact
