"""Clips in parquet tables whose rows say how they end: smart-turn's data and eot-bench.

Sources: pipecat-ai/smart-turn (`audio`, `id`, `language`, `endpoint_bool`) and livekit/eot-bench
(`audio`, `id`, `language`, `silence_spans`, `duration`). Needs pyarrow, of the extra `corpora`.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.conversations.conversation import Conversation, Side, Span, SpokenTurn
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import audio_duration_s
from datamodules.sources.audio_sources import ParquetSource, open_parquet
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, split_of
from datamodules.sources.manifests import Record

AUDIO = "audio"
SMART_TURN_TAIL_S = 0.2
"""Silence at the end of every clip of smart-turn."""
SMART_TURN_COLUMNS = ("id", "language", "endpoint_bool")
EOT_BENCH_COLUMNS = ("id", "language", "silence_spans", "duration")


def convert_smart_turn(root: Path) -> Iterator[Conversation | Skipped]:
    """Read smart-turn's clips: complete or incomplete, with 0.2 s of silence at the end."""
    for audio, row in _rows(root, SMART_TURN_COLUMNS):
        try:
            duration_s = audio_duration_s(audio)
        except UnusableAudio as error:
            yield Skipped(UNUSABLE, str(error))
            continue
        end_s = duration_s - SMART_TURN_TAIL_S
        label = "complete" if row["endpoint_bool"] else "incomplete"
        turn = SpokenTurn(
            who="user",
            start_s=0.0,
            end_s=end_s,
            kind="question",
            answered=bool(row["endpoint_bool"]),
            label=label,
        )
        yield _clip("smart-turn", audio, row, duration_s, turn)


def convert_eot_bench(root: Path) -> Iterator[Conversation | Skipped]:
    """Read eot-bench's turns: the last silence is the end, the ones before are pauses."""
    for audio, row in _rows(root, EOT_BENCH_COLUMNS):
        silences: list[Span] = []
        for span in row["silence_spans"]:
            silences.append((float(span["start"]), float(span["end"])))
        if not silences:
            problem = f"{audio}: silence_spans of {row['id']} is empty; remove the row"
            yield Skipped(UNUSABLE, problem)
            continue
        *pauses, last = sorted(silences)
        turn = SpokenTurn(
            who="user",
            start_s=0.0,
            end_s=last[0],
            kind="question",
            answered=True,
            pauses=tuple(pauses),
        )
        yield _clip("eot-bench", audio, row, float(row["duration"]), turn)


def _clip(
    source: str, audio: ParquetSource, row: Record, duration_s: float, turn: SpokenTurn
) -> Conversation:
    return Conversation(
        id=str(row["id"]),
        split=split_of(Path(audio.file).stem),
        source=source,
        licence="",
        language=str(row["language"] or ""),
        duration_s=duration_s,
        user=Side(audio, None),
        agent=None,
        turns=(turn,),
    )


def _rows(root: Path, columns: Sequence[str]) -> Iterator[tuple[ParquetSource, Record]]:
    """Rows of every table, without their audio, and where that is."""
    if not importlib.util.find_spec("pyarrow"):
        raise ImportError(f"{root} is parquet, which pyarrow reads: pip install '.[corpora]'")
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if not files:
        raise ValueError(f"{root} holds no .parquet; give the folder that does")
    for file in files:
        with open_parquet(str(file)) as table:
            present = table.schema_arrow.names
            missing = {AUDIO, *columns}.difference(present)
            if missing:
                raise ValueError(
                    f"{file} has no column {', '.join(sorted(missing))}; its columns are "
                    f"{', '.join(present)}"
                )
            for group in range(table.num_row_groups):
                # Only the small columns: audio is nearly all of a table.
                rows = table.read_row_group(group, columns=list(columns)).to_pylist()
                for number, row in enumerate(rows):
                    yield ParquetSource(str(file.absolute()), group, number, AUDIO), row
