"""A judge: any OpenAI-compatible endpoint, asked three times about each answer; every raw reply is kept in a file.

The rubric and the way of asking are VoiceBench's, in words of our own.
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

from evaluation.voicebench.responses import Response, append, lines

OFFICIAL = "gpt-4o-mini"
DATED = re.compile(rf"{OFFICIAL}(-\d{{4}}-\d\d-\d\d)?")
"""Its names."""
SAMPLES = 3
SAMPLING = {"temperature": 0.5, "top_p": 0.95, "max_tokens": 1024}
TRIES, BACK_OFF_S = 3, 1.0
GIVE_UP = 20
"""Requests that fail one after the other before no more are made."""
SYSTEM = "You help people by answering what they ask."
OPEN = """\
A voice assistant heard a user and replied. Below are transcripts of both. Rate the reply from 1 to 5:
1: off the topic, wrong, or no answer to the user.
2: on the topic, but inaccurate or incomplete, or mixed with what does not belong to it.
3: on the topic and mostly accurate, but wordy or with needless details.
4: on the topic, accurate and concise: a clear answer without needless elaboration.
5: outstanding: accurate and to the point, exactly what the user needs.

User: {prompt}
Reply: {response}

Answer with the number alone, without any explanation.
"""
QA = """\
Question: {prompt}
Reference answer: {reference}
Candidate answer: {response}

Going by the question and the reference answer, is the candidate answer correct? Answer with one word, Yes or No.
"""
QUESTIONS = {"open": OPEN, "qa": QA}
Replies = Mapping[str, list[str]]
"""By the name of the response: raw replies that can be read, three where the judge has done its work."""


class Judge(NamedTuple):
    """Who is asked, and how."""

    url: str
    """Up to and with `/v1`."""
    model: str
    key: str = ""
    timeout_s: float = 60.0
    at_once: int = 8

    def ask(self, question: str) -> str:
        """One reply. Raises OSError: no answer in time; ValueError: an answer of another form."""
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        body = json.dumps({"model": self.model, "messages": messages, **SAMPLING}).encode()
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.key or 'none'}",
        }
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answered:
            answer = json.loads(answered.read())
        try:
            return str(answer["choices"][0]["message"]["content"]).strip()
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"a reply without choices[0].message.content: {str(answer)[:200]}"
            ) from None


def rating(reply: str) -> float | None:
    """A number from 1 to 5, alone or as [[4]]; None: nonsense."""
    bracketed = re.search(r"\[\[(\d+)\]\]", reply)
    try:
        score = float(bracketed[1] if bracketed else reply)
    except ValueError:
        return None
    return score if 1 <= score <= 5 else None


def verdict(reply: str) -> bool | None:
    """Yes or no, also with a full stop or a reason behind it; None: nonsense."""
    word = re.match(r"(?i)\W*(yes|no)\b", reply)
    return None if word is None else word[1].lower() == "yes"


READERS: dict[str, Callable[[str], float | bool | None]] = {"open": rating, "qa": verdict}


class Reply(NamedTuple):
    """What came of one request."""

    raw: str | None
    trouble: str
    """Why there is no raw reply, or none that can be read."""


def judge(
    scorer: str, responses: Sequence[Response], who: Judge, file: Path
) -> tuple[Replies, list[str]]:
    """Ask about every response what the file does not hold a readable reply to.

    Args:
        scorer: open or qa.
        file: of raw replies, which gets the new ones, nonsense included.

    Returns:
        The replies that can be read, and what went wrong, in words.
    """
    questions = {
        r.name: QUESTIONS[scorer].format_map({**r.fields, "response": r.text}) for r in responses
    }
    known = _kept(file, scorer, who, questions)
    wanted = [(name, i) for name in questions for i in range(SAMPLES) if (name, i) not in known]
    troubles: list[str] = []
    in_a_row = 0

    def ask(key: tuple[str, int]) -> Reply:
        return _asked(who, scorer, questions[key[0]])

    with concurrent.futures.ThreadPoolExecutor(who.at_once) as pool:
        for begin in range(0, len(wanted), who.at_once):
            some = wanted[begin : begin + who.at_once]
            answered = dict(zip(some, pool.map(ask, some), strict=True))
            append(
                file,
                [
                    _row(who, questions[name], name, i, reply)
                    for (name, i), reply in answered.items()
                ],
            )
            for (name, i), reply in answered.items():
                in_a_row = in_a_row + 1 if reply.raw is None else 0
                if reply.trouble:
                    troubles.append(f"{name}: {reply.trouble}")
                elif reply.raw is not None:
                    known[name, i] = reply.raw
            if in_a_row >= GIVE_UP:
                troubles.append(
                    f"{len(wanted) - begin - len(some)} requests not made: {in_a_row} in a row had failed"
                )
                break
    return {
        name: [known[name, i] for i in range(SAMPLES) if (name, i) in known] for name in questions
    }, troubles


def _row(who: Judge, question: str, name: str, sample: int, reply: Reply) -> dict[str, Any]:
    """A line of the file of raw replies."""
    return {
        "item": name,
        "sample": sample,
        "model": who.model,
        "asked": _mark(question),
        **reply._asdict(),
    }


def _asked(who: Judge, scorer: str, question: str) -> Reply:
    """One reply, in a few tries."""
    trouble = ""
    for attempt in range(TRIES):
        try:
            raw = who.ask(question)
        except (OSError, ValueError, http.client.HTTPException) as error:
            trouble = f"no reply from {who.url} ({error})"
            time.sleep(BACK_OFF_S * 2**attempt if attempt + 1 < TRIES else 0)
            continue
        return Reply(
            raw,
            "" if READERS[scorer](raw) is not None else f"nonsense from the judge: {raw[:80]!r}",
        )
    return Reply(None, trouble)


def _kept(
    file: Path, scorer: str, who: Judge, questions: Mapping[str, str]
) -> dict[tuple[str, int], str]:
    """The file's readable replies of this judge to these very questions."""
    known: dict[tuple[str, int], str] = {}
    for line in lines(file) if file.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # empty, or cut off: it is asked again
        asked = row["model"] == who.model and row["asked"] == _mark(questions.get(row["item"], ""))
        if asked and row["raw"] is not None and READERS[scorer](row["raw"]) is not None:
            known[row["item"], row["sample"]] = row["raw"]
    return known


def _mark(question: str) -> str:
    """By which a question is known again."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]
