"""Speed of converting recorded conversations: seconds a thousand conversations of ten minutes take on
one core, and the seconds of audio that are decoded for it.

    python benchmarks/conversations.py [--json FILE] [--conversations 10]

The layouts are those of `make data`, with words at the rate of speech; all of it is timed, from the
corpus to manifest and report. Each conversation has a file of its own, since the system would keep a
single one in memory. Only moshi-finetune's layout, which has no times of one side, needs audio.
"""

import contextlib
import csv
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import soundfile as sf
from measure import arguments, machine, save, show

from datamodules.prepare import main as make_data

DURATION_S = 600.0
RATE_HZ = 16_000
TURN_S = 4.0
GAP_S = 0.3
WORD_S = 0.35
WORDS = ["so", "what", "is", "this", "then", "mhm", "a", "lamp", "really"]
NUM_REPORTED = 1000
"""Conversations to which times are extrapolated."""
RECIPE = ["configs/preset/tiny.yaml", "configs/stage/streaming.yaml"]

Turns = list[tuple[int, float, float, list[tuple[str, float, float]]]]
"""Speaker, begin, end and words of each turn; words have a begin and an end in seconds."""


def draw_turns(seed: int) -> Turns:
    """Turns of two people who speak one after another for ten minutes."""
    rng = random.Random(seed)
    turns: Turns = []
    time_s = 1.0
    while time_s + 2 * TURN_S < DURATION_S:
        end_s = time_s + rng.uniform(0.5, 2) * TURN_S
        num_words = int((end_s - time_s) / WORD_S)
        words = []
        for index in range(num_words):
            word_s = time_s + index * WORD_S
            words.append((rng.choice(WORDS), word_s, word_s + 0.8 * WORD_S))
        turns.append((len(turns) % 2, time_s, end_s, words))
        time_s = end_s + rng.uniform(-1, 2) * GAP_S
    return turns


def sound(turns: Turns) -> np.ndarray:
    """(n, 2) int16: noise where somebody speaks."""
    rng = np.random.default_rng(0)
    samples = np.zeros((round(DURATION_S * RATE_HZ), 2), np.int16)
    for speaker, start_s, end_s, _ in turns:
        span = slice(round(start_s * RATE_HZ), round(end_s * RATE_HZ))
        length = span.stop - span.start
        samples[span, speaker] = rng.integers(-3000, 3000, length)
    return samples


def text_of(words: list[tuple[str, float, float]]) -> str:
    """Words of a turn."""
    return " ".join(word for word, _, _ in words)


def write_cuts(folder: Path, name: str, turns: Turns, audio: Path) -> None:
    """Recordings and supervisions as lhotse's recipes write them."""
    shutil.copy(audio, folder / f"{name}.wav")
    source = {"type": "file", "channels": [0, 1], "source": f"{name}.wav"}
    recording = {"id": name, "sources": [source], "channel_ids": [0, 1], "duration": DURATION_S}
    with open(folder / "recordings.jsonl", "a") as file:
        file.write(json.dumps(recording) + "\n")
    with open(folder / "supervisions.jsonl", "a") as file:
        for number, (speaker, start_s, end_s, words) in enumerate(turns):
            row = {
                "id": f"{name}-{number}",
                "recording_id": name,
                "channel": speaker,
                "speaker": f"{name}-{speaker}",
                "start": start_s,
                "duration": end_s - start_s,
                "text": text_of(words),
            }
            file.write(json.dumps(row) + "\n")


def write_moshi(folder: Path, name: str, turns: Turns, audio: Path) -> None:
    """Words of the left channel beside the sound."""
    shutil.copy(audio, folder / f"{name}.wav")
    alignments = []
    for speaker, _, _, words in turns:
        if speaker == 0:
            alignments += [[word, [begin, end], "SPEAKER_MAIN"] for word, begin, end in words]
    (folder / f"{name}.json").write_text(json.dumps({"alignments": alignments}))


def write_seamless(folder: Path, name: str, turns: Turns, audio: Path) -> None:
    """A sound and a JSON for each participant."""
    for speaker in (0, 1):
        stem = folder / f"V00_S{name}_I0_P{name}{speaker}"
        shutil.copy(audio, stem.with_suffix(".wav"))
        own = [turn for turn in turns if turn[0] == speaker]
        transcript = []
        for _, start_s, end_s, words in own:
            timed = [{"word": word, "start": begin, "end": end} for word, begin, end in words]
            line = {"start": start_s, "end": end_s, "transcript": text_of(words), "words": timed}
            transcript.append(line)
        voiced = [{"start": start_s, "end": end_s} for _, start_s, end_s, _ in own]
        notes = {"metadata:transcript": transcript, "metadata:vad": voiced}
        stem.with_suffix(".json").write_text(json.dumps(notes))


def write_candor(folder: Path, name: str, turns: Turns, audio: Path) -> None:
    """Tables of turns; the sound is no mp3, of which only the header would be read too."""
    processed = folder / name / "processed"
    transcription = folder / name / "transcription"
    processed.mkdir(parents=True)
    transcription.mkdir()
    shutil.copy(audio, processed / f"{name}.mp3")
    (processed / "channel_map.json").write_text('{"L": "0", "R": "1"}')
    columns = ["speaker", "start", "stop", "utterance"]
    columns += ["backchannel", "backchannel_speaker", "backchannel_start", "backchannel_stop"]
    for table in ("audiophile", "backbiter"):
        with open(transcription / f"transcript_{table}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for speaker, start_s, end_s, words in turns:
                writer.writerow([speaker, start_s, end_s, text_of(words), "", "", "", ""])


LAYOUTS: dict[str, Callable[[Path, str, Turns, Path], None]] = {
    "two-channel-cuts": write_cuts,
    "seamless": write_seamless,
    "candor": write_candor,
    "moshi-finetune": write_moshi,
}


@contextlib.contextmanager
def decoded_frames() -> Iterator[list[int]]:
    """Context in which the frames that soundfile decodes are counted."""
    read = sf.SoundFile.read
    counts: list[int] = []

    def counting_read(self: sf.SoundFile, *args: object, **more: object) -> np.ndarray:
        samples = read(self, *args, **more)
        counts.append(len(samples))
        return samples

    with mock.patch.object(sf.SoundFile, "read", counting_read):
        yield counts


def bench(name: str, folder: Path, count: int) -> tuple[float, float]:
    """Convert conversations of one layout.

    Returns:
        Seconds for NUM_REPORTED conversations, and the share of their audio that was decoded.
    """
    corpus = folder / name
    corpus.mkdir()
    audio = folder / "sound.wav"
    for number in range(count):
        turns = draw_turns(number)
        if not number:
            sf.write(audio, sound(turns), RATE_HZ)
        LAYOUTS[name](corpus, f"c{number}", turns, audio)
    with decoded_frames() as counts:
        start_s = time.process_time()
        make_data([name, str(corpus), *RECIPE, f"run.dir={folder}"])
        elapsed_s = time.process_time() - start_s
    decoded_s = sum(counts) / RATE_HZ
    shutil.rmtree(corpus)
    return elapsed_s * NUM_REPORTED / count, decoded_s / (DURATION_S * count)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--conversations", type=int, default=10, help="of each layout")
    args = parser.parse_args()
    numbers: dict[str, float] = {}
    rows = []
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        # Imports and the first picture are no part of a conversion.
        bench("two-channel-cuts", Path(folder), 1)
        for name in LAYOUTS:
            seconds, share = bench(name, Path(folder), args.conversations)
            key = name.replace("-", "_")
            numbers[f"conversations/{key}_s"] = seconds
            numbers[f"conversations/{key}_decoded_share"] = share
            rows.append([name, f"{seconds:.0f}", f"{100 * share:.0f} %"])
    columns = ["layout", "s of one core", "audio decoded"]
    show(f"{NUM_REPORTED:,} conversations of ten minutes", columns, rows)
    save(numbers, args.json)


if __name__ == "__main__":
    main()
