"""Corpora that are folders of sound files with their transcripts -> entries.

The readers go through the folder of the corpus and all folders below it. The split of an entry is
the name of the first folder on its path that names one, such as dev-clean.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from configs.schema import SourceConfig
from datamodules.sources.manifest_entry import (
    NO_AUDIO,
    NO_PLAIN_TEXT,
    NO_TEXT,
    NO_TRANSCRIPT,
    UNREAD_FORMAT,
    Entry,
    EntryOrSkipped,
    Skipped,
    split_of,
    spoken_text,
)
from datamodules.sources.text_files import read_lines, read_text

SOUND_SUFFIXES = (
    ".flac", ".wav", ".wave", ".ogg", ".oga", ".mp3", ".mp2", ".opus", ".sph", ".aif", ".aiff",
    ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
)  # fmt: skip
"""File name suffixes of sound files."""
UNREAD_SUFFIXES = (
    ".m4a", ".m4b", ".mp4", ".aac", ".alac", ".webm", ".weba", ".wma", ".amr", ".3gp", ".3ga",
    ".3g2", ".mka", ".mkv", ".mov", ".avi", ".wv", ".ape", ".tta", ".spx", ".ra", ".dss", ".ac3",
    ".raw", ".pcm",
)  # fmt: skip
"""File name suffixes of sound files that libsndfile cannot read."""
TRANSCRIPT_SUFFIXES = (".txt", ".lab")
"""File name suffixes of a transcript that has the name of its sound file."""
DETACHED_CLITIC = re.compile(r" '(?=(?:s|re|ll|ve|d|m|t|em)\b)")
"""TED-LIUM writes "it 's" for "it's"."""
UNSCORED = "ignore_time_segment_in_scoring"
"""TED-LIUM's text of a segment without a transcript."""
TIMED_LABEL = re.compile(r"\d+\s+\d+\s+\S")
"""Beginning of a line of an HTK label file: start, end, and what lies between."""
SECOND_SOUND = "beside another sound of the same name, which is read"
NO_WORDS = "with a state or a response, but no transcript"


def walk(folder: Path) -> Iterator[tuple[Path, list[str], str | None]]:
    """Go through a folder and all folders below it.

    Hidden files are passed over. A folder that links lead to twice, or in circles, is read once.

    Yields:
        The folder, the names of its files in order, and the first part of its path, relative to the
        top, that names a split.
    """
    visited = {folder.resolve()}
    for root_name, folders, files in os.walk(folder, followlinks=True):
        root = Path(root_name)
        visible = sorted(name for name in folders if not is_hidden(name))
        # os.walk visits the folders in the order of this list.
        folders[:] = [name for name in visible if _is_new(root / name, visited)]
        sound_and_text = sorted(name for name in files if not is_hidden(name))
        yield root, sound_and_text, split_above(root.relative_to(folder))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no part of a corpus: hidden, or left by macOS (._x, __MACOSX)."""
    return name.startswith(".") or name == "__MACOSX"


def _is_new(folder: Path, visited: set[Path]) -> bool:
    """Whether a folder is none of those that are visited, to which it is then added."""
    target = folder.resolve()
    if target in visited:
        return False
    visited.add(target)
    return True


def split_above(relative: Path) -> str | None:
    """The first part of a path that names a split; None if none does."""
    for part in relative.parts:
        if split_of(part):
            return part
    return None


def read_librispeech(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read LibriSpeech: `*.trans.txt`, in the folder of its sound files, has lines "ID WORDS"."""
    for root, files, split in walk(folder):
        audio_by_id = _sounds(root, files)
        for file in files:
            if not file.endswith(".trans.txt"):
                continue
            for id, text in _lines(root / file):
                path = audio_by_id.pop(id, None)
                if path is None:
                    yield Skipped(NO_AUDIO, id)
                    continue
                # An ID is speaker-chapter-number.
                speaker = id.split("-")[0]
                yield _whole_file(id, path, text, speaker, split)
        for path in audio_by_id.values():
            yield Skipped(NO_TRANSCRIPT, str(path))
        yield from _not_readable(root, files)


def read_mls(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read Multilingual LibriSpeech.

    <split>/transcripts.txt has lines "ID<tab>words"; the sounds are
    <split>/audio/<speaker>/<book>/ID.flac or .opus.
    """
    for root, files, split in walk(folder):
        if "transcripts.txt" not in files:
            continue
        durations_s = {}
        if "segments.txt" in files:
            durations_s = _mls_durations(root / "segments.txt")
        for id, text in _lines(root / "transcripts.txt"):
            speaker, book = _mls_speaker_and_book(id, root / "transcripts.txt")
            path = root / "audio" / speaker / book / f"{id}.flac"
            if not path.is_file():
                path = path.with_suffix(".opus")
            if path.is_file():
                yield _whole_file(id, path, text, speaker, split, durations_s.get(id))
            else:
                yield Skipped(NO_AUDIO, id)


def _mls_speaker_and_book(id: str, transcripts: Path) -> tuple[str, str]:
    parts = id.split("_")
    if len(parts) != 3:
        raise ValueError(
            f"{transcripts}: {id!r} is not an ID of the form speaker_book_number; correct the line, "
            "or name the format of the corpus as data.source.kind"
        )
    return parts[0], parts[1]


def _mls_durations(path: Path) -> dict[str, float]:
    """ID -> seconds, from lines "ID<tab>URL<tab>start<tab>end"."""
    durations_s = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split("\t")
        if len(fields) == 4:
            id, _, start_s, end_s = fields
            durations_s[id] = _difference_s(start_s, end_s, f"{path}, line {number}")
    return durations_s


def _difference_s(start_s: str, end_s: str, location: str) -> float:
    """Seconds between two times that are given as text."""
    try:
        return float(end_s) - float(start_s)
    except ValueError:
        raise ValueError(
            f"{location}: {start_s!r} and {end_s!r} are not a start and an end in seconds; correct "
            "the line or remove it"
        ) from None


def read_tedlium(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read TED-LIUM.

    <split>/stm/TALK.stm has lines "talk channel speaker start end <tags> words"; the sounds are
    <split>/sph/TALK.sph.
    """
    for root, files, split in walk(_legacy_folder(folder)):
        if root.name != "stm":
            continue
        sound_folder = root.parent / "sph"
        sound_names = sorted(os.listdir(sound_folder)) if sound_folder.is_dir() else []
        talks = _sounds(sound_folder, sound_names)
        for file in files:
            if not file.endswith(".stm"):
                continue
            path = talks.get(Path(file).stem)
            for number, line in enumerate(read_lines(root / file), 1):
                # ;; begins a comment
                if line.strip() and not line.startswith(";;"):
                    yield _talk_segment(line, path, split, f"{root / file}, line {number}")


def _legacy_folder(folder: Path) -> Path:
    """legacy/ of TED-LIUM 3, which has the splits that data/ lacks; else the folder itself."""
    for root, _, _ in walk(folder):
        if root.name == "legacy":
            return root
    return folder


def _talk_segment(line: str, path: Path | None, split: str | None, location: str) -> EntryOrSkipped:
    fields = line.split(maxsplit=5)
    if len(fields) < 5:
        raise ValueError(
            f"{location}: {len(fields)} columns, where talk, channel, speaker, start and end are "
            "needed; correct the line or remove it"
        )
    talk, _, speaker, start_s, end_s, *rest = fields
    duration_s = _difference_s(start_s, end_s, location)
    id = f"{talk}-{start_s}-{end_s}"
    if path is None:
        return Skipped(NO_AUDIO, id)
    text = ""
    if UNSCORED not in line:
        # `spoken_text` removes the tags, which are in angle brackets.
        text = spoken_text(DETACHED_CLITIC.sub("'", " ".join(rest)))
    return Entry(
        id=id,
        path=path,
        start_s=float(start_s),
        duration_s=duration_s,
        text=text,
        answer="",
        speaker=speaker,
        split=split,
    )


def read_duplexmamba(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read DuplexMamba's data.

    `*response.txt`, in the folder of its sound files, has lines "ID text"; the text is a transcript
    where ID begins with asr-. The state items are conversations: see
    `datamodules.conversations.converters.duplexmamba_states`.
    """
    for root, files, split in walk(folder):
        audio_by_id = _sounds(root, files)
        for file in files:
            if not file.endswith("response.txt"):
                continue
            for id, text in _lines(root / file):
                if not id.startswith("asr-"):
                    yield Skipped(NO_WORDS, id)
                elif id not in audio_by_id:
                    yield Skipped(NO_AUDIO, id)
                else:
                    speaker = id.split("-")[1]
                    yield _whole_file(id, audio_by_id[id], text, speaker, split)
        yield from _not_readable(root, files)


def read_sidecars(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read any folder in which a .txt or .lab file with the name of a sound file has its words."""
    for root, files, split in walk(folder):
        transcripts = {}
        for file in files:
            if file.lower().endswith(TRANSCRIPT_SUFFIXES):
                transcripts[Path(file).stem] = root / file
        sounds = _sounds(root, files)
        for stem, path in sounds.items():
            if stem not in transcripts:
                yield Skipped(NO_TRANSCRIPT, str(path))
                continue
            text = read_text(transcripts[stem])
            # File names may repeat in other folders, relative paths do not.
            id = str(path.relative_to(folder))
            if _is_timed(text):
                yield Skipped(NO_PLAIN_TEXT, id)
            else:
                yield _whole_file(id, path, text, "", split)
        yield from _not_readable(root, files)
        yield from _left_alone(root, files, sounds, transcripts)


def _is_timed(text: str) -> bool:
    """Whether each line of a transcript has times in front, as label files of HTK have."""
    lines = text.strip().splitlines()
    return bool(lines) and all(TIMED_LABEL.match(line.strip()) for line in lines)


def _left_alone(
    folder: Path, files: list[str], sounds: dict[str, Path], transcripts: dict[str, Path]
) -> Iterator[Skipped]:
    """One skipped item for each transcript without a sound, and each second sound of a name."""
    has_sound = {Path(file).stem for file in files if file.lower().endswith(UNREAD_SUFFIXES)}
    for stem, path in transcripts.items():
        if stem not in sounds and stem not in has_sound:
            yield Skipped(NO_AUDIO, str(path))
    for file in files:
        stem = Path(file).stem
        if file.lower().endswith(SOUND_SUFFIXES) and sounds[stem].name != file:
            yield Skipped(SECOND_SOUND, str(folder / file))


def _not_readable(folder: Path, files: list[str]) -> Iterator[Skipped]:
    """One skipped item for each sound file of a format that cannot be read."""
    for file in files:
        if file.lower().endswith(UNREAD_SUFFIXES):
            yield Skipped(UNREAD_FORMAT, str(folder / file))


def _sounds(folder: Path, files: list[str]) -> dict[str, Path]:
    """Name without suffix -> path, for the sound files among `files`."""
    sounds = {}
    for file in files:
        if file.lower().endswith(SOUND_SUFFIXES):
            sounds[Path(file).stem] = folder / file
    return sounds


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """First word and rest of each line of a transcript."""
    for line in read_lines(path):
        # The first separator is a tab or a space; a tab within the text is part of it.
        id, _, text = line.strip().replace("\t", " ", 1).partition(" ")
        if id:
            yield id, text


def _whole_file(
    id: str, path: Path, text: str, speaker: str, split: str | None, duration_s: float | None = None
) -> EntryOrSkipped:
    """Entry of an utterance that fills its file."""
    if not text.strip():
        return Skipped(NO_TEXT, id)
    return Entry(
        id=id,
        path=path,
        start_s=0.0,
        duration_s=duration_s,
        text=spoken_text(text),
        answer="",
        speaker=speaker,
        split=split,
    )
