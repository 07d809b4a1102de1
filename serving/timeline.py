"""Draw a conversation from its trace, to a PNG file next to it:

    python -m serving.timeline runs/latest/traces/question.jsonl

Rows: the user's audio; the probabilities of the turn states after each slice; the listening
branches, coloured by the action that ended them; the responses; the compute time of each slice.
"""

import math
import sys
from pathlib import Path

from matplotlib.figure import Figure

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from duplexmamba.duplex.events import emitted_responses
from reporting.session_timeline import PlottedResponse, PlottedSlice, Waveform, draw_session
from serving.converse import printable
from serving.trace import Trace, load_trace

WAVEFORM_RATE_HZ = 4000
"""Enough for a waveform of this size."""


def main(args: list[str]) -> Path:
    """Draw a trace.

    Args:
        args: the path of the trace.

    Returns:
        The path of the PNG file.

    Raises:
        ValueError: there is not exactly one argument, or it is not a trace.
    """
    if len(args) != 1 or not args[0]:
        raise ValueError("name the trace: make timeline TRACE=runs/latest/traces/question.jsonl")
    trace_path = Path(args[0])
    path = trace_path.with_suffix(".png")
    draw_trace(load_trace(trace_path)).savefig(path, dpi=100)
    print(path)
    return path


def draw_trace(trace: Trace) -> Figure:
    """Draw a whole conversation."""
    slice_s = trace.header.slice_s
    slices = []
    for event in trace.events:
        probabilities = {str(state): value for state, value in event.probabilities.items()}
        slices.append(PlottedSlice(probabilities, event.action, event.compute_ms))
    responses = []
    for response in emitted_responses(trace.events):
        # Text is emitted at the end of a slice and drawn over the next one.
        start_s = (response.start_slice + 1) * slice_s
        stop_s = (response.stop_slice + 1 + response.complete) * slice_s
        text = printable(response.text.strip())
        responses.append(PlottedResponse(start_s, stop_s, text, response.complete))
    audio_name = Path(trace.header.wav or "").name
    title = f"{audio_name}   played to {Path(trace.header.run).name}"
    return draw_session(title, slice_s, slices, responses, load_waveform(trace))


def load_waveform(trace: Trace) -> Waveform | None:
    """Audio of a conversation; None if the trace names no file or the file cannot be read."""
    if trace.header.wav is None:
        return None
    try:
        samples = read_audio(
            Path(trace.header.wav),
            WAVEFORM_RATE_HZ,
            channel=trace.header.channel,
            min_s=0,
            max_s=math.inf,
        )
    except UnusableAudio:
        return None  # the rest of the trace can be drawn without its audio
    return Waveform(samples, WAVEFORM_RATE_HZ)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
