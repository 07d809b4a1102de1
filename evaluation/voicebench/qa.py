"""Spoken questions with a reference answer: what a judge says of an answer, and what PEDANT does."""

from collections.abc import Callable, Sequence
from importlib import metadata

from evaluation.voicebench.judge import verdict
from evaluation.voicebench.responses import Response

Accepts = Callable[[Response], bool]
PINNED = "0.2.17"
"""The official version of qa_metrics: 0.2.30 scores the same responses 74.5 instead of 47.7."""


def official_majority(replies: Sequence[str]) -> bool:
    """Whether the commonest reply is `yes`, in any case; `Yes.` is not. Of equally common ones the first counts."""
    said = [reply.lower() for reply in replies]
    return max(said, key=said.count) == "yes"


def stated_majority(replies: Sequence[str]) -> bool:
    """Whether most replies begin with yes."""
    return 2 * sum(bool(verdict(reply)) for reply in replies) > len(replies)


def pedant() -> tuple[Accepts | None, str]:
    """PEDANT as the official scorer asks it, and its version; or None, and why it is not to be had."""
    try:
        from qa_metrics.pedant import PEDANT

        version = metadata.version("qa_metrics")
        model = PEDANT()
    except (
        Exception
    ) as error:  # not installed, its model not fetched, or made by another scikit-learn
        return None, f"qa_metrics {PINNED} and its model cannot be had here ({error})"

    def accepts(response: Response) -> bool:
        reference, prompt = (
            str(response.fields["reference"]).lower(),
            str(response.fields["prompt"]).lower(),
        )
        return bool(model.evaluate([reference], response.text.lower(), prompt))

    return accepts, version
