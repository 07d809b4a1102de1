"""Whether a sound file is as long as its header or its end claims; libsndfile reads what is there and
does not say what is missing."""

import io
import re
import struct
from pathlib import Path
from typing import IO

import soundfile as sf

STREAMED_BYTES = 0x7FFF0000
"""A WAV that was written to a pipe announces at least this many bytes, since its writer did not know
the length."""
TRUNCATED_DATA = re.compile(
    r"^ *(?:data|SSND|Data Size|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
"""Line in libsndfile's log about a WAV, AIFF, AU or RF64 that is shorter than its header announces."""
NIST_SAMPLES = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)
"""Line in the text header of a NIST SPHERE file: samples of each channel."""
NIST_HEADER_BYTES = 1024
OGG_HEADER = struct.Struct("<4sBB8xI8xB")
"""Capture pattern, version, flags, [position], serial number, [page number, checksum], number of
segments of a page. RFC 3533, section 6."""
OGG_MAX_PAGE_BYTES = 65_307
OGG_FIRST_PAGE = 0x02
"""Flag of the first page of a stream."""
OGG_LAST_PAGE = 0x04
"""Flag of the last page of a stream."""
W64_LENGTH = re.compile(r"^riff *: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""Line in libsndfile's log about a W64 that is shorter than its header announces."""


def announced_frames(sound: sf.SoundFile, file: Path | IO[bytes]) -> int:
    """Number of frames that a sound file has according to its header.

    Args:
        sound: the file as libsndfile has opened it.
        file: the same file, to read its bytes.
    """
    if sound.format == "NIST":
        found = NIST_SAMPLES.search(_read(file, 0, NIST_HEADER_BYTES))
        return int(found[1]) if found else sound.frames
    pattern = W64_LENGTH if sound.format == "W64" else TRUNCATED_DATA
    truncated = pattern.search(sound.extra_info)
    if truncated is None:
        return sound.frames
    announced_bytes = int(truncated[1])
    present_bytes = int(truncated[2])
    if announced_bytes >= STREAMED_BYTES or not present_bytes:
        return sound.frames
    return sound.frames * announced_bytes // present_bytes


def ogg_problem(file: Path | IO[bytes]) -> str | None:
    """What is wrong with the end of an Ogg file (Vorbis, Opus); None: it is complete.

    The length of an Ogg file stands in its last page alone, so one that is cut looks like a shorter
    one, but for the flag of the last page.
    """
    end = _read(file, -OGG_MAX_PAGE_BYTES - OGG_HEADER.size, None)
    start = end.rfind(b"OggS")
    while start >= 0:
        header = end[start : start + OGG_HEADER.size]
        if len(header) < OGG_HEADER.size:
            return "its last page is cut"
        _, version, flags, serial, num_segments = OGG_HEADER.unpack(header)
        lengths = end[start + OGG_HEADER.size :][:num_segments]
        page_bytes = OGG_HEADER.size + num_segments + sum(lengths)
        # Encoded sound may hold the capture pattern by chance, but hardly with this version.
        if version == 0:
            if start + page_bytes > len(end):
                return "its last page is cut"
            if not flags & OGG_LAST_PAGE:
                return "its last page is missing"
            if serial not in _first_serials(file):
                return "another stream follows the first, which alone is read"
            return None
        start = end.rfind(b"OggS", 0, start)
    return "its last page is missing"


def _first_serials(file: Path | IO[bytes]) -> set[int]:
    """Serial numbers of the streams that begin with the file: their first pages precede all others."""
    beginning = _read(file, 0, OGG_MAX_PAGE_BYTES)
    serials = set()
    start = 0
    while beginning[start : start + 4] == b"OggS" and start + OGG_HEADER.size < len(beginning):
        header = beginning[start : start + OGG_HEADER.size]
        _, _, flags, serial, num_segments = OGG_HEADER.unpack(header)
        if not flags & OGG_FIRST_PAGE:
            break
        serials.add(serial)
        lengths = beginning[start + OGG_HEADER.size :][:num_segments]
        start += OGG_HEADER.size + num_segments + sum(lengths)
    return serials


def _read(file: Path | IO[bytes], start: int, count: int | None) -> bytes:
    """Bytes of a file from `start`, which counts from the end where it is negative."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _read(opened, start, count)
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size + start) if start < 0 else start)
    content = file.read() if count is None else file.read(count)
    # libsndfile goes on reading where it was.
    file.seek(position)
    return content
