"""Play a recording to a server and print the responses.

    python docs/talk_example.py question.wav [ws://localhost:8765/talk]

Needs numpy, soundfile, soxr and websockets.
"""

import asyncio
import json
import sys

import numpy as np
import soundfile as sf
import soxr
from websockets.asyncio.client import connect

RATE_HZ = 16_000
MESSAGE_SAMPLES = 640
SILENCE_S = 6


def load(path):
    """Read a file as 16-bit mono samples at RATE_HZ, followed by silence for the response."""
    channels, rate_hz = sf.read(path, always_2d=True)  # (n, channels)
    mono = soxr.resample(channels.mean(1), rate_hz, RATE_HZ)
    samples = np.concatenate([mono, np.zeros(SILENCE_S * RATE_HZ)])
    return (samples.clip(-1, 1) * 32767).astype("<i2")


async def send_audio(socket, samples):
    """Send samples in real time, then close the connection."""
    for start in range(0, len(samples), MESSAGE_SAMPLES):
        await socket.send(samples[start : start + MESSAGE_SAMPLES].tobytes())
        await asyncio.sleep(MESSAGE_SAMPLES / RATE_HZ)
    await socket.close()


async def main(path, address="ws://localhost:8765/talk"):
    """Play a recording and print the text of all responses."""
    samples = load(path)
    async with connect(address) as socket, asyncio.TaskGroup() as tasks:
        await socket.send(json.dumps({"version": 1, "rate_hz": RATE_HZ}))
        tasks.create_task(send_audio(socket, samples))
        async for message in socket:
            fields = json.loads(message)
            # A slice has `text`; the message that ends a conversation has `message`.
            print(fields.get("text") or fields.get("message", ""), end="", flush=True)


asyncio.run(main(*sys.argv[1:]))
