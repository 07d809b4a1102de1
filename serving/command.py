"""Talk with a finished run, on a page in a browser or through a recording.

    python serve.py runs/latest                                    # prints the address of the page
    python serve.py runs/latest --wav question.wav                 # in real time
    python serve.py runs/latest --wav call.wav --channel 0 --pace fast
    duplexmamba serve runs/latest                                  # where the package is installed

With a recording, the conversation is printed as it happens and written to <run>/traces/<wav>.jsonl
or to the file that --trace names. Ctrl-C ends both.
"""

import argparse
import contextlib
import math
from functools import partial
from pathlib import Path

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from duplexmamba.duplex.events import Event
from duplexmamba.duplex.session import Session
from lightning_modules.sessions import open_sessions
from lightning_modules.trainer.checkpoint import StageCheckpoint, run_path
from serving.capacity import capacity
from serving.converse import ConversationPrinter, play_recording, summary
from serving.trace import TraceHeader, record_trace


def parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run",
        type=run_path,
        help="folder of a finished run of stage state or streaming; demo is the published model "
        "in models/demo",
    )
    _add_page_options(parser.add_argument_group("options of the page"))
    _add_recording_options(parser.add_argument_group("options of a recording"))
    return parser


def _add_page_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of the page, such as 0.0.0.0 (default 127.0.0.1); an address that other "
        "machines can reach requires a token",
    )
    group.add_argument("--port", type=int, default=8765, help="port of the page (default 8765)")
    group.add_argument("--token", help="secret that clients must send (default: a random one)")
    group.add_argument(
        "--origin",
        action="append",
        default=[],
        help="origin of another page that may connect, such as https://talk.example; repeatable",
    )
    group.add_argument(
        "--conversations",
        type=int,
        help="maximal number of concurrent conversations (default: measured at start)",
    )


def _add_recording_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--wav", type=Path, help="recording to play to the model: wav, flac, ogg or mp3"
    )
    group.add_argument(
        "--channel",
        type=int,
        help="channel of the recording, counted from 0 (default: the mean of all)",
    )
    group.add_argument(
        "--pace",
        choices=["real", "fast"],
        default="real",
        help="real: in real time (default); fast: as fast as possible",
    )
    group.add_argument(
        "--trace",
        type=Path,
        help="file for the events (default: <run>/traces/<wav>.jsonl)",
    )


def main(args: list[str]) -> list[Event]:
    """Serve the page, or play a recording if --wav is given.

    Args:
        args: the command line without the program's name.

    Returns:
        The events of the recording; empty for the page.

    Raises:
        ValueError: the run, the recording or the address cannot be used.
    """
    options = parser().parse_args(args)
    run = options.run.resolve()
    checkpoint = StageCheckpoint.load(run)
    session = open_sessions(checkpoint, checkpoint.config, run)()
    if options.wav:
        return converse(session, run, options)
    serve(session, run, options)
    return []


def serve(session: Session, run: Path, options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C. Recordings of conversations are deleted at the end."""
    # These modules need the extra `serve`, which recordings do without.
    from serving.limits import Limits
    from serving.web import serve_page

    max_conversations = options.conversations
    if max_conversations is None:
        max_conversations, slice_s = capacity(session)
        conversations = "conversation" if max_conversations == 1 else "conversations"
        print(
            f"{run.name}: {max_conversations} {conversations} at once; "
            f"a slice of all takes {1000 * slice_s:.0f} ms"
        )
    serve_page(
        session,
        run.name,
        Limits(max_conversations),
        options.host,
        options.port,
        options.token,
        options.origin,
    )


def converse(session: Session, run: Path, options: argparse.Namespace) -> list[Event]:
    """Play a recording to a session; print and record the conversation.

    Returns:
        The events, up to Ctrl-C.

    Raises:
        ValueError: the recording cannot be used.
    """
    try:
        samples = read_audio(
            options.wav, session.rate_hz, channel=options.channel, min_s=0, max_s=math.inf
        )
    except UnusableAudio as error:
        raise ValueError(str(error)) from None
    path: Path = options.trace or run / "traces" / f"{options.wav.stem}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Absolute, because the trace may be read from another working directory.
    wav = str(options.wav.resolve())
    header = TraceHeader(str(run), session.slice_s, wav, options.channel)
    printer = ConversationPrinter(partial(print, end="", flush=True))
    events: list[Event] = []
    live_events = play_recording(session, samples, in_real_time=options.pace == "real")
    # Ctrl-C ends the conversation, not the summary of it.
    with contextlib.suppress(KeyboardInterrupt):
        for event in record_trace(path, header, live_events):
            printer.print(event)
            events.append(event)
    printer.close()
    print(summary(events, session.slice_s))
    print(f"{path}: draw it with make timeline TRACE={path}")
    return events
