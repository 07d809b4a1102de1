"""A judge: any OpenAI-compatible endpoint, asked three times about each response.

Every raw reply is saved in a file. The rubric and the sampling are VoiceBench's; the wording is our
own.
"""

import concurrent.futures
import hashlib
import http.client
import json
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.voicebench.responses import Response, append_lines, split_lines

OFFICIAL_MODEL = "gpt-4o-mini"
OFFICIAL_NAMES = re.compile(rf"{OFFICIAL_MODEL}(-\d{{4}}-\d\d-\d\d)?")
"""Names of the official judge: with or without the date of its version."""
NUM_SAMPLES = 3
# Sampled rather than greedy, so that the three replies to a question can differ.
SAMPLING = {"temperature": 0.5, "top_p": 0.95, "max_tokens": 1024}
NUM_TRIES = 3
BACKOFF_S = 1.0
"""Pause before the second try; every further pause is twice as long."""
MAX_FAILURES = 20
"""Number of consecutive failed requests after which no more are made."""
SHOWN_LETTERS = 80
"""Letters of an unreadable reply in messages."""
SYSTEM_PROMPT = "You help people by answering what they ask."
OPEN_QUESTION = """\
A voice assistant heard a user and replied. Below are transcripts of both. \
Rate the reply from 1 to 5:
1: off the topic, wrong, or no answer to the user.
2: on the topic, but inaccurate or incomplete, or mixed with what does not belong to it.
3: on the topic and mostly accurate, but wordy or with needless details.
4: on the topic, accurate and concise: a clear answer without needless elaboration.
5: outstanding: accurate and to the point, exactly what the user needs.

User: {prompt}
Reply: {response}

Answer with the number alone, without any explanation.
"""
QA_QUESTION = """\
Question: {prompt}
Reference answer: {reference}
Candidate answer: {response}

Going by the question and the reference answer, is the candidate answer correct? \
Answer with one word, Yes or No.
"""
INTERRUPTION_QUESTION = """\
A voice assistant was talking with a user, who interrupted it. Rate from 0 to 5 how well its answer \
relates to the interruption, given what was said before:
0: it has nothing to do with the interruption.
3: it relates to the interruption in part, or goes on with what was before.
5: it answers the interruption directly and sensibly.

Before: {context}
Interruption: {interrupt}
Answer of the assistant: {response}

Answer with the number alone, without any explanation.
"""
BEHAVIOUR_QUESTION = """\
A voice assistant was talking when somebody else's voice set in. Compare what it says in the \
recording with that voice to what it says in the same recording without it. The times are in seconds.

User, without the voice: {input_clean}
User, with the voice: {input_noisy}
Assistant, without the voice: {output_clean}
Assistant, with the voice: {output_noisy}

Look at the first new, meaningful words of the assistant after the voice has set in. Which is it?
C_RESPOND: it responds to what the voice said.
C_RESUME: it goes on with, or comes back to, what it was saying.
C_UNCERTAIN_HANDLING: it says that it is unsure, or asks to repeat.
C_UNKNOWN: none of these, or it says nothing.

Answer with that one word.
"""
BEHAVIOURS = ("C_RESPOND", "C_RESUME", "C_UNCERTAIN_HANDLING", "C_UNKNOWN")
"""What an assistant may do in an overlap; the names are those of Full-Duplex-Bench v1.5."""
QUESTIONS = {
    "open": OPEN_QUESTION,
    "qa": QA_QUESTION,
    "interruption": INTERRUPTION_QUESTION,
    "behaviour": BEHAVIOUR_QUESTION,
}
"""Scorer -> template of the question to the judge. The texts identify saved replies: any change
invalidates them."""

Replies = Mapping[str, list[str]]
"""Name of the response -> readable raw replies, `NUM_SAMPLES` once all requests succeeded."""
Request = tuple[str, int]
"""Name of the response, and number of the sample."""


class Judge(NamedTuple):
    """A model behind an endpoint."""

    url: str
    """Up to and including `/v1`."""
    model: str
    key: str = ""
    timeout_s: float = 60.0
    num_parallel: int = 8

    def ask(self, question: str) -> str:
        """Send one request and return the reply.

        Raises:
            OSError: the request failed or timed out.
            ValueError: the reply does not have the expected format.
        """
        messages = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": question},
        ]
        body = {"model": self.model, "messages": messages, **SAMPLING}
        # Local servers need no key, but some refuse requests without the header.
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.key or 'none'}",
        }
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as opened:
            reply = json.loads(opened.read())
        try:
            return str(reply["choices"][0]["message"]["content"]).strip()
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"a reply without choices[0].message.content: {str(reply)[:200]}"
            ) from None


def rating(reply: str) -> float | None:
    """Read a number from 1 to 5, bare or as [[4]]; None if the reply is something else."""
    bracketed = re.search(r"\[\[(\d+)\]\]", reply)
    number = bracketed[1] if bracketed else reply
    try:
        score = float(number)
    except ValueError:
        return None
    return score if 1 <= score <= 5 else None


def verdict(reply: str) -> bool | None:
    """Read a reply that begins with yes or no; None if it begins with something else."""
    word = re.match(r"(?i)\W*(yes|no)\b", reply)
    return None if word is None else word[1].lower() == "yes"


def relevance(reply: str) -> float | None:
    """Read a whole number from 0 to 5; None if the reply is something else."""
    number = re.fullmatch(r"\W*([0-5])\W*", reply)
    return None if number is None else float(number[1])


def behaviour(reply: str) -> str | None:
    """Read one of `BEHAVIOURS`; None if the reply names none, or several."""
    named = {tag for tag in BEHAVIOURS if re.search(rf"\b{tag}\b", reply)}
    return named.pop() if len(named) == 1 else None


READERS: dict[str, Callable[[str], float | bool | str | None]] = {
    "open": rating,
    "qa": verdict,
    "interruption": relevance,
    "behaviour": behaviour,
}
"""Scorer -> function that reads a reply."""


class Reply(NamedTuple):
    """Result of one request."""

    raw: str | None
    """Text of the reply; None if there is none."""
    problem: str
    """Why there is no reply, or why it is unreadable; empty if it is readable."""


def ask_all(
    scorer: str, responses: Sequence[Response], judge: Judge, file: Path
) -> tuple[Replies, list[str]]:
    """Ask about every response for which the file lacks readable replies.

    Args:
        scorer: one of `QUESTIONS`.
        responses: to be judged.
        judge: to be asked.
        file: JSONL file of raw replies; new replies are appended, unreadable ones included.

    Returns:
        The readable replies, and descriptions of all problems.
    """
    template = QUESTIONS[scorer]
    questions: dict[str, str] = {}
    for response in responses:
        fields = {**response.fields, "response": response.text}
        questions[response.name] = template.format_map(fields)
    # Requests cost money: whatever is saved and readable is not repeated.
    known = _read_saved(file, scorer, judge, questions)
    pending = []
    for name in questions:
        for sample in range(NUM_SAMPLES):
            if (name, sample) not in known:
                pending.append((name, sample))
    new_replies, problems = _send(scorer, judge, questions, pending, file)
    known |= new_replies

    replies: dict[str, list[str]] = {}
    for name in questions:
        samples = [(name, sample) for sample in range(NUM_SAMPLES)]
        replies[name] = [known[sample] for sample in samples if sample in known]
    return replies, problems


def _send(
    scorer: str,
    judge: Judge,
    questions: Mapping[str, str],
    pending: Sequence[Request],
    file: Path,
) -> tuple[dict[Request, str], list[str]]:
    """Send requests in parallel and save the replies.

    Returns:
        Readable replies, and descriptions of all problems.
    """
    readable: dict[Request, str] = {}
    problems: list[str] = []
    num_failures = 0

    def send(request: Request) -> Reply:
        return _ask_with_retries(judge, scorer, questions[request[0]])

    with concurrent.futures.ThreadPoolExecutor(judge.num_parallel) as pool:
        for begin in range(0, len(pending), judge.num_parallel):
            batch = pending[begin : begin + judge.num_parallel]
            replies = dict(zip(batch, pool.map(send, batch), strict=True))
            lines = []
            for (name, sample), reply in replies.items():
                lines.append(_line(judge, questions[name], name, sample, reply))
            # Saved batch by batch, so that an interruption loses few replies.
            append_lines(file, lines)
            for request, reply in replies.items():
                # Only failures in a row count: single ones are no sign that the judge is gone.
                if reply.raw is None:
                    num_failures += 1
                else:
                    num_failures = 0
                if reply.problem:
                    problems.append(f"{request[0]}: {reply.problem}")
                elif reply.raw is not None:
                    readable[request] = reply.raw
            if num_failures >= MAX_FAILURES:
                num_left = len(pending) - begin - len(batch)
                problems.append(f"{num_left} requests not made: {num_failures} in a row had failed")
                break
    return readable, problems


def _line(judge: Judge, question: str, name: str, sample: int, reply: Reply) -> dict[str, Any]:
    """A line of the file of raw replies."""
    return {
        "item": name,
        "sample": sample,
        "model": judge.model,
        "asked": _question_hash(question),
        "raw": reply.raw,
        "trouble": reply.problem,
    }


def _ask_with_retries(judge: Judge, scorer: str, question: str) -> Reply:
    """One reply, after at most `NUM_TRIES` requests."""
    problem = ""
    for attempt in range(NUM_TRIES):
        try:
            raw = judge.ask(question)
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = f"no reply from {judge.url} ({error})"
            # Nothing comes after the last try, so there is nothing to wait for.
            is_last = attempt + 1 == NUM_TRIES
            time.sleep(0 if is_last else BACKOFF_S * 2**attempt)
            continue
        if READERS[scorer](raw) is None:
            return Reply(raw, f"unreadable reply from the judge: {raw[:SHOWN_LETTERS]!r}")
        return Reply(raw, "")
    return Reply(None, problem)


def _read_saved(
    file: Path, scorer: str, judge: Judge, questions: Mapping[str, str]
) -> dict[Request, str]:
    """Readable saved replies of this judge to exactly these questions."""
    known: dict[Request, str] = {}
    if not file.exists():
        return known
    for line in split_lines(file):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # empty, or incomplete after an interruption: it is asked again
        question_hash = _question_hash(questions.get(entry["item"], ""))
        is_same = entry["model"] == judge.model and entry["asked"] == question_hash
        raw = entry["raw"]
        if is_same and raw is not None and READERS[scorer](raw) is not None:
            known[entry["item"], entry["sample"]] = raw
    return known


def _question_hash(question: str) -> str:
    """Sixteen hex digits that identify a question."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]
