"""VoiceBench: answers of a run, or responses of another system, and their scores."""

import argparse
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from configs.fingerprint import fingerprint
from configs.recipes import DIALOGUE_STAGES
from datamodules.sources.audio_sources import BytesSource
from datamodules.synthetic.espeak import speak
from evaluation.console import with_progress, write_lines
from evaluation.finished_run import Run, checkpoint_hash, open_run, read_recording
from evaluation.scores import SPEECH_LM_STAGES
from evaluation.voicebench import qa
from evaluation.voicebench.infer import Answerer, answer_items, live_answerer, offline_answerer
from evaluation.voicebench.judge import Judge, Replies, ask_all
from evaluation.voicebench.report import SubsetResult, flat_values, print_screen
from evaluation.voicebench.responses import Fields, Response, ResponseLog, match_responses
from evaluation.voicebench.score import (
    LOWEST_RATING,
    OFFLINE,
    SubsetScores,
    check,
    score_answers,
    score_ratings,
    with_unanswered,
)
from evaluation.voicebench.subsets import SUBSETS, Item, find_data, items_of, parse_subsets
from lightning_modules.sessions import open_model, open_sessions

VOICE = "gmw/en-US"
"""Voice of espeak-ng that speaks items without audio."""
NO_JUDGE = "no judge: set JUDGE_URL and JUDGE_MODEL"

KnownItems = Mapping[str, Fields]
"""Name of an item -> its fields."""


class ResponseSet(NamedTuple):
    """Responses to be scored."""

    files: dict[str, Path]
    """Subset -> file of responses."""
    items: dict[str, KnownItems | None]
    """Subset -> its items; None if they are not known."""
    embedded: bool
    """Whether the items are those of this project."""
    streaming: float | None
    """1 for answers of live sessions, 0 for offline answers, None if that is not known."""
    title: str


def score(args: argparse.Namespace) -> dict[str, float | None]:
    """Answer the questions if a run is named, and score the responses.

    Writes the responses, the judge's replies and troubles.jsonl.

    Raises:
        ValueError: an argument is wrong; the message names it and the remedy.
    """
    subsets = parse_subsets(args.subsets)
    # Checked first, so that half a judge is not noticed only after hours of answering.
    judge = judge_from_environment()
    if args.responses:
        responses = existing_responses(args)
    elif args.run is None:
        raise ValueError("name a finished run, or --responses and what they are of")
    else:
        responses = new_responses(args, subsets)
    results = []
    for subset, file in responses.files.items():
        results.append(score_file(subset, file, responses.items[subset], judge))
    values = flat_values(results, responses.embedded)
    values["data/streaming"] = responses.streaming
    print_screen(results, values, responses.title)
    # All files of responses are in the same folder.
    folder = next(iter(responses.files.values())).parent
    write_problems(results, folder / "troubles.jsonl")
    return values


def write_problems(results: Sequence[SubsetResult], file: Path) -> None:
    """Write all problems, one line each: subset, kind and description."""
    problems = []
    for result in results:
        for kind, descriptions in result.problems.items():
            for description in descriptions:
                problems.append((result.name, kind, description))
    write_lines(file, problems)


def judge_from_environment() -> Judge | None:
    """The judge that the environment names; None if it names none.

    Raises:
        ValueError: only one of JUDGE_URL and JUDGE_MODEL is set.
    """
    url = os.environ.get("JUDGE_URL", "")
    model = os.environ.get("JUDGE_MODEL", "")
    if bool(url) != bool(model):
        raise ValueError(
            f"JUDGE_URL={url!r} and JUDGE_MODEL={model!r}: a judge needs both, the address up to "
            "/v1"
        )
    key = os.environ.get("JUDGE_KEY") or os.environ.get("OPENAI_API_KEY", "")
    return Judge(url, model, key) if url else None


# ---- responses of another system


def existing_responses(args: argparse.Namespace) -> ResponseSet:
    """Responses that --responses names. Raises ValueError: an argument is wrong."""
    if args.run is not None:
        raise ValueError(
            f"{args.run} and --responses={args.responses}: name a run or responses, not both"
        )
    files = response_files(args)
    items: dict[str, KnownItems | None] = dict.fromkeys(files)
    # Without the items, missing responses are not noticed, but no download is needed.
    if args.data:
        folder = find_data(args.data, list(files))
        for subset in files:
            items[subset] = {item.name: item.fields for item in items_of(subset, folder)}
    embedded = args.data == "embedded"
    return ResponseSet(files, items, embedded, None, f"VoiceBench, responses of {args.responses}")


def response_files(args: argparse.Namespace) -> dict[str, Path]:
    """Response files by subset: a single file with --subset, or files named by their subset.

    Raises:
        ValueError: the folder has no file of a subset, or the subset of a file is not named.
    """
    if not args.responses.is_dir():
        subsets = parse_subsets(args.subset) if args.subset else []
        if len(subsets) != 1:
            raise ValueError(
                f"--subset={args.subset!r}: say of which one subset {args.responses} holds "
                "responses"
            )
        return {subsets[0]: args.responses}
    files = {}
    subsets = parse_subsets(args.subsets)
    for subset in subsets:
        file = args.responses / file_name(subset)
        if file.exists():
            files[subset] = file
    if not files:
        raise ValueError(
            f"{args.responses}: no {file_name(subsets[0])} or the like; name files by their subset"
        )
    return files


def file_name(subset: str) -> str:
    """Name of the file with the responses to a subset."""
    return f"{subset.replace('/', '_')}.jsonl"


# ---- responses of a run


def new_responses(args: argparse.Namespace, subsets: Sequence[str]) -> ResponseSet:
    """Let a run answer the questions that it has not answered yet.

    Raises:
        ValueError: the run cannot answer in this mode, the data cannot be found, or there are
            responses of another configuration in the same files.
    """
    data_folder = find_data(args.data, subsets)
    run = open_run(args.run, args.overrides)
    mode = args.mode
    if not mode:
        is_dialogue_stage = run.config.stage.name in DIALOGUE_STAGES
        mode = "streaming" if is_dialogue_stage else "offline"
    answerer = make_answerer(run, mode)
    # Answers to the project's own items must not be mixed with those to VoiceBench's.
    folder_name = f"{mode}-embedded" if data_folder is None else mode
    folder = run.folder / "scores" / "voicebench" / folder_name
    # Fingerprints of runs without dialogues leave out the section duplex and so this limit.
    made_by = (
        f"{fingerprint(run.config)} ({checkpoint_hash(run.folder)}), {mode}, "
        f"duplex.max_tokens={run.config.duplex.max_tokens}"
    )
    files: dict[str, Path] = {}
    known: dict[str, KnownItems | None] = {}
    for subset in subsets:
        log = ResponseLog(folder / file_name(subset), made_by)
        files[subset] = log.file
        known[subset] = answer_subset(subset, run, answerer, log, data_folder, args)
    streaming = float(mode == "streaming")
    title = run.titled(f"VoiceBench, {mode}")
    return ResponseSet(files, known, data_folder is None, streaming, title)


def answer_subset(
    subset: str,
    run: Run,
    answerer: Answerer,
    log: ResponseLog,
    data_folder: Path | None,
    args: argparse.Namespace,
) -> KnownItems:
    """Answer the first items of a subset and return their fields."""
    size = SUBSETS[subset].size
    if data_folder is None:
        size = len(list(items_of(subset, None)))
    total = min(size, args.limit or size)
    # An iterator: the recordings of a whole subset may not fit into memory.
    items = items_of(subset, data_folder, args.limit)
    fields: dict[str, Fields] = {}
    recorded = record_fields(with_progress(items, subset, total), fields)
    read_audio = functools.partial(question_audio, run=run, subset=subset)
    for problem in answer_items(recorded, answerer, read_audio, log, args.batch):
        print(f"left out: {problem}")
    return fields


def record_fields(items: Iterable[Item], fields: dict[str, Fields]) -> Iterator[Item]:
    """The items unchanged; their fields are stored as they pass, so items are read only once."""
    for item in items:
        fields[item.name] = item.fields
        yield item


def question_audio(item: Item, run: Run, subset: str) -> np.ndarray:
    """Samples (n,) of an item, or of its prompt synthesised.

    Raises:
        ValueError: the audio cannot be read.
    """
    if item.audio is not None:
        return read_recording(BytesSource(item.audio, f"{subset} {item.name}"), run.config)
    speech = speak(item.fields["prompt"], VOICE)
    return soxr.resample(speech.samples, speech.sample_rate_hz, run.config.features.sample_rate_hz)


def make_answerer(run: Run, mode: str) -> Answerer:
    """Answer questions with a run.

    The model is built at the first question, so a command whose questions are all answered needs
    none.

    Args:
        run: a finished run.
        mode: streaming or offline.

    Raises:
        ValueError: the run cannot answer in this mode.
    """
    stage = run.config.stage.name
    tokenizer = run.checkpoint.tokenizer
    if mode == "streaming" and stage not in DIALOGUE_STAGES:
        raise ValueError(
            f"MODE=streaming: {run.folder} is a run of stage {stage}; name one of "
            f"{', '.join(DIALOGUE_STAGES)}"
        )
    if stage not in SPEECH_LM_STAGES or tokenizer is None:
        raise ValueError(
            f"{run.folder} is a run of stage {stage}; name one of {', '.join(SPEECH_LM_STAGES)}"
        )

    @functools.cache
    def answerer() -> Answerer:
        if mode == "streaming":
            return live_answerer(open_sessions(run.checkpoint, run.config, run.folder))
        model = open_model(run.checkpoint, run.config)
        return offline_answerer(model, tokenizer, run.config.duplex.max_tokens)

    return lambda questions: answerer()(questions)


# ---- scores


def score_file(
    subset: str, file: Path, items: KnownItems | None, judge: Judge | None
) -> SubsetResult:
    """Score one file of responses; an item without a readable response counts as wrong.

    Args:
        subset: that the responses belong to.
        file: of the responses.
        items: of the subset; None if they are not known.
        judge: asked where the subset needs one; None without a judge.
    """
    scorer = SUBSETS[subset].scorer
    content = match_responses(file, SUBSETS[subset].needs, items)
    problems = dict(content.problems)
    # Unknown items can only be missed by the lines that cannot be read.
    num_unanswered = len(problems["broken" if items is None else "missing"])
    responses = []
    for response in content.responses:
        # One broken item must not prevent the scores of all others.
        reason = check(scorer, response)
        if reason:
            problems["broken"] = [*problems["broken"], f"{response.name}: {reason}"]
        else:
            responses.append(response)
    num_empty = sum(response.empty for response in responses)
    if not responses:
        return SubsetResult(subset, SubsetScores(), 0, 0, problems, note="no responses")
    if scorer in OFFLINE:
        scores = OFFLINE[scorer](responses)
        scores = with_unanswered(scores, len(responses), num_unanswered, 0.0)
        return SubsetResult(subset, scores, len(responses), num_empty, problems)
    replies, problems["judge"], note = ask_judge(scorer, responses, file, judge)
    if scorer == "open":
        scores = score_ratings(responses, replies)
    else:
        pedant_accepts, pedant_note = qa.load_pedant()
        scores = score_answers(responses, replies, pedant_accepts)
        if pedant_accepts is not None:
            pedant_note = f"qa_metrics {pedant_note}"
        note = "; ".join(text for text in (note, pedant_note) if text)
    lowest = LOWEST_RATING if scorer == "open" else 0.0
    scores = with_unanswered(scores, len(responses), num_unanswered, lowest)
    judge_name = judge.model if judge else ""
    return SubsetResult(subset, scores, len(responses), num_empty, problems, judge_name, note)


def ask_judge(
    scorer: str, responses: Sequence[Response], file: Path, judge: Judge | None
) -> tuple[Replies | None, list[str], str]:
    """Ask the judge about responses; its raw replies are saved next to their file.

    Returns:
        The replies, None without a judge; problems; and why scores are missing, empty if none are.
    """
    if judge is None:
        return None, [], NO_JUDGE
    # Names of models contain characters that names of files cannot, such as slashes.
    model = re.sub(r"\W+", "-", judge.model)
    reply_file = file.with_suffix(f".judge-{model}.jsonl")
    replies, problems = ask_all(scorer, responses, judge, reply_file)
    note = "not all judged: the same command goes on" if problems else ""
    return replies, problems, note
