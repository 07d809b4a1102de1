"""The model that comes with the project still understands speech and still converses.

The floors lie well below the scores in models/demo/scores.json: they fail when hearing breaks.
"""

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from configs.loading import override
from datamodules.batching import ScoredSet, collate
from datamodules.corpora import Corpora
from datamodules.dialogue.data import DialogueData
from datamodules.synthetic.speech import SyntheticSpeech
from datamodules.synthetic.voices import open_unseen_voices
from duplexmamba.models.timing import FrameTiming
from duplexmamba.text.metrics import error_rates
from evaluation.duplex.dialogues import PlayedDialogue, scores
from evaluation.duplex.live_dialogues import play_all
from lightning_modules.sessions import open_sessions
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.checkpoint import DEMO_FOLDER, StageCheckpoint

PACKAGES = ("moonshine_voice", "onnxruntime", "espeakng_loader", "py_nanotts", "piper")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(not DEMO_FOLDER.exists(), reason="models/demo is not in this checkout"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
NUM_UTTERANCES = 51
"""In three families: espeak-ng, Pico, and Piper's joe, which no model is trained on."""
FAMILIES = "data.test_voices={espeak: 1, pico: 1, piper: 1}"
NUM_DIALOGUES = 12
MAX_WER = 0.15
MIN_MACRO_F1 = 0.65
MIN_ANSWERS = 0.4


@pytest.fixture(scope="module")
def demo() -> Iterator[StageCheckpoint]:
    torch.set_num_threads(1)
    yield StageCheckpoint.load(DEMO_FOLDER)


def test_it_understands_three_families_of_voices(demo: StageCheckpoint) -> None:
    config = override(demo.config, [FAMILIES, "stage.ctc_weight=0.3"])
    stage = STAGE_REGISTRY["asr"]
    module = stage.module(config, stage.model(config.model), demo.tokenizer)
    module.model.load_state_dict(demo.weights)
    module.eval()
    speech = SyntheticSpeech(
        "test",
        seed=7,
        size=NUM_UTTERANCES,
        rate_hz=config.features.sample_rate_hz,
        augment=config.data.augment,
        voices=open_unseen_voices(config.data),
    )
    unit_samples = FrameTiming.of(config.model).samples_per_token
    utterances = ScoredSet(speech)
    references = []
    hypotheses = []
    for index in range(NUM_UTTERANCES):
        batch = collate([utterances[index]], unit_samples)
        [ids] = module.transcribe(batch)
        references += batch.texts
        hypotheses.append(demo.tokenizer.decode(ids))
    assert error_rates(references, hypotheses)["wer"] < MAX_WER


@pytest.fixture(scope="module")
def played(demo: StageCheckpoint) -> list[PlayedDialogue]:
    config = override(demo.config, ["seed=7", f"data.test_dialogues={NUM_DIALOGUES}"])
    data = DialogueData(config, Corpora(config, splits=["test"]))
    dialogues = data.dialogues("test", NUM_DIALOGUES)
    return play_all(open_sessions(demo, config, DEMO_FOLDER), dialogues, NUM_DIALOGUES)


def test_it_converses(played: list[PlayedDialogue]) -> None:
    kinds = {turn.kind for dialogue in played for turn in dialogue.turns}
    assert {"interruption", "talking_to_other", "paused_question"} <= kinds
    values = scores(played)
    assert values["state/macro_f1"].value > MIN_MACRO_F1
    assert values["answer/exact_match"].value > MIN_ANSWERS
