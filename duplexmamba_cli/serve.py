"""duplexmamba serve: talk with a finished run, on a web page or by a recording."""

import argparse
import contextlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from duplexmamba.duplex.session import Event, Session
from lightning_modules.sessions import open_sessions
from lightning_modules.trainer.checkpoint import StageCheckpoint
from lightning_modules.trainer.exits import exit_cleanly, quiet_libraries
from serving.capacity import capacity
from serving.converse import Teller, converse, summary
from serving.trace import Header, record

DESCRIPTION = """\
Talk with a finished run, on a page in a browser, or by a recording.

    serve runs/latest                                    # prints the address of the page
    serve runs/latest --wav question.wav                 # at the pace of speech
    serve runs/latest --wav call.wav --channel 0 --pace fast

Each of these begins with `duplexmamba`, or with `python serve.py` in place of `serve`.

With a recording, every event is printed at once and written to <run>/traces/<wav>.jsonl, or to the
file that --trace names. Ctrl-C ends either.
"""


def serve(args: Sequence[str]) -> list[Event]:
    """Serve the page, or play a recording to the model; returns the events of the recording.

    Args:
        args: folder of the run, and options.

    Raises:
        ValueError: there is no such run, or the recording cannot be used.
    """
    parsed = argument_parser().parse_args(args)
    run = parsed.run.resolve()
    checkpoint = StageCheckpoint.load(run)
    session = open_sessions(checkpoint, checkpoint.config, run)()
    if parsed.wav:
        return play_recording(session, run, parsed)
    serve_page(session, run, parsed)
    return []


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="duplexmamba serve",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", type=Path, help="folder of a finished run of stage state or streaming"
    )
    page = parser.add_argument_group("page")
    page.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of the page; one that other machines can reach needs a token",
    )
    page.add_argument("--port", type=int, default=8765, help="port of the page (default 8765)")
    page.add_argument(
        "--token", help="password for other machines; made at random if there is none"
    )
    page.add_argument(
        "--origin",
        action="append",
        default=[],
        help="address of another page that may connect; can be repeated",
    )
    page.add_argument(
        "--conversations",
        type=int,
        help="largest number of conversations at a time; measured if not set",
    )
    recording = parser.add_argument_group("recording")
    recording.add_argument("--wav", type=Path, help="recording to play: wav, flac, ogg or mp3")
    recording.add_argument(
        "--channel", type=int, help="channel of the recording, from 0; the mean of all if not set"
    )
    recording.add_argument(
        "--pace",
        choices=["real", "fast"],
        default="real",
        help="real: a second takes a second",
    )
    recording.add_argument("--trace", type=Path, help="file for the events")
    return parser


def serve_page(session: Session, run: Path, parsed: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C; conversations are not saved."""
    # packages of the extra `serve`, which recordings do without
    from serving.limits import Limits
    from serving.web import serve as serve_http

    num_conversations = parsed.conversations
    if num_conversations is None:
        num_conversations, slice_time_s = capacity(session)
        print(
            f"{run.name}: {num_conversations} conversations at once; "
            f"a slice of all takes {1000 * slice_time_s:.0f} ms"
        )
    limits = Limits(num_conversations)
    serve_http(session, run.name, limits, parsed.host, parsed.port, parsed.token, parsed.origin)


def play_recording(session: Session, run: Path, parsed: argparse.Namespace) -> list[Event]:
    """Play a recording to a session; prints, writes to a trace and returns its events."""
    samples = read_recording(parsed.wav, session.rate_hz, parsed.channel)
    path: Path = parsed.trace or run / "traces" / f"{parsed.wav.stem}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = Header(str(run), session.slice_s, str(parsed.wav.resolve()), parsed.channel)
    teller = Teller(partial(print, end="", flush=True))
    events = []
    stream = converse(session, samples, parsed.pace == "real")
    with contextlib.suppress(KeyboardInterrupt):
        for event in record(path, header, stream):
            teller.tell(event)
            events.append(event)
    teller.end()
    print(summary(events, session.slice_s))
    print(f"{path}: see it with make timeline TRACE={path}")
    return events


def read_recording(path: Path, rate_hz: int, channel: int | None) -> np.ndarray:
    """Read a recording of any length; returns samples (n,).

    Raises:
        ValueError: the file cannot be read as audio.
    """
    try:
        return read_audio(path, rate_hz, channel=channel, min_s=0, max_s=math.inf)
    except UnusableAudio as error:
        raise ValueError(str(error)) from None


def main(args: Sequence[str]) -> None:
    """Serve as the arguments say."""
    quiet_libraries()
    with exit_cleanly():
        serve(args)
