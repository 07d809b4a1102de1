"""Talk from Python: python docs/talk_example.py question.wav [address]. Needs numpy, soundfile, soxr, websockets."""

import asyncio
import json
import sys

import numpy as np
import soundfile as sf
import soxr
from websockets.asyncio.client import connect

RATE_HZ, PIECE = 16_000, 640


async def speak(socket, samples):
    for begin in range(0, len(samples), PIECE):
        await socket.send(samples[begin : begin + PIECE].tobytes())
        await asyncio.sleep(PIECE / RATE_HZ)
    await socket.close()


async def main(wav, address="ws://localhost:8765/talk"):
    sound, rate_hz = sf.read(wav, always_2d=True)
    sound = np.concatenate([soxr.resample(sound.mean(1), rate_hz, RATE_HZ), np.zeros(6 * RATE_HZ)])
    async with connect(address) as socket, asyncio.TaskGroup() as tasks:
        await socket.send(json.dumps({"version": 1, "rate_hz": RATE_HZ}))
        tasks.create_task(speak(socket, (sound.clip(-1, 1) * 32767).astype("<i2")))
        async for message in socket:
            event = json.loads(message)
            print(event.get("text") or event.get("message", ""), end="", flush=True)


asyncio.run(main(*sys.argv[1:]))
