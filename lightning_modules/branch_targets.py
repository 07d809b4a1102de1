"""A dialogue as the branches of a session whose model is right about every slice, and some of one that errs.

Each branch is a row: where it was forked, what it hears, and what it is then asked or says. A probe is a row of its own
and leaves no trace; an answer is one row up to where something comes up during it, and another from there.
"""

import dataclasses
import random

from datamodules.dialogue.dialogues import Dialogue
from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.policy import Branch, branches, tokens_due
from duplexmamba.text.losses import IGNORED
from duplexmamba.text.tokenizer import Tokenizer, TurnState


@dataclasses.dataclass(frozen=True)
class Row:
    """What one branch reads from its fork on."""

    parent: int | None
    """The row of the same dialogue behind whose last id it was forked; None: the conversation begins with it."""
    slices: range
    """Heard, behind the prompt; empty where an answer goes on, without a prompt."""
    ids: list[int]
    """Read after that."""
    labels: list[int]
    """What comes behind each of `ids`, or IGNORED."""


@dataclasses.dataclass(frozen=True)
class _Answer:
    """Where the conversation stands since its last answer began."""

    begun: int = 0
    """Slice of the decision."""
    length: int = 0
    """Tokens."""
    cut: int = 0
    """Tokens of the first of its two rows."""
    row_at_cut: int | None = None
    row_at_end: int | None = None


class BranchTargets:
    """Makes the rows.

    Args:
        probes: slices judged of each branch in which somebody speaks to the model or seems to, beside those in which
            a sound ends or breaks off; and of each dialogue, branches judged with other sounds, and with none.
    """

    def __init__(self, tokenizer: Tokenizer, duplex: DuplexConfig, probes: int):
        self.tokenizer, self.duplex, self.probes = tokenizer, duplex, probes
        self.asked = tokenizer.end_of_speech()

    def rows(self, dialogue: Dialogue, rng: random.Random) -> list[Row]:
        """Every parent stands before its children."""
        rows: list[Row] = []
        answer, asked_for = (
            _Answer(),
            {a.begin: dialogue.turns[a.turn].answer for a in dialogue.answers},
        )
        sounding: list[tuple[int | None, Branch]] = []
        silent: list[tuple[int | None, Branch]] = []
        found = branches(dialogue.labels, self.duplex)
        for number, branch in enumerate(found):
            said = self._said(answer, branch)
            if answer.cut != said < answer.length:
                continue  # no row ends there
            parent = answer.row_at_cut if said < answer.length else answer.row_at_end
            if not self._addressed(branch, dialogue):
                sounds = self._sounds(branch, dialogue)
                (sounding if sounds else silent).append(
                    (parent, self._kept(branch, dialogue) if sounds else branch)
                )
                continue
            rows += self._probes(parent, branch, self.probes, dialogue, rng)
            if branch.answered:
                rows += [
                    self._probe(parent, branch, i, "response")
                    for i in self._missed(branch, dialogue)
                ]
                spoken = self.tokenizer.response(asked_for[branch.last])
                answer = self._answer(
                    rows, parent, branch, spoken, found[number + 1 :], dialogue, rng
                )
        for group in (sounding, silent):
            for parent, branch in rng.sample(group, min(self.probes, len(group))):
                rows += self._probes(parent, branch, 1, dialogue, rng)
        return rows

    def _said(self, answer: _Answer, branch: Branch) -> int:
        """Tokens of an answer that are out when a branch is forked."""
        return min(answer.length, tokens_due(branch.first - answer.begun, self.duplex))

    def _addressed(self, branch: Branch, dialogue: Dialogue) -> bool:
        return any(label != "ignore" for label in dialogue.labels[branch.first : branch.last + 1])

    def _sounds(self, branch: Branch, dialogue: Dialogue) -> bool:
        length_s = self.duplex.slice_ms / 1000
        begin_s, end_s = branch.first * length_s, (branch.last + 1) * length_s
        return any(
            t.kind != "silence" and t.start_s < end_s and begin_s < t.end_s for t in dialogue.turns
        )

    def _kept(self, branch: Branch, dialogue: Dialogue) -> Branch:
        """A branch that hears a sound to be ignored as a model would that does not ignore it: to its end and beyond.
        Otherwise a first mistake would lead to states in which nothing was ever learnt."""
        length_s, last = self.duplex.slice_ms / 1000, branch.last
        heard = [
            t
            for t in dialogue.turns
            if t.kind != "silence" and t.start_s < (branch.last + 1) * length_s
        ]
        end = min(len(dialogue.labels), int(heard[-1].end_s / length_s) + 2)
        while last + 1 < end and dialogue.labels[last + 1] == "ignore":
            last += 1
        return Branch(branch.first, last, False)

    def _missed(self, branch: Branch, dialogue: Dialogue) -> range:
        """Silent slices behind a question, in which a model that has missed its end still listens and can make up for
        that."""
        length_s, first = self.duplex.slice_ms / 1000, branch.last + 1
        sounds = [int(t.start_s / length_s) for t in dialogue.turns if t.kind != "silence"]
        silent_until = min([len(dialogue.labels), *(i for i in sounds if i >= first)])
        return range(first, min(first + self.duplex.ignored_slices, silent_until))

    def _probes(
        self,
        parent: int | None,
        branch: Branch,
        others: int,
        dialogue: Dialogue,
        rng: random.Random,
    ) -> list[Row]:
        """Rows that judge the slices of a branch in which a listener has to decide, and some others. The slice of its
        answer is not among them, since the answer's row holds it."""
        open_to = range(branch.first, branch.last + 1 - branch.answered)
        deciding = self._stops(dialogue) & {*open_to}
        rest = [i for i in open_to if i not in deciding]
        judged = sorted(deciding | {*rng.sample(rest, min(len(rest), others))})
        return [self._probe(parent, branch, i, dialogue.labels[i]) for i in judged]

    def _stops(self, dialogue: Dialogue) -> set[int]:
        """Slices around every moment in which a sound ends or breaks off."""
        turns, length_s = (
            [t for t in dialogue.turns if t.kind != "silence"],
            self.duplex.slice_ms / 1000,
        )
        moments = [t.end_s for t in turns] + [t.pause_s[0] for t in turns if t.pause_s]
        return {int(moment / length_s) + near for moment in moments for near in (-1, 0, 1)}

    def _probe(self, parent: int | None, branch: Branch, slice_: int, state: TurnState) -> Row:
        labels = [IGNORED] * (len(self.asked) - 1) + [self.tokenizer.turn_states[state]]
        return Row(parent, range(branch.first, slice_ + 1), self.asked, labels)

    def _answer(
        self, rows: list[Row], parent: int | None, branch: Branch, spoken: list[int], later: list[Branch],
        dialogue: Dialogue, rng: random.Random,
    ) -> _Answer:  # fmt: skip
        """Add the rows of a question with its answer, whose last id is the end."""
        answer = _Answer(begun=branch.last, length=len(spoken) - 1)
        cut = self._cut(answer, later, dialogue, rng)
        head, state = (
            self.tokenizer.after_speech("response"),
            self.tokenizer.turn_states["response"],
        )
        first = spoken[:cut] if cut < answer.length else spoken
        labels = (
            [IGNORED] * (len(self.asked) - 1)
            + [state]
            + [IGNORED] * (len(head) - len(self.asked) - 1)
        )
        labels += [*spoken, IGNORED][: len(first) + 1]
        rows.append(Row(parent, range(branch.first, branch.last + 1), head + first, labels))
        at_cut = at_end = len(rows) - 1
        if cut < answer.length:
            rows.append(Row(at_cut, range(0), spoken[cut:], [*spoken[cut + 1 :], IGNORED]))
            at_end = len(rows) - 1
        return dataclasses.replace(answer, cut=cut, row_at_cut=at_cut, row_at_end=at_end)

    def _cut(
        self, answer: _Answer, later: list[Branch], dialogue: Dialogue, rng: random.Random
    ) -> int:
        """How much is said when the branch that matters most is forked: the one that takes the answer's place, or else
        one in which there is something to be heard, or any."""
        during = []
        for branch in later:
            if self._said(answer, branch) == answer.length:
                break
            during.append(branch)
            if branch.answered:
                return self._said(answer, branch)
        heard = [b for b in during if self._sounds(b, dialogue)] or during
        return self._said(answer, rng.choice(heard)) if heard else answer.length
