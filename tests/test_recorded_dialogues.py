"""Recorded conversations in training: excerpts, labels that are unknown, shares, and errors."""

import itertools
import json
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile as sf
import torch

from configs.checks import SPLITS
from configs.fingerprint import fingerprint
from configs.loading import load_config, override
from configs.schema import Config
from datamodules.conversations.audio_checks import audio_problem
from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.conversations.corpus import joined, open_conversations
from datamodules.conversations.excerpts import Excerpts, cut, listener_of
from datamodules.conversations.labels import slice_labels
from datamodules.conversations.manifest import MANIFEST, read_conversations, write_conversations
from datamodules.corpora import Corpora
from datamodules.dialogue import natural
from datamodules.dialogue import write as write_dialogues
from datamodules.dialogue.data import DialogueData
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.text_dialogues import open_text_dialogues
from datamodules.dialogue.turns import Answer, Slices, Turn
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.losses import IGNORED, token_loss
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.branch_targets import BranchTargets, session_states
from lightning_modules.dialogue import DialogueStage, session_results
from lightning_modules.multiplex import MultiplexStage, script
from tests.conftest import SMALL_SIZES, TINY
from tests.conversations import SLICES, conversation, said

RATE_HZ = 16_000
WORDS_PER_S = 2.0


def configured(folder: Path, *words: str) -> Config:
    common = ["data.num_workers=0", "data.batch_dialogues=2", "dialogue.events=[1,2]"]
    conversations = f"data.conversations={{{folder}: 1}}"
    recipe = [TINY[0], "configs/stage/streaming.yaml", *SMALL_SIZES]
    return load_config([*recipe, *common, conversations, *words])


def call(id: str, path: Path, split: str | None, duration_s: float = 40.0) -> Conversation:
    """A call: questions at 2, 15 and 30 s, each answered after 0.4 s, and a back-channel."""
    turns = []
    for start_s in (2.0, 15.0, 30.0):
        turns.append(said("user", start_s, start_s + 2, "what is this then"))
        turns.append(said("agent", start_s + 2.4, start_s + 8, "well it is a kind of bird I think"))
    turns.append(said("user", 5.0, 5.4, "mhm"))
    return conversation(
        *turns,
        id=id,
        split=split,
        duration_s=duration_s,
        user=Side(path, 0),
        agent=Side(path, 1),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of six calls, two of each split."""
    path = tmp_path_factory.mktemp("calls")
    rng = np.random.default_rng(0)
    calls = []
    for number, split in enumerate(["train", "train", "valid", "valid", "test", "test"]):
        sound = path / f"{number}.wav"
        sf.write(sound, 0.1 * rng.standard_normal((40 * RATE_HZ, 2)), RATE_HZ)
        calls.append(call(f"call-{number}", sound, split))
    write_conversations(calls, path / MANIFEST)
    return path


# ---- excerpts


def test_excerpts_have_the_labels_of_the_whole_conversation() -> None:
    whole = call("c", Path("c.wav"), "train")
    labels = slice_labels(whole, SLICES)
    listener = listener_of(whole, SLICES, WORDS_PER_S)
    excerpts = cut(listener, SLICES, max_s=12)
    starts_s = [excerpt.slices.start * SLICES.seconds for excerpt in excerpts]
    assert starts_s == pytest.approx([1.0, 14.0, 29.0])
    with mock.patch.object(Excerpts, "read", return_value=np.zeros(1, np.float32)):
        dialogues = [Excerpts(excerpts, SLICES)[index] for index in range(3)]
    for excerpt, dialogue in zip(excerpts, dialogues, strict=True):
        assert dialogue.labels == labels[excerpt.slices.start : excerpt.slices.stop]
        assert [dialogue.labels[answer.begin] for answer in dialogue.answers] == ["response"]
    assert [turn.kind for turn in dialogues[0].turns] == ["question", "backchannel"]
    assert dialogues[1].turns[0].start_s == pytest.approx(1.0)


def test_a_long_turn_is_divided_and_nothing_is_in_two_excerpts() -> None:
    monologue = conversation(
        said("user", 1.0, 31.0), said("agent", 31.2, 35.0), duration_s=40.0, split="train"
    )
    listener = listener_of(monologue, SLICES, WORDS_PER_S)
    slices = [excerpt.slices for excerpt in cut(listener, SLICES, max_s=12)]
    assert all(len(part) <= 60 for part in slices)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(slices))
    assert slices[0].start == 0 and slices[-1].stop >= 31 * 5


def test_excerpts_without_a_label_are_left_out() -> None:
    unknown = conversation(said("user", 1.0, 3.0), excluded=((0.0, 8.0),))
    assert cut(listener_of(unknown, SLICES, WORDS_PER_S), SLICES, max_s=12) == []


def test_answers_of_people_take_their_time_and_are_not_learnt() -> None:
    human = call("c", Path("c.wav"), "train")
    listener = listener_of(human, SLICES, words_per_s=1.0)
    first = listener.answers[0]
    # 5.6 s of speech
    assert not first.is_known and listener.turns[first.turn].answer == "well it is a kind of"
    given = conversation(
        said("user", 1.0, 2.0), SpokenTurn("agent", 2.5, 4.0, "a bird", kind="answer", to=0)
    )
    listener = listener_of(given, SLICES, WORDS_PER_S)
    assert listener.answers[0].is_known and listener.turns[0].answer == "a bird"


def test_only_the_audio_of_the_excerpt_is_read(folder: Path) -> None:
    excerpts = joined(open_conversations(configured(folder, "data.excerpt_s=12")), "train")
    real_read = sf.SoundFile.read
    counts = []

    def read(self: sf.SoundFile, frames: int = -1, **more: object) -> np.ndarray:
        counts.append(frames)
        return real_read(self, frames, **more)

    with mock.patch.object(sf.SoundFile, "read", read):
        dialogue = excerpts[0]
    assert counts == [len(dialogue.samples)] and len(dialogue.samples) <= 12 * RATE_HZ
    start = excerpts.excerpts[0].slices.start * 3200
    sound, _ = sf.read(excerpts.excerpts[0].listener.side.audio, start=start, frames=1000)
    assert np.allclose(dialogue.samples[:1000], sound[:, 0], atol=1e-3)


def test_a_silent_channel_is_no_broken_file(tmp_path: Path) -> None:
    sf.write(tmp_path / "c.wav", np.zeros((40 * RATE_HZ, 2)), RATE_HZ)
    calls = [call(split, tmp_path / "c.wav", split) for split in ("train", "valid", "test")]
    write_conversations(calls, tmp_path / MANIFEST)
    excerpts = joined(open_conversations(configured(tmp_path)), "train")
    assert not excerpts[0].samples.any()


# ---- batches


def test_training_is_on_conversations_alone_or_by_share(folder: Path) -> None:
    config = configured(folder, "data.composed_share=0.5")
    data = DialogueData(config, Corpora(config))
    dialogues = data.training_dialogues()
    ids = [dialogues[position].id for position in range(6)]
    composed = [id for id in ids if id.startswith("dialogue-")]
    assert composed == [data.dialogues("train", 0)[index].id for index in range(3)]
    assert len({dialogues.stratum(position) for position in range(6)} - {"recorded"}) >= 1
    alone = DialogueData(configured(folder), Corpora(config)).training_dialogues()
    assert all(alone[position].id.startswith("call-") for position in range(3))


def test_a_resumed_run_has_the_same_excerpts(folder: Path) -> None:
    config = configured(folder, "data.composed_share=0.5", "data.augment.effects.level=1")
    batches = []
    for start in (0, 1):
        data = DialogueData(config, Corpora(config))
        data.start_batch = start
        batches.append(list(itertools.islice(data.train_dataloader(), 2 - start)))
    one, other = batches[0][1], batches[1][0]
    assert [dialogue.id for dialogue in one.dialogues] == [d.id for d in other.dialogues]
    assert torch.equal(one.samples.values, other.samples.values)


def test_conversations_alone_are_scored(folder: Path) -> None:
    config = configured(folder, "data.composed_share=1", "data.test_dialogues=50")
    data = DialogueData(config, Corpora(config))
    found = [dialogue.id for batch in data.test_dataloader() for dialogue in batch.dialogues]
    assert {id.split("@")[0] for id in found} == {"call-4", "call-5"}
    assert data.scored()["test_dialogues"] == len(found) < 50


# ---- labels and answers that are unknown


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["some words to be said"] * 3)


UNKNOWN = Dialogue(
    id="unknown",
    samples=np.zeros(0, np.float32),
    turns=(
        Turn("question", "what", "so it is", 0.2, 1.0, (0.4, 0.6), ""),
        Turn("question", "and", "", 2.0, 2.6, None, ""),
    ),
    # a question, its answer, and a turn of which only the beginning is known
    labels=(
        *("ignore", "incomplete", "incomplete", "incomplete", "incomplete", "response"),
        *("ignore", None, "ignore", "ignore", "incomplete", None, None, None, "ignore"),
    ),
    answers=(Answer(0, 5, None, is_known=False),),
)


def test_unknown_slices_are_not_probed(tokenizer: Tokenizer, config: Config) -> None:
    for number in range(20):
        targets = BranchTargets(tokenizer, config.duplex, 20)
        segments = targets.segments(UNKNOWN, random.Random(number))
        probed = {segment.slices.stop - 1 for segment in segments if segment.slices}
        assert not probed & {7, 11, 12, 13} and {4, 5, 6, 10} <= probed
    states = session_states(UNKNOWN, 0.2)
    assert states[7] == "ignore" and states[11] == states[12] == "incomplete"


def test_unknown_answers_are_read_and_not_learnt(tokenizer: Tokenizer, config: Config) -> None:
    response_id = tokenizer.turn_state_ids["response"]
    markers = {*tokenizer.turn_state_ids.values(), IGNORED}
    segments = BranchTargets(tokenizer, config.duplex, 2).segments(UNKNOWN, random.Random(0))
    learnt = {label for segment in segments for label in segment.labels}
    assert response_id in learnt and learnt <= markers
    answer_ids = tokenizer.encode_response("so it is")
    read = [id for segment in segments for id in segment.ids]
    assert set(answer_ids) <= set(read)
    written = script(UNKNOWN, tokenizer, config.duplex)
    assert {label for each in written for label in each.labels} <= markers
    assert not any(label != IGNORED for label in written[7].labels)
    for each in written:
        assert len(each.free) == sum(label != IGNORED for label in each.labels)


def test_unknown_slices_and_answers_have_no_score() -> None:
    events = [mock.Mock(state="ignore", emitted="", start=None) for _ in UNKNOWN.labels]
    with mock.patch("lightning_modules.dialogue.emitted_responses", return_value=[]):
        results = session_results(events, UNKNOWN, 0.2)
    assert len(results) == sum(label is not None for label in UNKNOWN.labels)


def test_rare_ends_of_turns_weigh_more(config: Config) -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([1, 0, 0, 0, 3, IGNORED])
    weights = torch.ones(5)
    weights[1] = 4.0
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (losses * torch.tensor([4.0, 1, 1, 1, 1, 0])).sum() / 8
    assert torch.allclose(token_loss(logits, labels, 0.0, weights), expected)
    assert torch.equal(token_loss(logits, labels), token_loss(logits, labels, 0.0, None))


@pytest.mark.parametrize("stage_type", [DialogueStage, MultiplexStage])
def test_a_batch_of_conversations_trains_and_is_scored(
    folder: Path, tokenizer: Tokenizer, stage_type: type[DialogueStage]
) -> None:
    words = ["stage.response_weight=5", "stage.utterances_per_dialogue=0", "data.excerpt_s=8"]
    words.append(f"duplex.kind={'fork' if stage_type is DialogueStage else 'multiplex'}")
    config = configured(folder, *words)
    module = stage_type(config, SpeechLM(config.model), tokenizer)
    data = DialogueData(config, Corpora(config))
    batch = next(iter(data.train_dataloader()))
    loss = module.training_loss(batch)
    loss.backward()
    assert loss.isfinite() and loss > 0
    module.eval()
    with torch.no_grad():
        results = module.validate(next(iter(data.val_dataloader())))
    assert module.scores(results)


# ---- settings


def test_settings_of_conversations_change_no_other_run(folder: Path) -> None:
    plain = load_config([TINY[0], "configs/stage/streaming.yaml"])
    assert fingerprint(override(plain, ["data.excerpt_s=20"])) == fingerprint(plain)
    with_conversations = override(plain, [f"data.conversations={{{folder}: 1}}"])
    assert fingerprint(with_conversations) != fingerprint(plain)
    asr = load_config([TINY[0], "configs/stage/asr.yaml"])
    changed = [f"data.conversations={{{folder}: 1}}", "stage.response_weight=3"]
    assert fingerprint(override(asr, changed)) == fingerprint(asr)


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("data.conversations={/no/such/folder: 1}", "does not exist; name a manifest"),
        ("data.excerpt_s=1", "give at least 5"),
        ("data.composed_share=2", "a share lies between 0 and 1"),
        ("stage.response_weight=0", "must be more than 0"),
    ],
)
def test_wrong_settings_are_answered(folder: Path, word: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        open_conversations(configured(folder, word))


def test_weights_are_positive_and_shares_need_conversations(folder: Path) -> None:
    with pytest.raises(ValueError, match="leave out what is not to be used"):
        configured(folder, f"data.conversations={{{folder}: 0}}")
    with pytest.raises(ValueError, match="name manifests, or set composed_share=0"):
        load_config([*TINY, "data.composed_share=0.5"])


def test_broken_conversations_are_counted_up_to_the_limit(folder: Path, tmp_path: Path) -> None:
    sound = folder / "0.wav"
    calls = [call(f"c{number}", sound, "train") for number in range(6)]
    calls += [call("v", sound, "valid"), call("t", sound, "test")]
    calls.append(call("long", sound, "train", duration_s=60.0))
    calls.append(call("missing", folder / "none.wav", "train"))
    calls.append(call("nowhere", sound, None))
    write_conversations(calls, tmp_path / MANIFEST)
    with pytest.raises(ValueError, match=r"long: .*0.wav ends at 40.00 s.*missing: .*none.wav"):
        open_conversations(configured(tmp_path))
    opened = open_conversations(configured(tmp_path, "data.max_bad_share=0.3"))
    [manifest] = opened.values()
    assert len(manifest.survey.unusable) == 2
    assert any("without a split" in phrase for phrase in manifest.survey.left_out())
    assert "6 conversations" in str(manifest.survey)


def test_a_missing_split_is_an_error(folder: Path, tmp_path: Path) -> None:
    write_conversations([call("c", folder / "0.wav", "train")], tmp_path / MANIFEST)
    with pytest.raises(
        ValueError, match="no conversation of split valid is left.*name their split"
    ):
        open_conversations(configured(tmp_path))


# ---- natural timing


def test_natural_times_have_the_published_statistics() -> None:
    rng = random.Random(0)
    offsets_s = [natural.draw_offset_s(rng) for _ in range(20_000)]
    gaps_s = [offset_s for offset_s in offsets_s if offset_s > 0]
    overlaps_s = [-offset_s for offset_s in offsets_s if offset_s < 0]
    assert len(gaps_s) / len(offsets_s) == pytest.approx(0.52, abs=0.02)
    assert np.median(gaps_s) == pytest.approx(0.38, abs=0.02)
    assert np.median(overlaps_s) == pytest.approx(0.41, abs=0.02)
    pauses_s = np.array([natural.draw_pause_s(rng) for _ in range(20_000)])
    assert pauses_s.min() >= 0.2 and pauses_s.max() <= 5.0
    for length_s, share in natural.PAUSES:
        assert (pauses_s > length_s).mean() == pytest.approx(share, abs=0.02)
    starts_s = np.array([natural.draw_backchannel_start_s(4.0, rng) for _ in range(5_000)])
    assert (starts_s < 4).mean() == pytest.approx(0.8, abs=0.02) and starts_s.max() < 5


def test_natural_dialogues_overlap_and_keep_the_rules_of_labels(config: Config) -> None:
    config = override(config, ["dialogue.timing=natural", "dialogue.events=[3,8]"])
    dialogues = open_text_dialogues(config)
    num_early = 0
    for index in range(60):
        dialogue = dialogues[index]
        assert len(dialogues.events(index)) == len(dialogue.turns)
        starts_s = [turn.start_s for turn in dialogue.turns]
        assert starts_s == sorted(starts_s)
        assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(dialogue.turns))
        assert dialogue.labels == dialogues.slices.labels(dialogue.turns, len(dialogue.labels))
        assert [dialogue.labels[answer.begin] for answer in dialogue.answers].count(
            "response"
        ) == dialogue.labels.count("response")
        for answer in dialogue.answers:
            assert answer.spoken_s is not None
            num_early += answer.spoken_s[0] < dialogue.turns[answer.turn].end_s
    assert num_early > 20


def test_composed_timing_is_unchanged_by_the_setting(config: Config) -> None:
    composed = open_text_dialogues(config)[3]
    assert all(answer.spoken_s is None for answer in composed.answers)
    with pytest.raises(ValueError, match="natural pauses last 200 ms"):
        override(config, ["dialogue.timing=natural", "dialogue.endpoint_silence_ms=250"])


def test_written_dialogues_are_conversations_with_the_same_labels(
    config: Config, tmp_path: Path
) -> None:
    config = override(config, ["dialogue.timing=natural", "dialogue.events=[2,3]"])
    slices = Slices.of(config)
    with mock.patch.object(write_dialogues, "picture"):
        for split in SPLITS:
            write_dialogues.write_composed(config, split, 1, tmp_path)
        # a second call replaces the dialogues of its split
        write_dialogues.write_composed(config, "train", 1, tmp_path)
        written, skipped = read_conversations(tmp_path)
        assert not skipped and sorted(item.split or "" for item in written) == sorted(SPLITS)
        assert not audio_problem(written[0])
        for item in written:
            facts = json.loads((tmp_path / f"{item.id}.json").read_text())
            assert list(slice_labels(item, slices)) == facts["labels"]
        config = override(config, [f"data.conversations={{{tmp_path}: 1}}"])
        [drawn] = write_dialogues.write_excerpts(config, "train", 1, tmp_path)
    stereo, _ = sf.read(tmp_path / f"{drawn.id}.wav")
    assert len(stereo) == len(drawn.labels) * slices.length and stereo[:, 1].any()
