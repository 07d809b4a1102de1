"""Stages state and streaming: turn states and answers, from the states of a live session.

Training runs the branches of a session (see `branch_targets`) in batches (see `fork_schedule`).
Validation runs live sessions.
Glossary: B dialogues, S speech embeddings of a dialogue, E their width, R segments of a batch, N
labelled positions, P forks, D width of the language model.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.dialogue.data import DialogueBatch
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.text_dialogues import TextDialogues, timed_words
from datamodules.dialogue.turns import Slices
from duplexmamba.duplex.events import Event, emitted_responses
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.duplex.session import Session, run_sessions
from duplexmamba.models.connectors.base import VariableRateSpeech
from duplexmamba.models.language_models import LMState
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded, Positions, take
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.metrics import accuracy, exact_match, macro_f1
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, SILENCE
from lightning_modules.branch_targets import BranchTargets, Segment
from lightning_modules.fork_schedule import (
    Fork,
    ForkStates,
    ScheduledSegment,
    flatten,
    fork_schedule,
    share_prefixes,
)
from lightning_modules.padding import pad_ids
from lightning_modules.results import AnswerResult, Result, TurnStateResult, text_pairs
from lightning_modules.speech import NUM_TEXT_POSITIONS, InstructStage
from lightning_modules.trainer.fsdp import max_over_ranks

MAX_WORD_DELAY_S = 0.2
"""Longest time after the end of a word until its embedding, in dialogues of words."""


class DialogueStage(InstructStage):
    """Trains on the branches of dialogues, and on single utterances as stage instruct does.

    It is scored in live sessions.
    """

    session: type[Session] = ForkSession
    """The kind of live session that it trains for."""
    text_dialogues: TextDialogues | None = None
    """Set where `stage.texts_per_dialogue` is."""

    def training_loss(self, batch: DialogueBatch) -> Tensor:  # type: ignore[override]
        """Loss of the dialogues plus those of texts and of the single utterances."""
        loss = self.dialogue_loss(batch)
        self.log_loss_part("dialogues", loss)
        if self.config.stage.texts_per_dialogue and self.training:
            num_texts = len(batch) * self.config.stage.texts_per_dialogue
            text_loss = self.text_dialogue_loss(num_texts)
            self.log_loss_part("text_dialogues", text_loss)
            loss = loss + text_loss
        # with FSDP, all ranks leave out the second part if one has no utterances
        if max_over_ranks(not len(batch.utterances), self):
            return loss
        return loss + super().training_loss(batch.utterances)

    def dialogue_loss(self, batch: DialogueBatch) -> Tensor:
        """Cross entropy of the turn states and responses in all branches."""
        speech, _ = self.model.connector(self.frames(batch))
        return self.conversation_loss(batch.dialogues, speech)

    def text_dialogue_loss(self, num_dialogues: int) -> Tensor:
        """Loss of so many dialogues of words, with their embeddings in place of speech."""
        assert self.text_dialogues is not None
        positions = torch.randint(NUM_TEXT_POSITIONS, (num_dialogues,)).tolist()
        dialogues = [self.text_dialogues[position] for position in positions]
        rows = [self.ids_in_time(dialogue) for dialogue in dialogues]
        ids = pad_ids(rows, self.device)
        return self.conversation_loss(dialogues, ids.with_values(self.model.lm.embed(ids.values)))

    def ids_in_time(self, dialogue: Dialogue) -> list[int]:
        """Ids (S,) in place of the speech embeddings of a dialogue: of words, else of silence.

        An id takes the place of the embedding in which its word ends, or of a later one, up to the
        slice in which its turn is over. Words for which there is no place are left out.
        """
        per_slice = self._windows_per_slice()
        [silence] = self.tokenizer.encode(SILENCE)
        ids = [silence] * (per_slice * len(dialogue.labels))
        embedding_s = FrameTiming.of(self.config.model).token_ms / 1000
        slices = Slices.of(self.config)
        free = 0
        for word in timed_words(dialogue):
            end_s = dialogue.turns[word.turn].end_s
            endpoint = slices.endpoint_slice(round(end_s * slices.rate_hz))
            stop = min(per_slice * (endpoint + 1), len(ids))
            # a word is recognised some time after its end
            delay_s = float(torch.rand(())) * MAX_WORD_DELAY_S + slices.lag / slices.rate_hz
            word_ids = self.tokenizer.encode_words(word.text)
            in_time = min(int((word.end_s + delay_s) / embedding_s), stop - len(word_ids))
            first = max(free, in_time)
            kept = word_ids[: max(0, stop - first)]
            ids[first : first + len(kept)] = kept
            free = first + len(kept)
        return ids

    def conversation_loss(self, dialogues: Sequence[Dialogue], speech: Padded) -> Tensor:
        """Cross entropy of the turn states and responses in all branches.

        Args:
            dialogues: B dialogues, without their audio.
            speech: (B, S, E) their embeddings.
        """
        rng = random.Random(int(torch.randint(2**62, ())))
        targets = BranchTargets(self.tokenizer, self.config.duplex, self.config.stage.probes)
        branches = [targets.segments(dialogue, rng) for dialogue in dialogues]
        segments = share_prefixes(flatten(branches))
        hidden, labels = self.run_segments(segments, speech)
        if not len(labels):
            # excerpts of recordings may have no slice that is probed
            return 0 * hidden.sum()
        logits = self.model.lm.logits(hidden)
        smoothing = self.config.optim.label_smoothing
        return token_loss(logits, labels, smoothing, self.class_weights(logits.shape[-1]))

    def class_weights(self, vocab_size: int) -> Tensor | None:
        """Weights (V,) of the ids in the loss, with that of the turn state `response`; None: all 1."""
        response_weight = self.config.stage.response_weight
        if response_weight == 1:
            return None
        weights = torch.ones(vocab_size, device=self.device)
        weights[self.tokenizer.turn_state_ids["response"]] = response_weight
        return weights

    def run_segments(
        self, segments: list[ScheduledSegment], speech: Padded
    ) -> tuple[Tensor, Tensor]:
        """Run all segments, each from the state where it was forked.

        Args:
            segments: those of all dialogues.
            speech: (B, S, E) embeddings of whole dialogues.

        Returns:
            Hidden states (N, D) at the labelled positions, and the labels (N,) int64. Both are in
            the order of `fork_schedule`.
        """
        # each fork once, although several segments may start from it
        all_forks = [*dict.fromkeys(segment.fork for segment in segments if segment.fork)]
        fork_states = ForkStates(self.device)
        hidden_parts: list[Tensor] = []
        label_parts: list[Tensor] = []
        schedule = fork_schedule(segments, len(self._prompt()), self.device.type)
        # before the loop, since all ranks have to reach it in the same order
        num_idle = max_over_ranks(len(schedule), self) - len(schedule)
        for indices in schedule:
            lm_state = fork_states.gather([segments[index].fork for index in indices])
            forks = [fork for fork in all_forks if fork.parent in indices]
            local_forks = [fork._replace(parent=indices.index(fork.parent)) for fork in forks]
            hidden, labels, states_at_forks = self._run_batch(
                [segments[index] for index in indices], speech, lm_state, local_forks
            )
            hidden_parts.append(hidden)
            label_parts.append(labels)
            fork_states.store(forks, states_at_forks)
        for _ in range(num_idle):
            hidden, labels, _ = self._run_batch([self._unlabelled_segment()], speech, None, [])
            hidden_parts.append(hidden)
            label_parts.append(labels)
        return torch.cat(hidden_parts), torch.cat(label_parts)

    def _unlabelled_segment(self) -> ScheduledSegment:
        """A segment without labels, which an FSDP rank runs while others have more batches."""
        segment = Segment(None, range(1), [self.tokenizer.eos_id], [IGNORED])
        return ScheduledSegment(segment, 0, None)

    def _prompt(self) -> list[int]:
        return self.tokenizer.prompt_before_speech(ANSWER_INSTRUCTIONS[0])

    def _prompt_of(self, segment: ScheduledSegment) -> list[int]:
        """Return the ids before the slices that a segment reads, which may be none."""
        if not segment.own_slices:
            return []
        if segment.fork is None:
            return self._prompt()
        return self.tokenizer.prompt_before_next_speech(ANSWER_INSTRUCTIONS[0])

    def _run_batch(
        self,
        segments: list[ScheduledSegment],
        speech: Padded,
        lm_state: LMState | None,
        forks: list[Fork],
    ) -> tuple[Tensor, Tensor, LMState]:
        """Run R segments as rows of one batch.

        Args:
            segments: the rows.
            speech: (B, S, E) embeddings of whole dialogues.
            lm_state: R rows; None: all segments start a conversation.
            forks: P positions whose `parent` is a row.

        Returns:
            Hidden states (N, D) and labels (N,) at the labelled positions, and the states at the
            forks, P rows, or at the ends of the rows if there are no forks.
        """
        prompt_ids = pad_ids([self._prompt_of(segment) for segment in segments], self.device)
        segment_speech, first_embedding = self._speech_of(segments, speech)
        ids = pad_ids([segment.segment.ids for segment in segments], self.device)
        return_states_at = None
        if forks:
            num_embeddings = self._embeddings_before(forks, segments, speech, first_embedding)
            # (R,) steps of each row
            row_lengths = (
                prompt_ids.row_lengths() + segment_speech.row_lengths() + ids.row_lengths()
            )
            rows = torch.tensor([fork.parent for fork in forks], device=self.device)
            is_at_end = torch.tensor(
                [fork.num_slices is None for fork in forks], device=self.device
            )
            num_before = prompt_ids.row_lengths()[rows] + num_embeddings
            steps = torch.where(is_at_end, row_lengths[rows], num_before)
            return_states_at = Positions(rows, steps)
        # hidden: (R, L, D), of the ids alone
        hidden, states_at_forks = self.model(
            prompt_ids, segment_speech, ids, lm_state, return_states_at
        )
        label_rows = [segment.segment.labels for segment in segments]
        labels = pad_ids(label_rows, self.device, IGNORED).values
        # found once for both: a GPU has to wait for their number
        labelled = (labels != IGNORED).nonzero(as_tuple=True)
        return hidden.values[labelled], labels[labelled], states_at_forks

    def _speech_of(self, segments: list[ScheduledSegment], speech: Padded) -> tuple[Padded, Tensor]:
        """Cut the speech of R segments out of whole dialogues.

        Returns:
            Embeddings (R, T, E), and the index (R,) in its dialogue of the first of each segment.
        """
        begins = window_begins(speech)
        dialogues = self._dialogues_of(segments)
        bounds = [[segment.own_slices.start, segment.own_slices.stop] for segment in segments]
        # (R, 2): first window, and the one after the last
        windows = torch.tensor(bounds, device=self.device) * self._windows_per_slice()
        first, stop = begins[dialogues[:, None], windows].unbind(1)
        lengths = stop - first
        return Padded(take(speech.values[dialogues], first, int(lengths.max())), lengths), first

    def _embeddings_before(
        self,
        forks: list[Fork],
        segments: list[ScheduledSegment],
        speech: Padded,
        first_embedding: Tensor,
    ) -> Tensor:
        """Speech embeddings (P,) between the start of a fork's row and the fork.

        Args:
            first_embedding: (R,) index in its dialogue of the first embedding of each row.
        """
        rows = torch.tensor([fork.parent for fork in forks], device=self.device)
        slices = [segments[fork.parent].own_slices.start + (fork.num_slices or 0) for fork in forks]
        windows = torch.tensor(slices, device=self.device) * self._windows_per_slice()
        dialogues = self._dialogues_of(segments)
        return window_begins(speech)[dialogues[rows], windows] - first_embedding[rows]

    def _dialogues_of(self, segments: list[ScheduledSegment]) -> Tensor:
        """(R,) int64 index of the dialogue of each segment."""
        return torch.tensor([segment.dialogue for segment in segments], device=self.device)

    def _windows_per_slice(self) -> int:
        """Windows of the connector in one slice."""
        token_ms = FrameTiming.of(self.config.model).token_ms
        return round(self.config.duplex.slice_ms / token_ms)

    def validate(self, batch: DialogueBatch) -> list[Result]:  # type: ignore[override]
        """Turn states of all slices, and all answers, in live sessions."""
        lengths = batch.samples.row_lengths().tolist()
        signals = [row[:length] for row, length in zip(batch.samples.values, lengths, strict=True)]
        sessions = [self.session(self.model, self.tokenizer, self.config.duplex) for _ in signals]
        slice_s = sessions[0].slice_s
        session_events = run_sessions(sessions, signals)
        results: list[Result] = []
        for events, dialogue in zip(session_events, batch.dialogues, strict=True):
            results += session_results(events, dialogue, slice_s)
        return results

    def scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Scores of the turn states, and the share of exact answers if there are any."""
        turn_states = [result for result in results if isinstance(result, TurnStateResult)]
        answers = [result for result in results if not isinstance(result, TurnStateResult)]
        scores = self.turn_state_scores(turn_states)
        if answers:
            scores["exact_match"] = exact_match(text_pairs(answers))
        return scores

    def turn_state_scores(self, results: Sequence[TurnStateResult]) -> dict[str, float]:
        """Accuracy and macro F1 over all slices."""
        pairs = text_pairs(results)
        return {"state_accuracy": accuracy(pairs), "state_macro_f1": macro_f1(pairs)}


def session_results(
    events: Sequence[Event], dialogue: Dialogue, slice_s: float
) -> list[TurnStateResult | AnswerResult]:
    """Compare a session with its dialogue.

    Args:
        events: those of the session, one for each slice.
        dialogue: what the session has processed.
        slice_s: length of a slice in seconds.

    Returns:
        The turn state of each labelled slice; then each answer that is known and that no other
        question interrupts, with the last response that starts in its time.
    """
    results: list[TurnStateResult | AnswerResult] = []
    for label, event in zip(dialogue.labels, events, strict=True):
        if label is None:
            continue
        results.append(TurnStateResult(label, event.state))
    responses = emitted_responses(events)
    windows = dialogue.response_windows(slice_s)
    for answer, window in zip(dialogue.answers, windows, strict=True):
        if answer.end is not None or not answer.is_known:
            # an interrupted answer has no text to compare with
            continue
        texts = [response.text for response in responses if response.start_slice in window]
        reference = dialogue.turns[answer.turn].answer
        results.append(AnswerResult(reference, texts[-1] if texts else ""))
    return results


def window_begins(speech: Padded) -> Tensor:
    """Index of the first embedding of each window of the connector, and the number of embeddings.

    Args:
        speech: (B, S, E). A connector of kind stack makes one embedding of each of the U windows;
            one that compresses makes any number.

    Returns:
        (B, U + 1) int64; the embeddings of window u are begins[u] to begins[u + 1].
    """
    if isinstance(speech, VariableRateSpeech):
        return torch.nn.functional.pad(speech.counts.cumsum(1), (1, 0))
    batch, num_steps = speech.values.shape[:2]
    return torch.arange(num_steps + 1, device=speech.values.device).expand(batch, -1)
