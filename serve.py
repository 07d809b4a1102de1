"""Talk with a finished run.

    python serve.py runs/latest --wav question.wav                 # at the pace of speech
    python serve.py runs/latest --wav call.wav --channel 0 --pace fast

Prints what happens as it happens, and writes it to <run>/traces/<wav>.jsonl, or the file that --trace names. Ctrl-C
ends it early.
"""

import argparse
import contextlib
import math
import sys
from functools import partial
from pathlib import Path

from datamodules.audio import read_audio
from datamodules.corpus import UnusableAudio
from duplexmamba.conversation import Event
from lightning_modules.entry import exit_cleanly, quieten
from lightning_modules.handover import FILE, HandOver
from lightning_modules.live import open_sessions
from serving.converse import Teller, converse, summary
from serving.trace import Header, record


def main(args: list[str]) -> list[Event]:
    """Returns what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of stage state or streaming")
    parser.add_argument("--wav", type=Path, required=True, help="what is heard: wav, flac, ogg or mp3")
    parser.add_argument("--channel", type=int, help="the one of the file to hear, from 0; all, if not given")
    parser.add_argument("--pace", choices=["real", "fast"], default="real", help="real: a second takes a second")
    parser.add_argument("--trace", type=Path, help="file for what happened")
    asked = parser.parse_args(args)
    run = asked.run.resolve()
    given = HandOver.load(run / FILE)
    session = open_sessions(given, given.config, run)()
    try:
        samples = read_audio(asked.wav, session.rate_hz, channel=asked.channel, min_s=0, max_s=math.inf)
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
    print(summary(events, session.slice_s), f"{path}: see it with make timeline TRACE={path}", sep="\n")
    return events


if __name__ == "__main__":
    quieten()
    with exit_cleanly():
        main(sys.argv[1:])
