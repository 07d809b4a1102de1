"""Which model, module and data belong to which stage."""

from datamodules.data import SpeechData, TextData
from duplexmamba.model import SpeechLM
from lightning_modules.encoder import CTCRecogniser, EncoderStage
from lightning_modules.lm import LMStage, TextModel
from lightning_modules.speech import SpeechStage

KINDS = {
    "encoder": (CTCRecogniser, EncoderStage, SpeechData),
    "lm": (TextModel, LMStage, TextData),
    "asr": (SpeechLM, SpeechStage, SpeechData),
}
