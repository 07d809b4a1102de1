"""Spoken questions with a reference answer: the verdict of a judge, and that of PEDANT."""

from collections.abc import Callable, Sequence
from importlib import metadata

from evaluation.voicebench.judge import verdict
from evaluation.voicebench.responses import Response

Accepts = Callable[[Response], bool]
"""Whether a response is correct."""
OFFICIAL_VERSION = "0.2.17"
"""Official version of qa_metrics: 0.2.30 scores the same responses 74.5 instead of 47.7."""


def official_majority(replies: Sequence[str]) -> bool:
    """Whether the most common reply is `yes` in any case; `Yes.` does not count.

    If several replies are equally common, the first one counts.
    """
    lower = [reply.lower() for reply in replies]
    return max(lower, key=lower.count) == "yes"


def stated_majority(replies: Sequence[str]) -> bool:
    """Whether most replies begin with yes."""
    num_yes = sum(bool(verdict(reply)) for reply in replies)
    return 2 * num_yes > len(replies)


def load_pedant() -> tuple[Accepts | None, str]:
    """Load PEDANT, which compares a response with the reference.

    Returns:
        The comparison, with the arguments of the official scorer, and the version of qa_metrics; or
        None and the reason why PEDANT cannot be used.
    """
    try:
        from qa_metrics.pedant import PEDANT

        version = metadata.version("qa_metrics")
        model = PEDANT()
    # not installed, its model not downloaded, or pickled by another version of scikit-learn
    except Exception as error:
        reason = f"qa_metrics {OFFICIAL_VERSION} and its model cannot be had here ({error})"
        return None, reason

    def accepts(response: Response) -> bool:
        reference = str(response.fields["reference"]).lower()
        prompt = str(response.fields["prompt"]).lower()
        return bool(model.evaluate([reference], response.text.lower(), prompt))

    return accepts, version
