"""Cuts of lhotse with the locations of their sounds, from manifests and Shar."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from datamodules.sources.audio_sources import AudioSource, TarSource
from datamodules.sources.folders import walk
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, split_of
from datamodules.sources.manifests import Record, audio_folder, read_numbered_records, read_records
from datamodules.sources.shards import members

SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclasses.dataclass(frozen=True)
class LocatedCut:
    """A cut whose sounds are found."""

    cut: Record
    location: str
    """File and line, for messages."""
    split: str | None
    folder: str | Path
    """Folder to which the paths of sound files are relative."""
    shards: dict[str, dict[str, TarSource]]
    """Of Shar: field, such as recording -> ID of the cut -> its sound."""

    @property
    def id(self) -> str:
        """ID of the cut."""
        return str(self.cut["id"])

    def sound(self, field: str, channel: int) -> tuple[AudioSource, int | None, float]:
        """Locate a channel of `recording` or of a recording under `custom`.

        Returns:
            The sound file, the channel within it (None: it has one), and the time in it at which
            the cut starts.

        Raises:
            ValueError: there is no such channel.
        """
        recording = self.cut.get(field) or (self.cut.get("custom") or {}).get(field)
        if not recording:
            raise ValueError(f"{self.location}: cut {self.id} has no {field}; add it")
        for source in recording["sources"]:
            if channel not in source["channels"]:
                continue
            # lhotse numbers channels within the recording, sound files from 0.
            in_file = source["channels"].index(channel) if len(source["channels"]) > 1 else None
            if source["type"] == "shar":
                return self._member(field), in_file, 0.0
            if source["type"] == "file" and not recording.get("transforms"):
                return Path(self.folder) / source["source"], in_file, float(self.cut["start"])
        raise ValueError(
            f"{self.location}: {field} of cut {self.id} has no channel {channel} in a plain file; "
            "save the cuts with their audio, for example by to_shar"
        )

    def _member(self, field: str) -> TarSource:
        try:
            return self.shards[field][self.id]
        except KeyError:
            raise ValueError(
                f"{self.location}: cut {self.id} is not in the shard of {field}; fetch it again"
            ) from None


def read_cut_files(root: Path) -> Iterator[LocatedCut | Skipped]:
    """Read the cuts of a file, or of every manifest in a folder and those below it.

    Recordings and supervisions are read as one cut per recording where a folder has no cuts.

    Raises:
        ValueError: there are none.
    """
    found = False
    folders = [(root.parent, [root.name], None)] if root.is_file() else walk(root)
    for folder, names, split in folders:
        manifests = [name for name in names if name.endswith(SUFFIXES)]
        cuts = [name for name in manifests if "cuts" in name or root.is_file()]
        recordings = [name for name in manifests if "recordings" in name and not cuts]
        for name in cuts:
            found = True
            yield from _located(folder / name, read_numbered_records(folder / name), split)
        for name in recordings:
            found = True
            yield from _located(folder / name, _whole_recordings(folder / name), split)
    if not found:
        raise ValueError(
            f"{root} holds no lhotse cuts, nor recordings with supervisions; give a folder of "
            "*cuts*.jsonl.gz, of *recordings*.jsonl.gz with *supervisions*.jsonl.gz, or a file"
        )


def _located(
    path: Path, records: list[tuple[int, Record]], split: str | None
) -> Iterator[LocatedCut | Skipped]:
    shards: dict[str, dict[str, TarSource]] = {}
    names = []
    for _, cut in records:
        for field, recording in _recordings(cut):
            kinds = {source["type"] for source in recording["sources"]}
            names += [source["source"] for source in recording["sources"]]
            if "shar" in kinds and field not in shards:
                shards[field], broken = _sounds(path, field)
                yield from broken
    folder = audio_folder(path, names)
    for number, cut in records:
        location = f"{path}, line {number}"
        if "recording" not in cut:
            problem = f"{location}: cut {cut.get('id')} is mixed of several; save it by to_shar"
            yield Skipped(UNUSABLE, problem)
            continue
        own_split = split or split_of(path.name.split(".")[0])
        yield LocatedCut(cut, location, own_split, folder, shards)


def _recordings(cut: Record) -> Iterator[tuple[str, Record]]:
    """Recording of a cut, and those under `custom`."""
    for field, value in {**cut, **(cut.get("custom") or {})}.items():
        if isinstance(value, dict) and "sources" in value:
            yield field, value


def _sounds(cuts: Path, field: str) -> tuple[dict[str, TarSource], list[Skipped]]:
    """Sounds of a field of a Shar shard by the IDs of their cuts."""
    shard_name = cuts.name.replace("cuts.", f"{field}.").split(".jsonl")[0] + ".tar"
    sounds = {}
    broken = []
    for member, content in members(str(cuts.with_name(shard_name))):
        if isinstance(member, Skipped):
            broken.append(member)
        elif isinstance(content, float):
            sounds[member.name.rpartition(".")[0]] = member
    return sounds, broken


def _whole_recordings(path: Path) -> list[tuple[int, Record]]:
    """Recordings as cuts of their whole length, with the supervisions of the file beside them."""
    supervisions_path = path.with_name(path.name.replace("recordings", "supervisions"))
    if not supervisions_path.is_file():
        raise ValueError(f"{path} has no {supervisions_path.name} beside it; put it there")
    supervisions: dict[str, list[Record]] = {}
    for supervision in read_records(supervisions_path):
        supervisions.setdefault(supervision["recording_id"], []).append(supervision)
    cuts = []
    for number, recording in read_numbered_records(path):
        cut = {
            "id": recording["id"],
            "start": 0.0,
            "duration": recording["duration"],
            "recording": recording,
            "supervisions": supervisions.get(recording["id"], []),
        }
        cuts.append((number, cut))
    return cuts


def by_time(supervisions: Iterable[Record]) -> list[Record]:
    """Supervisions in order of time."""
    return sorted(supervisions, key=lambda supervision: supervision["start"])
