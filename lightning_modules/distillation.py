"""Distillation: beside its own task, an encoder learns the features of a pretrained one.

The encoder in training is the student, the pretrained one the teacher. A linear projection of the
student's frames is regressed on the teacher's features, as hints are in "FitNets" (Romero et al.
2015, arXiv 1412.6550).

Which moments are compared: the student's frame t has heard the sound that ends with it. The
teacher's frame f stands for the sound that its convolutions see, `min_samples` from sample
f * frame_samples on; its attention sees the whole utterance. The student learns the features of the
sound that ended with its frame, and in context causal those of `DELAY_MS` earlier, since a causal
student hears nothing of what comes next, on which a speech feature depends.

Letters in shapes:
    B: utterances
    T: frames of the student
    F: frames of the teacher
    M: width of the teacher's frames
"""

import torch
from torch import Tensor, nn

from duplexmamba.config import ModelConfig
from duplexmamba.models.pretrained_encoders import PretrainedEncoderInfo
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded

DELAY_MS = 80
"""Milliseconds by which a causal student is late: two frames of the presets."""


class Distillation(nn.Module):
    """Loss between encoder frames and the features of a teacher.

    The projection is trained with the encoder. It belongs to the training alone: no checkpoint of a
    stage has it.

    Args:
        config: of the student.
        teacher: the pretrained encoder.
    """

    def __init__(self, config: ModelConfig, teacher: PretrainedEncoderInfo):
        super().__init__()
        self.teacher = teacher
        self.projection = nn.Linear(config.encoder.d_model, teacher.width)
        self.frame_samples = FrameTiming.of(config).samples_per_encoder_frame
        self.delay_samples = 0
        if config.encoder.context == "causal":
            self.delay_samples = DELAY_MS * config.features.sample_rate_hz // 1000

    def forward(self, frames: Padded, features: Padded) -> Tensor:
        """Compute the mean squared error over all frames and channels.

        It is 0 where the student equals the teacher and 1 where it knows no more than the mean of
        each channel.

        Args:
            frames: (B, T, D) of the student.
            features: (B, F, M) of the teacher for the same samples, each channel normalised to mean
                0 and deviation 1.
        """
        predicted = self.projection(frames.values)
        errors = predicted.float() - self.targets(features, predicted.shape[1])
        inside = frames.mask()  # (B, T)
        return errors[inside].square().mean()

    def targets(self, features: Padded, num_frames: int) -> Tensor:
        """Bring features (B, F, M) to the times of the student's frames, (B, T, M).

        Args:
            features: of the teacher.
            num_frames: T, frames of the student.
        """
        numbers = torch.arange(num_frames, device=features.values.device)
        ends = (numbers + 1) * self.frame_samples
        starts = ends - self.delay_samples - self.teacher.min_samples
        return interpolate(features, starts, self.teacher.frame_samples)


def interpolate(features: Padded, samples: Tensor, frame_samples: int) -> Tensor:
    """Interpolate features linearly in time.

    Args:
        features: (B, F, M); frame f stands at sample f * frame_samples.
        samples: (T,) int64, the moments. Before the first frame of a row its first one is taken,
            after its last one the last.
        frame_samples: samples between two frames.

    Returns:
        (B, T, M)
    """
    samples = samples.clamp_min(0)
    before = samples // frame_samples  # (T,)
    weight = (samples % frame_samples) / frame_samples
    last = features.row_lengths()[:, None] - 1  # (B, 1)
    rows = torch.arange(len(last), device=last.device)[:, None]
    earlier = features.values[rows, torch.minimum(before, last)]  # (B, T, M)
    later = features.values[rows, torch.minimum(before + 1, last)]
    return earlier + weight[:, None] * (later - earlier)
