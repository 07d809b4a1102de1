"""Training utterances with the features of a teacher, computed by the data workers.

The teacher of stage encoder (`stage.teacher`) encodes whole utterances, as they sound after
augmentation.
"""

import dataclasses

from torch.utils.data import Dataset

from configs.schema import Config
from datamodules.batching import pad_signals
from datamodules.corpus import UnusableAudio, Utterance
from duplexmamba.models.encoders import PretrainedEncoder
from duplexmamba.models.timing import FrameTiming
from lightning_modules.trainer.feature_cache import CachedFeatures


class TeacherItems(Dataset[Utterance | UnusableAudio]):
    """The utterances of a data set with the normalised features of a teacher.

    Features are kept on disk where data.train_size repeats utterances. Those of an endless stream
    are never needed again.

    Args:
        dataset: utterances by position.
        teacher: with its normalisation.
        config: of the stage.
    """

    def __init__(
        self,
        dataset: Dataset[Utterance | UnusableAudio],
        teacher: PretrainedEncoder,
        config: Config,
    ):
        self.dataset = dataset
        self.teacher = teacher
        self.cache = CachedFeatures.of(teacher, config, training=False)
        self.is_repeated = config.data.train_size > 0
        # the student's batches are padded to whole speech embeddings
        self.unit_samples = FrameTiming.of(config.model).samples_per_token

    def __getitem__(self, position: int) -> Utterance | UnusableAudio:
        """Return an utterance; what it cannot be read for is returned as the data set does."""
        item = self.dataset[position]
        if isinstance(item, UnusableAudio):
            return item
        samples = pad_signals([item.samples], self.unit_samples).values[0].numpy()
        if self.is_repeated:
            _, features = self.cache.of_signal(samples, draws_slice=False)
        else:
            features = self.teacher.normalise(self.teacher.encode_utterance(samples)).numpy()
        return dataclasses.replace(item, teacher=features)


def build_teacher(config: Config, name: str) -> PretrainedEncoder:
    """Build the teacher of a stage, without its normalisation.

    Args:
        config: of the stage.
        name: key of `PRETRAINED_ENCODERS`.
    """
    encoder = dataclasses.replace(
        config.encoder, kind="pretrained", pretrained=name, context="full"
    )
    return PretrainedEncoder(dataclasses.replace(config.model, encoder=encoder))
