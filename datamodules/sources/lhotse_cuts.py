"""lhotse's manifests and Shar folders -> entries.

Plain cuts, which are segments of sound files, are read here. Cuts that are mixed or transformed are
read by lhotse itself.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from configs.schema import SourceConfig
from datamodules.sources.audio_sources import AudioSource, LhotseSource, TarSource
from datamodules.sources.duplex_cuts import is_duplex, users_part
from datamodules.sources.manifest_entry import (
    NO_AUDIO,
    NO_TEXT,
    NO_TRANSCRIPT,
    Entry,
    EntryOrSkipped,
    Skipped,
    answer_text,
    spoken_text,
)
from datamodules.sources.manifests import (
    EXCLUDED_BY_WHERE,
    Columns,
    Record,
    audio_folder,
    read_records,
)
from datamodules.sources.shards import members

NEEDS_LHOTSE = "mixed, transformed or not in files, which only lhotse can read: pip install lhotse"


def read_cuts(
    path: str | Path, records: list[Record], source: SourceConfig, split: str | None
) -> Iterator[EntryOrSkipped]:
    """Read cuts.

    Args:
        path: the manifest, for relative audio paths.
        records: its content.
        source: names of the columns.
        split: split of all cuts.

    Returns:
        One entry per supervision of a plain cut, one entry per other cut. Of NeMo's duplex cuts,
        whose recording holds the user alone, the agent's words are answers.
    """
    columns = Columns(source)
    recordings = [record["recording"] for record in records if "recording" in record]
    folder = audio_folder(path, _file_names(recordings))
    for cut in records:
        cut, of_others = _of_user(cut)
        yield from of_others
        supervisions = cut.get("supervisions") or []
        if "recording" not in cut or _needs_lhotse(cut["recording"]):
            yield _read_by_lhotse(cut, columns, str(folder), split)
        elif not supervisions:
            yield Skipped(NO_TEXT, str(cut["id"]))
        else:
            # The times of a supervision count from the start of its cut.
            for supervision in supervisions:
                yield _read_supervision(
                    cut["recording"], supervision, cut["start"], folder, columns, split
                )


def read_recordings(
    path: Path, source: SourceConfig, split: str | None
) -> Iterator[EntryOrSkipped]:
    """Read a file of recordings, and the file of supervisions that corresponds to it.

    Args:
        path: the recordings; the supervisions have the same name with "supervisions" in place of
            "recordings".
        source: names of the columns.
        split: split of all recordings.

    Raises:
        ValueError: there is no file of supervisions.
    """
    supervisions_path = path.with_name(path.name.replace("recordings", "supervisions"))
    if not supervisions_path.is_file():
        raise ValueError(
            f"{path} has no supervisions beside it; put {supervisions_path.name} there, or give "
            "cuts"
        )
    recordings = {record["id"]: record for record in read_records(path)}
    columns = Columns(source)
    folder = audio_folder(path, _file_names(recordings.values()))
    supervised_ids = set()
    for supervision in read_records(supervisions_path):
        recording_id = supervision["recording_id"]
        recording = recordings.get(recording_id)
        supervised_ids.add(recording_id)
        if recording is None:
            yield Skipped(NO_AUDIO, supervision["id"])
        elif _needs_lhotse(recording):
            yield Skipped(NEEDS_LHOTSE, supervision["id"])
        else:
            yield _read_supervision(recording, supervision, 0.0, folder, columns, split)
    for id in recordings:
        if id not in supervised_ids:
            yield Skipped(NO_TRANSCRIPT, id)


def read_shar(cuts: str, source: SourceConfig, split: str | None) -> Iterator[EntryOrSkipped]:
    """Read a shard of lhotse Shar.

    Args:
        cuts: path or URL of the cuts, such as cuts.000000.jsonl.gz; recording.000000.tar in the
            same folder has their sounds.
        source: names of the columns.
        split: split of all cuts.
    """
    recording_name = cuts.replace("cuts.", "recording.")
    shard = recording_name.removesuffix(".gz").removesuffix(".jsonl") + ".tar"
    columns = Columns(source)
    sounds: dict[str, TarSource] = {}
    skipped = []
    for member, content in members(shard):
        if isinstance(member, Skipped):
            skipped.append(member)
        elif isinstance(content, float):
            # The sound of a cut has the cut's ID as its name; the shard also holds JSON files.
            id = member.name.rpartition(".")[0]
            sounds[id] = member
    yield from skipped
    for cut in read_records(cuts):
        cut, of_others = _of_user(cut)
        yield from of_others
        sound = sounds.get(cut["id"])
        for supervision in cut.get("supervisions") or []:
            if sound is None:
                yield Skipped(NO_AUDIO, cut["id"])
            else:
                # Shar stores the segment alone, so its sound starts at 0.
                yield _entry(supervision, sound, 0.0, columns, split)


def _of_user(cut: Record) -> tuple[Record, list[EntryOrSkipped]]:
    """A duplex cut with the user's supervisions alone, and why the others are left out; any other
    cut as it is."""
    if not is_duplex(cut):
        return cut, []
    supervisions, skipped = users_part(cut.get("supervisions") or [])
    return {**cut, "supervisions": supervisions}, skipped


def _file_names(recordings: Iterable[Record]) -> Iterator[str]:
    for recording in recordings:
        for source in recording["sources"]:
            if source["type"] == "file":
                yield source["source"]


def _needs_lhotse(recording: Record) -> bool:
    """Whether a recording is transformed, or is not stored in files."""
    if recording.get("transforms"):
        return True
    return any(source["type"] != "file" for source in recording["sources"])


def _read_by_lhotse(
    cut: Record, columns: Columns, folder: str, split: str | None
) -> EntryOrSkipped:
    """Entry of the whole cut, with the words and answers of all its supervisions."""
    supervisions = cut.get("supervisions") or _track_supervisions(cut)
    if not importlib.util.find_spec("lhotse"):
        return Skipped(NEEDS_LHOTSE, str(cut.get("id")))
    if not supervisions:
        return Skipped(NO_TEXT, str(cut["id"]))
    text = " ".join(columns.get(supervision, "text") for supervision in supervisions)
    answers = [
        columns.get(supervision.get("custom") or {}, "answer") for supervision in supervisions
    ]
    # The speaker and the other fields are those of the first supervision.
    whole = {
        **supervisions[0],
        "id": cut["id"],
        "text": text,
        "custom": {"answer": " ".join(filter(None, answers))},
        "start": 0.0,
        "duration": None,
    }
    audio = LhotseSource(cut["id"], json.dumps(cut), folder)
    return _entry(whole, audio, 0.0, columns, split)


def _track_supervisions(cut: Record) -> list[Record]:
    """Supervisions of all tracks of a mixed cut, without those of agents in duplex cuts."""
    supervisions = []
    for track in cut.get("tracks", []):
        users_cut, _ = _of_user(track["cut"])
        supervisions += users_cut.get("supervisions", [])
    return supervisions


def _read_supervision(
    recording: Record,
    supervision: Record,
    offset_s: float,
    folder: str | Path,
    columns: Columns,
    split: str | None,
) -> EntryOrSkipped:
    """Entry of a supervision whose times count from `offset_s` of its recording."""
    channels = supervision.get("channel", 0)
    if not isinstance(channels, list):
        channels = [channels]
    files = [source for source in recording["sources"] if channels[0] in source["channels"]]
    if not files:
        return Skipped(NO_AUDIO, supervision["id"])
    file_channels = files[0]["channels"]
    # lhotse numbers channels within the recording, `read_audio` within the file. None: the mean of
    # all channels.
    channel = None
    if len(file_channels) > 1 and len(channels) == 1:
        channel = file_channels.index(channels[0])
    audio = Path(folder) / files[0]["source"]
    return _entry(supervision, audio, offset_s, columns, split, channel)


def _entry(
    supervision: Record,
    audio: AudioSource,
    offset_s: float,
    columns: Columns,
    split: str | None,
    channel: int | None = None,
) -> EntryOrSkipped:
    if not columns.selects(supervision):
        return Skipped(EXCLUDED_BY_WHERE, "")
    # lhotse keeps fields of its users, such as the answer, under `custom`.
    custom = supervision.get("custom") or {}
    return Entry(
        id=supervision["id"],
        path=audio,
        start_s=offset_s + supervision["start"],
        duration_s=supervision["duration"],
        text=spoken_text(columns.get(supervision, "text")),
        answer=answer_text(columns.get(custom, "answer")),
        speaker=columns.get(supervision, "speaker"),
        split=split,
        channel=channel,
    )
