"""Talk with a finished run, on a page in a browser, or by a recording.

    python serve.py runs/latest                                    # prints the address of the page
    python serve.py runs/latest --wav question.wav                 # at the pace of speech
    python serve.py runs/latest --wav call.wav --channel 0 --pace fast

A recording: prints what happens as it happens, and writes it to <run>/traces/<wav>.jsonl, or the file that --trace
names. Ctrl-C ends either.
"""

import argparse
import contextlib
import math
import sys
from functools import partial
from pathlib import Path

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from duplexmamba.duplex.session import Event, Session
from lightning_modules.sessions import open_sessions
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from lightning_modules.trainer.hardware import exit_cleanly, quiet_libraries
from serving.capacity import capacity
from serving.converse import Teller, converse, summary
from serving.trace import Header, record


def main(args: list[str]) -> list[Event]:
    """Returns what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=Path, help="folder of a finished run of stage state or streaming"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of the page; one that others reach needs a token",
    )
    parser.add_argument("--port", type=int, default=8765, help="of the page (default 8765)")
    parser.add_argument("--token", help="what others must bring; made up, if not given")
    parser.add_argument(
        "--origin", action="append", default=[], help="of a page elsewhere that may connect too"
    )
    parser.add_argument(
        "--conversations", type=int, help="at most so many at once; measured, if not given"
    )
    parser.add_argument("--wav", type=Path, help="what is heard: wav, flac, ogg or mp3")
    parser.add_argument(
        "--channel", type=int, help="the one of the file to hear, from 0; all, if not given"
    )
    parser.add_argument(
        "--pace", choices=["real", "fast"], default="real", help="real: a second takes a second"
    )
    parser.add_argument("--trace", type=Path, help="file for what happened")
    asked = parser.parse_args(args)
    run = asked.run.resolve()
    given = StageCheckpoint.load(run / FILE)
    session = open_sessions(given, given.config, run)()
    return hear(session, run, asked) if asked.wav else show(session, run, asked)


def show(session: Session, run: Path, asked: argparse.Namespace) -> list[Event]:
    """The page, until Ctrl-C. Nothing is kept."""
    from serving.limits import Limits  # of the extra `serve`, which recordings do without
    from serving.web import serve

    most = asked.conversations
    if most is None:
        most, taken_s = capacity(session)
        print(
            f"{run.name}: {most} conversations at once; a slice of all takes {1000 * taken_s:.0f} ms"
        )
    serve(session, run.name, Limits(most), asked.host, asked.port, asked.token, asked.origin)
    return []


def hear(session: Session, run: Path, asked: argparse.Namespace) -> list[Event]:
    """A recording. Returns what happened."""
    try:
        samples = read_audio(
            asked.wav, session.rate_hz, channel=asked.channel, min_s=0, max_s=math.inf
        )
    except UnusableAudio as error:
        raise ValueError(str(error)) from None
    path: Path = asked.trace or run / "traces" / f"{asked.wav.stem}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = Header(str(run), session.slice_s, str(asked.wav.resolve()), asked.channel)
    teller, events = Teller(partial(print, end="", flush=True)), []
    with contextlib.suppress(KeyboardInterrupt):
        for event in record(path, header, converse(session, samples, asked.pace == "real")):
            teller.tell(event)
            events.append(event)
    teller.end()
    print(
        summary(events, session.slice_s),
        f"{path}: see it with make timeline TRACE={path}",
        sep="\n",
    )
    return events


if __name__ == "__main__":
    quiet_libraries()
    with exit_cleanly():
        main(sys.argv[1:])
