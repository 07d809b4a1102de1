"""Training targets of a dialogue: the branches of a live session, with labels.

A live session forks a listening branch from the conversation and asks it after every slice whether
it is the model's turn to respond (see `duplexmamba.duplex.policy`). The targets are the branches of
a session whose model is right about every slice, together with some of a model that makes mistakes.

Each branch is cut into segments. A segment says where it was forked, which slices of speech it
reads, which ids it reads after them, and what has to be predicted after each id:

- A *probe* reads some slices and the end-of-speech marker, and predicts the turn state of its last
  slice. No other segment starts from a probe, as in a session, where the question for the turn
  state leaves no trace in the state.
- A *response segment* reads the question, the response marker and the response. If something
  happens during the response, it is split in two: a listening branch is forked after the first.

Example: the slices are labelled `? ? ! . . . .` (`?` incomplete, `!` response, `.` ignore), ignored
branches are dropped after two slices, and the response has five ids `a b c d e`, of which two have
been emitted when the listening branch of slices 5 and 6 is forked::

    index  parent  slices  ids                                  labels
    0      None    0-0     </speech>                            incomplete         (probe)
    1      None    0-1     </speech>                            incomplete         (probe)
    2      None    0-3     </speech>                            response           (late probe)
    3      None    0-4     </speech>                            response           (late probe)
    4      None    0-2     </speech> <response> <assistant> a b response - a b c   (response)
    5      4       -       c d e <end>                          d e <end> -        (its rest)
    6      4       5-6     </speech>                            ignore             (probe)

Segments 5 and 6 continue from the state after `b`, which is where a live session would fork.
"""

import dataclasses
import random
from collections.abc import Iterable, Sequence

from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import RULES, Turn
from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.policy import Branch, branches, tokens_due
from duplexmamba.text.losses import IGNORED
from duplexmamba.text.tokenizer import Tokenizer, TurnState


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of one branch of a dialogue: slices of speech, then ids with their labels."""

    parent: int | None
    """Index of the segment of the same dialogue after whose last id this one was forked.

    None: the segment starts the conversation.
    """
    slices: range
    """Slices that are read after the prompt.

    Empty for the rest of a response, which has no prompt either.
    """
    ids: list[int]
    """Ids that are read after the slices."""
    labels: list[int]
    """The target after each of `ids`, or IGNORED."""


@dataclasses.dataclass(frozen=True)
class _ResponseProgress:
    """The latest response of the conversation and its segments."""

    start_slice: int = 0
    """Slice of the decision to respond."""
    num_paused_before: int = 0
    """Slices before it in which a response paused."""
    num_tokens: int = 0
    """Tokens of the response, without the end-of-text token."""
    num_split_tokens: int = 0
    """Tokens in the first of its segments, after which listening branches can be forked."""
    split_segment: int | None = None
    """Index of the segment that ends after `num_split_tokens` tokens."""
    last_segment: int | None = None
    """Index of the segment that ends the response."""


_Candidate = tuple[int | None, Branch]
"""A branch that may be probed, and the segment from which it was forked."""


class BranchTargets:
    """Makes the segments of dialogues.

    Args:
        tokenizer: makes the ids.
        duplex: the policy of the live sessions.
        num_probes: for each branch in which somebody speaks to the model or seems to, slices that
            are probed besides those where a sound ends or pauses. For each dialogue, also the
            number of ignored branches with a sound, and of silent ones, that are probed.
    """

    def __init__(self, tokenizer: Tokenizer, duplex: DuplexConfig, num_probes: int):
        self.tokenizer = tokenizer
        self.duplex = duplex
        self.num_probes = num_probes
        self._slice_s = duplex.slice_ms / 1000
        self._end_of_speech = tokenizer.encode_end_of_speech()

    def segments(self, dialogue: Dialogue, rng: random.Random) -> list[Segment]:
        """Segments of one dialogue; every parent comes before its children."""
        segments: list[Segment] = []
        answers = {answer.begin: answer for answer in dialogue.answers}
        states = session_states(dialogue, self._slice_s)
        response = _ResponseProgress()
        with_sound: list[_Candidate] = []
        silent: list[_Candidate] = []
        session_branches = branches(states, self.duplex)
        for number, branch in enumerate(session_branches):
            num_emitted = self._num_emitted(response, branch)
            in_progress = num_emitted < response.num_tokens
            if in_progress and num_emitted != response.num_split_tokens:
                # the response is split once at most, and no segment ends at this token
                continue
            parent = response.split_segment if in_progress else response.last_segment
            if not _is_addressed(branch, states):
                # such branches are many and alike: a few of them are drawn at the end
                if self._has_sound(branch, dialogue):
                    with_sound.append((parent, self._extend_branch(branch, dialogue)))
                else:
                    silent.append((parent, branch))
                continue
            segments += self._probes(parent, branch, self.num_probes, dialogue, rng)
            # a branch without a response leaves no trace in the conversation
            if not branch.answered:
                continue
            segments += self._late_probes(parent, branch, dialogue)
            answer = answers[branch.last]
            ids = self.tokenizer.encode_response(dialogue.turns[answer.turn].answer)
            response = _ResponseProgress(
                start_slice=branch.last,
                num_paused_before=branch.num_paused_before + branch.num_paused,
                num_tokens=len(ids) - 1,
            )
            later = session_branches[number + 1 :]
            num_split_tokens = self._num_split_tokens(response, later, dialogue, rng)
            response = dataclasses.replace(response, num_split_tokens=num_split_tokens)
            # what a person happened to answer is read, but not learnt
            targets = ids if answer.is_known else [IGNORED] * len(ids)
            response = self._add_response(segments, parent, branch, ids, targets, response)
        for candidates in (with_sound, silent):
            num_drawn = min(self.num_probes, len(candidates))
            for parent, branch in rng.sample(candidates, num_drawn):
                segments += self._probes(parent, branch, 1, dialogue, rng)
        return segments

    def _num_emitted(self, response: _ResponseProgress, branch: Branch) -> int:
        """Tokens of a response that have been emitted when a branch is forked."""
        num_paused = branch.num_paused_before - response.num_paused_before
        num_slices = branch.first - response.start_slice - num_paused
        return min(response.num_tokens, tokens_due(num_slices, self.duplex))

    def _has_sound(self, branch: Branch, dialogue: Dialogue) -> bool:
        """Whether any sound overlaps the slices of a branch."""
        start_s = branch.first * self._slice_s
        end_s = (branch.last + 1) * self._slice_s
        return any(
            turn.start_s < end_s and start_s < turn.end_s for turn in _sounding(dialogue.turns)
        )

    def _extend_branch(self, branch: Branch, dialogue: Dialogue) -> Branch:
        """Extend a branch with a sound to the end of that sound and beyond.

        A model that wrongly takes the sound for a question keeps this branch. Without such targets
        a first mistake would lead to states that never occurred in training.
        """
        branch_end_s = (branch.last + 1) * self._slice_s
        started = [turn for turn in _sounding(dialogue.turns) if turn.start_s < branch_end_s]
        # one slice after the one in which the sound ends
        stop = min(len(dialogue.labels), int(started[-1].end_s / self._slice_s) + 2)
        last = branch.last
        while last + 1 < stop and dialogue.labels[last + 1] == "ignore":
            last += 1
        return Branch(branch.first, last, False)

    def _late_probes(self, parent: int | None, branch: Branch, dialogue: Dialogue) -> list[Segment]:
        """Probes in the silence after a question, where `response` is still right.

        A live model that has missed the end of the question keeps listening for
        `duplex.ignored_slices` slices and can respond in any of them.
        """
        first = branch.last + 1
        stop = min(first + self.duplex.ignored_slices, len(dialogue.labels))
        for turn in _sounding(dialogue.turns):
            start_slice = int(turn.start_s / self._slice_s)
            if start_slice >= first:
                stop = min(stop, start_slice)
        if None in dialogue.labels[first:stop]:
            # somebody may speak there of whom nothing is known
            stop = dialogue.labels.index(None, first)
        return [self._probe(parent, branch, index, "response") for index in range(first, stop)]

    def _probes(
        self,
        parent: int | None,
        branch: Branch,
        num_others: int,
        dialogue: Dialogue,
        rng: random.Random,
    ) -> list[Segment]:
        """Probes at the slices of a branch that are hard to decide, and at some others.

        The slice with which a response starts is left out: the response segment predicts its turn
        state.
        """
        stop = branch.last if branch.answered else branch.last + 1
        labels = dialogue.labels
        open_slices = [i for i in range(branch.first, stop) if labels[i] is not None]
        decisive = self._decisive_slices(dialogue) & {*open_slices}
        others = [index for index in open_slices if index not in decisive]
        drawn = rng.sample(others, min(len(others), num_others))
        return [
            self._probe(parent, branch, index, labels[index])
            for index in sorted(decisive | {*drawn})
        ]

    def _decisive_slices(self, dialogue: Dialogue) -> set[int]:
        """Slices in which a sound ends or pauses, and their neighbours.

        Where a response pauses at the onset of speech, also the slice in which a sound begins and
        the one after it.
        """
        slices = set()
        for turn in _sounding(dialogue.turns):
            times_s = [turn.end_s, *[start_s for start_s, _ in turn.pauses_s]]
            for time_s in times_s:
                index = int(time_s / self._slice_s)
                slices |= {index - 1, index, index + 1}
            if self.duplex.on_onset == "pause":
                index = int(turn.start_s / self._slice_s)
                slices |= {index, index + 1}
        return slices

    def _probe(
        self, parent: int | None, branch: Branch, slice_index: int, turn_state: TurnState | None
    ) -> Segment:
        """The segment that predicts the turn state after a slice."""
        assert turn_state is not None, "only labelled slices are probed"
        # the turn state follows the last id of the end-of-speech marker
        labels = [IGNORED] * len(self._end_of_speech)
        labels[-1] = self.tokenizer.turn_state_ids[turn_state]
        return Segment(parent, range(branch.first, slice_index + 1), self._end_of_speech, labels)

    def _add_response(
        self,
        segments: list[Segment],
        parent: int | None,
        branch: Branch,
        ids: list[int],
        targets: list[int],
        response: _ResponseProgress,
    ) -> _ResponseProgress:
        """Append a question with its response (L + 1,) ids, the last of which is end-of-text.

        Args:
            segments: gets one or two more.
            parent: index of the segment from which the branch was forked.
            branch: the slices of the question.
            ids: the response.
            targets: (L + 1,) the same ids, or IGNORED where they are not learnt.
            response: with the number of tokens after which it is split.
        """
        # a response during which nothing is forked stays in one segment
        is_split = response.num_split_tokens < response.num_tokens
        first_ids = ids[: response.num_split_tokens] if is_split else ids
        header = self.tokenizer.prompt_after_speech("response")
        labels = self._header_labels(header)
        # labels are the ids shifted by one; nothing follows end-of-text
        targets = [*targets, IGNORED]
        labels += targets[: len(first_ids) + 1]
        slices = range(branch.first, branch.last + 1)
        segments.append(Segment(parent, slices, header + first_ids, labels))
        split_segment = len(segments) - 1
        if is_split:
            rest_ids = ids[response.num_split_tokens :]
            rest_labels = targets[response.num_split_tokens + 1 :]
            segments.append(Segment(split_segment, range(0), rest_ids, rest_labels))
        return dataclasses.replace(
            response, split_segment=split_segment, last_segment=len(segments) - 1
        )

    def _header_labels(self, header: list[int]) -> list[int]:
        """Labels of all ids between speech and response but the last, whose label is a response id.

        The response marker is predicted from the end of speech, as in a probe.
        """
        labels = [IGNORED] * (len(header) - 1)
        labels[len(self._end_of_speech) - 1] = self.tokenizer.turn_state_ids["response"]
        return labels

    def _num_split_tokens(
        self,
        response: _ResponseProgress,
        later: list[Branch],
        dialogue: Dialogue,
        rng: random.Random,
    ) -> int:
        """Number of tokens emitted when the most informative listening branch is forked.

        That is the branch that interrupts the response; otherwise one in which there is a sound;
        otherwise any. All tokens if no branch is forked during the response.

        Args:
            later: branches after the question, in order.
        """
        during: list[Branch] = []
        for branch in later:
            num_emitted = self._num_emitted(response, branch)
            if num_emitted == response.num_tokens:
                break
            # the state after the interruption is only right if it is forked here
            if branch.answered:
                return num_emitted
            during.append(branch)
        candidates = [branch for branch in during if self._has_sound(branch, dialogue)] or during
        if not candidates:
            return response.num_tokens
        return self._num_emitted(response, rng.choice(candidates))


def session_states(dialogue: Dialogue, slice_s: float) -> list[TurnState]:
    """Turn states of a session that is right about every labelled slice of a dialogue.

    Where nothing is known, it goes on listening while the user speaks, so that no branch begins in
    the middle of a turn, and ignores all else.

    Args:
        dialogue: its labels may be None.
        slice_s: length of a slice in seconds.
    """
    states: list[TurnState] = []
    for index, label in enumerate(dialogue.labels):
        if label is not None:
            states.append(label)
            continue
        begin_s, end_s = index * slice_s, (index + 1) * slice_s
        is_spoken = any(
            RULES[turn.kind].foreground and turn.start_s < end_s and begin_s < turn.end_s
            for turn in dialogue.turns
        )
        states.append("incomplete" if is_spoken else "ignore")
    return states


def _sounding(turns: Iterable[Turn]) -> list[Turn]:
    """The turns that can be heard."""
    return [turn for turn in turns if turn.kind != "silence"]


def _is_addressed(branch: Branch, states: Sequence[TurnState]) -> bool:
    """Whether somebody speaks to the model, or seems to, in a branch."""
    return any(state != "ignore" for state in states[branch.first : branch.last + 1])
