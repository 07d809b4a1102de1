"""Artifacts: files with a version, as `wandb sync` and `log_model` upload them."""

import secrets
from typing import Any

from sweeps.hub.answer import Arguments, Refused, connection
from sweeps.hub.files import Files
from sweeps.hub.store import Record, Store

MANIFEST = "wandb_manifest.json"
"""File in which the client lists the files of an artifact."""


class Artifacts:
    """Artifacts of all projects. Equal content under the same name is one version."""

    def __init__(self, store: Store, files: Files):
        self.store = store
        self.files = files

    def create(self, arguments: Arguments) -> Record:
        """A new version to be filled, or the existing one with this content.

        Args:
            arguments: project, name and digest of the content.
        """
        sequence = f"{arguments['projectName']}/{arguments['artifactCollectionName']}"
        versions = []
        for artifact in self.store.all("artifact", sequence):
            if artifact["state"] == "COMMITTED":
                versions.append(artifact)
        latest = None
        if versions:
            latest = {"id": versions[-1]["id"], "versionIndex": versions[-1]["versionIndex"]}
        # A content that was uploaded before need not be uploaded again.
        same = [version for version in versions if version["digest"] == arguments["digest"]]
        artifact = same[0] if same else self._new(sequence, arguments, len(versions))
        parent = {"id": sequence, "latestArtifact": latest}
        return {"artifact": {**artifact, "artifactSequence": parent}}

    def _new(self, sequence: str, arguments: Arguments, version: int) -> Record:
        id_ = secrets.token_hex(8)
        artifact = {
            "id": id_,
            "sequence": sequence,
            "digest": arguments["digest"],
            "state": "PENDING",
            "versionIndex": version,
            "type": arguments.get("artifactTypeName"),
            "metadata": arguments.get("metadata"),
            "run": arguments.get("runName"),
            "aliases": [alias["alias"] for alias in arguments.get("aliases") or []],
        }
        return self.store.put("artifact", id_, artifact, sequence)

    def manifest(self, arguments: Arguments) -> Record:
        """Address to which the client uploads the manifest of an artifact.

        Raises:
            Refused: there is no such artifact.
        """
        # A manifest has the id of its artifact.
        id_ = arguments.get("artifactID") or arguments["artifactManifestID"]
        self._find(id_)
        address = self.files.address("artifacts", id_, MANIFEST)
        file = {"id": id_, "uploadUrl": address, "uploadHeaders": []}
        return {"artifactManifest": {"id": id_, "file": file}}

    def create_files(self, arguments: Arguments) -> Record:
        """Addresses to which the client uploads the files of artifacts.

        Raises:
            Refused: there is no such artifact.
        """
        nodes = [self._file(file) for file in arguments["artifactFiles"]]
        return {"files": connection(nodes)}

    def _file(self, file: dict[str, Any]) -> Record:
        id_ = self._find(file["artifactID"])["id"]
        name = file["name"]
        return {
            "storagePath": f"artifacts/{id_}/{name}",
            "name": name,
            "uploadHeaders": [],
            "artifact": {"id": id_},
            "uploadUrl": self.files.address("artifacts", id_, name),
        }

    def commit(self, arguments: Arguments) -> Record:
        """Mark an artifact as complete.

        Raises:
            Refused: there is no such artifact.
        """
        artifact = self._find(arguments["artifactID"])
        artifact["state"] = "COMMITTED"
        return {"artifact": self.store.put("artifact", artifact["id"], artifact)}

    def _find(self, id_: str) -> Record:
        artifact = self.store.get("artifact", id_)
        if artifact is None:
            raise Refused(f"no artifact {id_}", 404)
        return artifact
