"""Stages state and streaming of the baseline without a fork.

A whole dialogue is one sequence in which slices of speech and what the model writes take turns, as
in `duplexmamba.duplex.multiplex`. The loss is on what the model writes. After every slice it
writes, behind the end-of-speech marker, one of: the idle token; the response marker and the first
tokens of a response; the next tokens of a response.

Example: slices of which each allows one token, a question that ends in slice 1, and the response
`a b`::

    slice  written                                labels
    0      </speech> <idle>                       <idle> -
    1      </speech> <response> <assistant> a     <response> - a b
    2      </speech> b <end>                      b <end> -
    3      </speech> <idle>                       <idle> -
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import Answer
from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.multiplex import IDLE, MultiplexSession
from duplexmamba.duplex.policy import tokens_due
from duplexmamba.streaming.padded import Padded
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import f1
from duplexmamba.text.tokenizer import TURN_STATE_MARKERS, Tokenizer
from lightning_modules.dialogue import DialogueStage, window_begins
from lightning_modules.padding import pad_ids
from lightning_modules.results import TurnStateResult, text_pairs

SPEECH = -1
"""Stands for a speech embedding among ids."""


@dataclasses.dataclass(frozen=True)
class Written:
    """The ids that follow a slice of speech."""

    ids: list[int]
    """The end-of-speech marker, and what the model writes."""
    labels: list[int]
    """The target after each of `ids`, or IGNORED."""
    due: bool
    """Whether a token of a response can follow the end-of-speech marker."""

    @property
    def free(self) -> list[bool]:
        """Whether each label is chosen from the whole vocabulary rather than from two markers."""
        num_labels = sum(label != IGNORED for label in self.labels)
        if not num_labels:
            return []
        return [self.due] + [True] * (num_labels - 1)


@dataclasses.dataclass(frozen=True)
class _ResponseInProgress:
    """The latest response of a dialogue."""

    ids: list[int]
    """All of it, with end-of-text as the last id."""
    targets: list[int]
    """The same ids, or IGNORED where they are not learnt."""
    start_slice: int
    num_emitted: int

    def num_due(self, slice_index: int, duplex: DuplexConfig) -> int:
        """Ids that have been emitted after a slice, if every token came when it was due.

        The end-of-text token is emitted together with the token before it.
        """
        num_due = tokens_due(slice_index - self.start_slice + 1, duplex)
        num_tokens = len(self.ids) - 1
        return num_due if num_due < num_tokens else len(self.ids)


def script(dialogue: Dialogue, tokenizer: Tokenizer, duplex: DuplexConfig) -> list[Written]:
    """Tokens that a model writes after each slice if it is right about all of them.

    A response goes on until it is complete or the next one starts.
    """
    answers = {answer.begin: answer for answer in dialogue.answers}
    # before the first response nothing is due, as after a complete one
    eos = [tokenizer.eos_id]
    response = _ResponseInProgress(eos, eos, start_slice=0, num_emitted=1)
    written: list[Written] = []
    for slice_index, label in enumerate(dialogue.labels):
        is_due = response.num_due(slice_index, duplex) > response.num_emitted
        starts = slice_index in answers
        if starts:
            response = _new_response(dialogue, answers[slice_index], tokenizer)
        stop = response.num_due(slice_index, duplex)
        ids = response.ids[response.num_emitted : stop]
        # one more label than ids: the last id predicts the id that the next slice begins with
        labels = [*response.targets, IGNORED][response.num_emitted : stop + 1]
        if starts:
            written.append(_write_start(tokenizer, ids, labels, is_due))
        elif is_due:
            written.append(_write_next(tokenizer, ids, labels))
        else:
            written.append(_write_idle(tokenizer, is_known=label is not None))
        response = dataclasses.replace(response, num_emitted=stop)
    return written


def _new_response(dialogue: Dialogue, answer: Answer, tokenizer: Tokenizer) -> _ResponseInProgress:
    """The response of an answer, of which nothing has been emitted."""
    ids = tokenizer.encode_response(dialogue.turns[answer.turn].answer)
    targets = ids if answer.is_known else [IGNORED] * len(ids)
    return _ResponseInProgress(ids, targets, answer.begin, num_emitted=0)


def _write_start(tokenizer: Tokenizer, ids: list[int], labels: list[int], is_due: bool) -> Written:
    """The response marker and the first tokens of a response.

    Args:
        tokenizer: has the markers.
        ids: the first tokens.
        labels: targets from the last id before the response on.
        is_due: whether a token of the previous response, which this one interrupts, was due.
    """
    header = tokenizer.prompt_after_speech("response")
    num_marker_ids = len(tokenizer.encode_end_of_speech())
    header_labels = [IGNORED] * (len(header) - 1)
    header_labels[num_marker_ids - 1] = tokenizer.turn_state_ids["response"]
    return Written([*header, *ids], [*header_labels, *labels], is_due)


def _write_next(tokenizer: Tokenizer, ids: list[int], labels: list[int]) -> Written:
    """The next tokens of a response, without a marker."""
    end_of_speech = tokenizer.encode_end_of_speech()
    ignored = [IGNORED] * (len(end_of_speech) - 1)
    return Written(
        ids=[*end_of_speech, *ids],
        labels=[*ignored, *labels],
        due=True,
    )


def _write_idle(tokenizer: Tokenizer, is_known: bool) -> Written:
    """The idle token; it has a label if it is known that nothing should be written."""
    end_of_speech = tokenizer.encode_end_of_speech()
    ignored = [IGNORED] * (len(end_of_speech) - 1)
    idle = tokenizer.turn_state_ids[IDLE]
    # the next slice of speech follows the idle token, so that it has no label
    return Written(
        ids=[*end_of_speech, idle],
        labels=[*ignored, idle if is_known else IGNORED, IGNORED],
        due=False,
    )


class MultiplexStage(DialogueStage):
    """Trains on whole dialogues as `script` writes them, and on single utterances.

    It is scored in live sessions.
    """

    session = MultiplexSession

    def conversation_loss(self, dialogues: Sequence[Dialogue], speech: Padded) -> Tensor:
        """Cross entropy of the decisions plus that of the tokens of responses.

        Each is a mean of its own. In a common mean, the tokens would hardly count beside the many
        slices in which there is nothing to respond to.
        """
        rows = [script(dialogue, self.tokenizer, self.config.duplex) for dialogue in dialogues]
        hidden, labels, is_free = self.read_whole(rows, speech)
        turn_states = self.tokenizer.turn_state_ids
        # in this order, idle is class 1
        markers = torch.tensor([turn_states["response"], turn_states[IDLE]], device=self.device)
        smoothing = self.config.optim.label_smoothing
        # (N, 2)
        marker_logits = hidden[~is_free] @ self.model.lm.embed(markers).T
        is_idle = labels[~is_free] == turn_states[IDLE]
        if len(is_idle):
            all_weights = self.class_weights(self.config.lm.vocab_size)
            weights = None if all_weights is None else all_weights[markers]
            loss = token_loss(marker_logits, is_idle.long(), smoothing, weights)
        else:
            # excerpts of recordings may have no slice with a label
            loss = 0 * marker_logits.sum()
        self.log_loss_part("decisions", loss)
        if not is_free.any():
            return loss
        token_part = token_loss(self.model.lm.logits(hidden[is_free]), labels[is_free], smoothing)
        self.log_loss_part("responses", token_part)
        return loss + token_part

    def read_whole(
        self, rows: list[list[Written]], speech: Padded
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run whole dialogues.

        Args:
            rows: for each dialogue what is written after each slice.
            speech: (B, S, E) embeddings of the dialogues.

        Returns:
            Hidden states (N, D) at the labelled positions; the labels (N,) int64; and whether each
            is chosen from the whole vocabulary, (N,) bool.
        """
        # embeddings of each slice
        slice_begins = window_begins(speech)[:, :: self._windows_per_slice()]
        counts = slice_begins.diff().tolist()
        prompt = self._prompt()
        id_rows: list[list[int]] = []
        label_rows: list[list[int]] = []
        free: list[bool] = []
        for row, row_counts in zip(rows, counts, strict=True):
            ids = [written.ids for written in row]
            labels = [written.labels for written in row]
            id_rows.append([*prompt, *_interleave(SPEECH, row_counts, ids)])
            label_rows.append([IGNORED] * len(prompt) + _interleave(IGNORED, row_counts, labels))
            for written in row:
                free += written.free
        padded_ids = pad_ids(id_rows, self.device)
        padded_labels = pad_ids(label_rows, self.device, IGNORED).values
        embeddings = self._embed(padded_ids.values, speech)
        # (B, L, D)
        hidden, _ = self.model.lm(padded_ids.with_values(embeddings))
        is_labelled = padded_labels != IGNORED
        is_free = torch.tensor(free, device=self.device)
        return hidden.values[is_labelled], padded_labels[is_labelled], is_free

    def _embed(self, ids: Tensor, speech: Padded) -> Tensor:
        """Embeddings (B, L, E) of ids (B, L), with those of speech wherever an id is SPEECH."""
        is_speech = ids == SPEECH
        assert torch.equal(is_speech.sum(1), speech.row_lengths()), "a slice is whole embeddings"
        text = self.model.lm.embed(ids.clamp(min=0))
        # both flattened in the order of rows and steps
        flat_speech = speech.values[speech.mask()].to(text.dtype)
        return text.masked_scatter(is_speech[..., None], flat_speech)

    def turn_state_scores(self, results: Sequence[TurnStateResult]) -> dict[str, float]:
        """F1 of `response` if it occurs; such sessions do not distinguish the other two states."""
        if all(result.expected != "response" for result in results):
            return {}
        return {"response_f1": f1(text_pairs(results), TURN_STATE_MARKERS["response"])}


def _interleave(speech_value: int, counts: list[int], written: list[list[int]]) -> list[int]:
    """Before each of `written`, the value for speech as often as its slice has embeddings.

    Padding makes `counts` longer than `written` for the shorter dialogues.
    """
    sequence: list[int] = []
    for count, values in zip(counts, written, strict=False):
        sequence += [speech_value] * count + values
    return sequence
