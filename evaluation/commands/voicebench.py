"""VoiceBench: answers of a run, or responses made elsewhere, and their scores."""

import argparse
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from configs.fingerprint import fingerprint
from configs.recipes import DIALOGUE_STAGES
from datamodules.sources.audio_sources import BytesSource
from datamodules.synthetic.espeak import speak
from evaluation.commands.finished_run import HEARING, Run, identity, open_run, read_whole
from evaluation.duplex.report import watched, write_lines
from evaluation.voicebench import judge, qa, score, subsets
from evaluation.voicebench.infer import Answerer, live, offline, respond
from evaluation.voicebench.report import Subtotal, flat, show
from evaluation.voicebench.responses import Log, Response, find
from evaluation.voicebench.subsets import SUBSETS, Item
from lightning_modules.sessions import open_model, open_sessions

VOICE = "gmw/en-US"
Known = Mapping[str, Mapping[str, Any]]
"""Fields of a subset's items, by name."""


def run(asked: argparse.Namespace) -> dict[str, float | None]:
    """Responses where they are asked for, then scores. Raises ValueError: a word that is no subset, file or data."""
    names = subsets.chosen(asked.subsets)
    who = find_judge()
    if asked.responses:
        if asked.run is not None:
            raise ValueError(
                f"{asked.run} and --responses={asked.responses}: name a run or responses, not both"
            )
        files = given_files(asked)
        folder = find_data(asked.data, list(files)) if asked.data else None
        items = {name: listed(name, folder, None) if asked.data else None for name in files}
        streaming: float | None = None
        embedded, title = asked.data == "embedded", f"VoiceBench, responses of {asked.responses}"
    else:
        if asked.run is None:
            raise ValueError("name a finished run, or --responses and what they are of")
        folder = find_data(asked.data, names)
        embedded, opened = folder is None, open_run(asked.run, asked.overrides)
        files, items, mode = answer(opened, names, folder, asked)
        streaming = float(mode == "streaming")
        title = opened.titled(f"VoiceBench, {mode}")
    found = [subtotal(name, file, items[name], who) for name, file in files.items()]
    values = flat(found, embedded) | {"data/streaming": streaming}
    show(found, values, title)
    where = next(iter(files.values())).parent
    lines = [
        (s.name, kind, named)
        for s in found
        for kind, all_named in s.troubles.items()
        for named in all_named
    ]
    write_lines(where / "troubles.jsonl", lines)
    return values


def find_judge() -> judge.Judge | None:
    """The one that the environment names. Raises ValueError: half a judge."""
    url, model = os.environ.get("JUDGE_URL", ""), os.environ.get("JUDGE_MODEL", "")
    if bool(url) != bool(model):
        raise ValueError(
            f"JUDGE_URL={url!r} and JUDGE_MODEL={model!r}: a judge needs both, the address up to /v1"
        )
    key = os.environ.get("JUDGE_KEY") or os.environ.get("OPENAI_API_KEY", "")
    return judge.Judge(url, model, key) if url else None


def given_files(asked: argparse.Namespace) -> dict[str, Path]:
    """Response files by subset: the one of a subset that is named, or those of a folder, by their names."""
    if asked.responses.is_dir():
        names = subsets.chosen(asked.subsets)
        files = {name: asked.responses / file_name(name) for name in names}
        files = {name: file for name, file in files.items() if file.exists()}
        if not files:
            raise ValueError(
                f"{asked.responses}: no {file_name(names[0])} or the like; name files by their subset"
            )
        return files
    names = subsets.chosen(asked.subset) if asked.subset else []
    if len(names) != 1:
        raise ValueError(
            f"--subset={asked.subset!r}: say of which one subset {asked.responses} holds responses"
        )
    return {names[0]: asked.responses}


def file_name(name: str) -> str:
    return f"{name.replace('/', '_')}.jsonl"


def find_data(asked: str, names: Sequence[str]) -> Path | None:
    """The folder of the data set; None: the embedded items. Raises ValueError: no such folder, no such hub."""
    if asked not in ("", "hub", "embedded"):
        if not Path(asked).is_dir():
            raise ValueError(
                f"VOICEBENCH={asked}: no such folder; give one of {subsets.HUB}'s schema, hub or embedded"
            )
        return Path(asked)
    folder = None if asked == "embedded" else subsets.fetch(names)
    if folder is None and asked == "hub":
        raise ValueError(
            f"the Hugging Face hub does not answer, and no copy of {subsets.HUB} is cached"
        )
    if folder is None and not asked:
        print(
            f"no {subsets.HUB} from the network: the project's own few items instead, which are not VoiceBench's"
        )
    return folder


def items_of(name: str, folder: Path | None, limit: int | None) -> Iterator[Item]:
    return itertools.islice(
        subsets.embedded(name) if folder is None else subsets.stored(name, folder), limit
    )


def listed(name: str, folder: Path | None, limit: int | None) -> Known:
    return {item.name: item.fields for item in items_of(name, folder, limit)}


def answer(
    run: Run, names: Sequence[str], folder: Path | None, asked: argparse.Namespace
) -> tuple[dict[str, Path], dict[str, Known | None], str]:
    """Let the run answer what it has not answered yet; returns files of responses, what was asked, and the mode."""
    mode = asked.mode or ("streaming" if run.config.stage.name in DIALOGUE_STAGES else "offline")
    answerer = answerer_of(run, mode)
    where = run.folder / "scores" / "voicebench" / (f"{mode}-embedded" if folder is None else mode)
    max_tokens = run.config.duplex.max_tokens
    weights = f"{fingerprint(run.config)} ({identity(run.folder)})"
    made_by = f"{weights}, {mode}, duplex.max_tokens={max_tokens}"
    files: dict[str, Path] = {}
    known: dict[str, Known | None] = {}
    for name in names:
        fields: dict[str, Mapping[str, Any]] = {}
        items = items_of(name, folder, asked.limit)
        size = SUBSETS[name].size if folder else len([*subsets.embedded(name)])
        log = Log(where / file_name(name), made_by)
        hear = functools.partial(heard, run=run, name=name)
        seen = noted(watched(items, name, min(size, asked.limit or size)), fields)
        left_out = respond(seen, answerer, hear, log, asked.batch)
        for trouble in left_out:
            print(f"left out: {trouble}")
        files[name], known[name] = log.file, fields
    return files, known, mode


def noted(items: Iterable[Item], fields: dict[str, Mapping[str, Any]]) -> Iterator[Item]:
    """The same, each written down as it passes."""
    for item in items:
        fields[item.name] = item.fields
        yield item


def heard(item: Item, run: Run, name: str) -> np.ndarray:
    """Samples of an item's audio, or of its prompt spoken. Raises ValueError: they cannot be used."""
    if item.audio is not None:
        return read_whole(BytesSource(item.audio, f"{name} {item.name}"), run.config)
    speech = speak(item.fields["prompt"], VOICE)
    return soxr.resample(speech.samples, speech.sample_rate_hz, run.config.features.sample_rate_hz)


def answerer_of(run: Run, mode: str) -> Answerer:
    """Opens the model only when there is something to answer.

    Raises:
        ValueError: the run cannot answer in this way.
    """
    stage, tokens = run.config.stage.name, run.given.tokenizer
    if mode == "streaming" and stage not in DIALOGUE_STAGES:
        raise ValueError(
            f"MODE=streaming: {run.folder} is a run of stage {stage}; name one of {', '.join(DIALOGUE_STAGES)}"
        )
    if stage not in HEARING or tokens is None:
        raise ValueError(
            f"{run.folder} is a run of stage {stage}; name one of {', '.join(HEARING)}"
        )

    @functools.cache
    def opened() -> Answerer:
        if mode == "streaming":
            return live(open_sessions(*run))
        return offline(open_model(run.given, run.config), tokens, run.config.duplex.max_tokens)

    return lambda questions: opened()(questions)


def subtotal(name: str, file: Path, items: Known | None, who: judge.Judge | None) -> Subtotal:
    """The scores of one file of responses."""
    subset = SUBSETS[name]
    found = find(file, subset.needs, items)
    unfit = {response.name: score.check(subset.scorer, response) for response in found.responses}
    responses = [response for response in found.responses if not unfit[response.name]]
    troubles = dict(found.troubles)
    troubles["broken"] = [
        *troubles["broken"],
        *(f"{item}: {why}" for item, why in unfit.items() if why),
    ]
    empty = sum(response.empty for response in responses)
    if not responses:
        return Subtotal(name, score.Scores(), 0, 0, troubles, note="no responses")
    if subset.scorer in score.OFFLINE:
        return Subtotal(
            name, score.OFFLINE[subset.scorer](responses), len(responses), empty, troubles
        )
    scores, troubles["judge"], note = judged(subset.scorer, responses, file, who)
    return Subtotal(name, scores, len(responses), empty, troubles, who.model if who else "", note)


def judged(
    scorer: str, responses: Sequence[Response], file: Path, who: judge.Judge | None
) -> tuple[score.Scores, list[str], str]:
    """The scores that need somebody's judgement, what went wrong with it, and why they are not there."""
    replies, note = None, "no judge: set JUDGE_URL and JUDGE_MODEL"
    troubles: list[str] = []
    if who is not None:
        model = re.sub(r"\W+", "-", who.model)
        replies, troubles = judge.judge(
            scorer, responses, who, file.with_suffix(f".judge-{model}.jsonl")
        )
        note = "" if not troubles else "not all judged: the same command goes on"
    if scorer == "open":
        return score.of_ratings(responses, replies), troubles, note
    accepts, why = qa.pedant()
    scores = score.of_answers(responses, replies, accepts)
    return (
        scores,
        troubles,
        "; ".join(filter(None, [note, why if accepts is None else f"qa_metrics {why}"])),
    )
