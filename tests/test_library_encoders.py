"""Speech encoders of transformers: windows and caches that stream exactly, and what is refused."""

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from duplexmamba.models import pretrained_folders
from duplexmamba.models.encoders.library import open_library_encoder, quiet
from duplexmamba.models.pretrained_architectures import ARCHITECTURES
from duplexmamba.models.pretrained_encoders import HUB_ENCODERS, find_encoder
from duplexmamba.models.speech_lm import SpeechEncoder
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from lightning_modules.trainer.preflight import check_encoder
from tests.library_encoders import (
    CACHE_FAMILIES,
    WINDOW_FAMILIES,
    config_of,
    encoder_of,
    folder_of,
)

CONTEXTS = {
    **dict.fromkeys(WINDOW_FAMILIES, "window"),
    **dict.fromkeys(CACHE_FAMILIES, "cache"),
}
EVERY = pytest.mark.parametrize("family", CONTEXTS)


def noise(model: SpeechEncoder, num_slices: float, rows: int = 1) -> Tensor:
    features = model.features
    num_samples = int(num_slices * features.slice_frames * features.info.frame_samples)
    return 0.1 * torch.randn(rows, num_samples)


def in_chunks(module, x: Tensor, edges: list[int]) -> Tensor:
    """Outputs (T, D) of a stream that is cut at `edges`."""
    state = None
    outputs = []
    for start, end in zip([0, *edges], [*edges, x.shape[1]], strict=True):
        y, state = module(Padded(x[:, start:end]), state, end == x.shape[1])
        outputs.append(y.values[0, : int(y.row_lengths()[0])])
    return torch.cat(outputs)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@EVERY
def test_any_split_gives_the_frames_of_one_pass(family: str) -> None:
    model = encoder_of(family, CONTEXTS[family])
    x = noise(model, 4.6)
    whole, _ = model.features(Padded(x), None, True)
    assert whole.values.isfinite().all() and whole.values[0, -1].any()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        edges = sorted(rng.integers(0, x.shape[1], rng.integers(1, 7)).tolist())
        assert_close(in_chunks(model.features, x, edges), whole.values[0])
    encoded, _ = model.encode(Padded(x), final=True)
    assert_close(in_chunks(model.encode, x, edges), encoded.values[0])


@EVERY
def test_rows_forks_and_saved_states_go_on_as_single_streams(family: str) -> None:
    model = encoder_of(family, CONTEXTS[family])
    x = noise(model, 3.3, rows=3)
    lengths = torch.tensor([x.shape[1], x.shape[1] // 2, 700])
    frames, state = model.features(Padded(x, lengths))
    kept = states.clone(state)
    file = io.BytesIO()
    torch.save(_leaves(state), file)
    file.seek(0)
    saved = iter(torch.load(file))
    state = states.map_state(lambda leaf: next(saved), state)
    more = noise(model, 2.1)
    for row, length in enumerate(lengths.tolist()):
        single, single_state = model.features(Padded(x[row : row + 1, :length]))
        assert_close(frames.values[row, : int(frames.row_lengths()[row])], single.values[0])
        expected, _ = model.features(Padded(more), single_state)
        # a row forked twice, after the other rows have gone on
        forks = states.select(state, torch.tensor([row, row]))
        after, _ = model.features(Padded(more.expand(2, -1)), forks)
        for fork in after.values:
            assert_close(fork[: len(expected.values[0])], expected.values[0])
    # nothing has changed the state in place
    for before, now in zip(_leaves(kept), _leaves(state), strict=True):
        assert torch.equal(before, now)
    restarted = states.reset(state, torch.tensor([True, True, True]))
    again, _ = model.features(Padded(more), states.select(restarted, torch.tensor([1])))
    expected, _ = model.features(Padded(more))
    assert_close(again.values, expected.values)


def _leaves(state) -> list[Tensor]:
    found: list[Tensor] = []
    states.map_state(lambda leaf: found.append(leaf) or leaf, state)
    return found


@pytest.mark.parametrize("family", WINDOW_FAMILIES)
def test_context_full_gives_a_frame_for_each_period(family: str) -> None:
    model = encoder_of(family, "full")
    info = model.features.info
    for num_frames in (3, 20):
        frames = model.features.encode_utterance(
            np.random.default_rng(0).normal(0, 0.1, num_frames * info.frame_samples + 7)
        )
        assert frames.shape == (num_frames, info.width)


def test_a_bounded_encoder_is_exact_in_windows() -> None:
    context = ["encoder.left_context_ms=480", "encoder.lookahead_ms=160"]
    model = encoder_of("moonshine_streaming", "window", *context)
    x = noise(model, 6)
    late = model.features.lookahead_frames
    windows, _ = model.features(Padded(x), None, True)
    whole, _ = encoder_of("moonshine_streaming", "full").features(Padded(x))
    assert_close(windows.values[0, late:], whole.values[0])


def test_caches_give_what_one_forward_of_the_library_gives() -> None:
    for family, slice_ms in (
        ("nemotron_asr_streaming", 160), ("nemotron_asr_streaming", 320),
        ("voxtral_realtime", 160), ("mimi", 160),
    ):  # fmt: skip
        model = encoder_of(family, "cache", f"encoder.slice_ms={slice_ms}", "duplex.slice_ms=320")
        x = noise(model, 9)
        frames, _ = model.features(Padded(x), None, False)
        expected = ORACLES[family](x[0], model.features.slice_frames)
        num_frames = frames.values.shape[1]
        assert num_frames == 9 * model.features.slice_frames
        assert_close(frames.values[0], expected[:num_frames])


@torch.no_grad()
def nemotron_forward(x: Tensor, slice_frames: int) -> Tensor:
    library = open_library_encoder(str(folder_of("nemotron_asr_streaming")), "cpu")
    features = library.extractor(x.numpy(), sampling_rate=16_000, return_tensors="pt")
    lookahead = {"num_lookahead_tokens": slice_frames - 1}
    return library.model(features["input_features"], **lookahead).last_hidden_state[0]


@torch.no_grad()
def voxtral_forward(x: Tensor, slice_frames: int) -> Tensor:
    library = open_library_encoder(str(folder_of("voxtral_realtime")), "cpu")
    # silence before the stream, and a hop after it for the frame that the library drops
    padded = torch.nn.functional.pad(x, (200 + 40, 200))
    features = library.extractor(
        padded.numpy(), sampling_rate=16_000, return_tensors="pt", center=False
    )
    return library.model(features["input_features"]).last_hidden_state[0]


@torch.no_grad()
def mimi_forward(x: Tensor, slice_frames: int) -> Tensor:
    library = open_library_encoder(str(folder_of("mimi")), "cpu")
    return library.model(x[None, None]).latents[0].mT


ORACLES = {
    "nemotron_asr_streaming": nemotron_forward,
    "voxtral_realtime": voxtral_forward,
    "mimi": mimi_forward,
}


def changed_folder(tmp_path: Path, family: str, **changes: object) -> Path:
    """A copy of a folder whose config.json is changed; its weights stay."""
    folder = tmp_path / family
    shutil.copytree(folder_of(family), folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def refused(source: Path | str, *overrides: str, family: str = "wavlm") -> str:
    """The message with which a configuration with this encoder is refused before training."""
    with pytest.raises(ValueError) as caught:
        config = config_of(family, "full", f"encoder.pretrained={source}", *overrides)
        check_encoder(config)
    return str(caught.value)


def test_what_is_no_encoder_is_refused_by_name(tmp_path: Path) -> None:
    assert "llama model, which is no speech encoder" in refused(folder_of("llama"))
    assert "choose one of whisper, wav2vec2" in refused(folder_of("llama"))
    unknown = changed_folder(tmp_path, "wavlm", model_type="wavlm3")
    assert "config.json cannot be read" in refused(unknown) and "wavlm3" in refused(unknown)
    assert "owner/model" in refused("wavlm-large")


def test_an_absent_model_of_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(source: str) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    message = refused("nobody/nothing")
    assert "couldn't connect" in message and "check the name, the network" in message


def test_folders_that_lack_something_are_refused(tmp_path: Path) -> None:
    folder = changed_folder(tmp_path, "wavlm")
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json cannot be read" in refused(folder)
    shards = tmp_path / "shards"
    with quiet():
        AutoModel.from_pretrained(folder_of("wavlm")).save_pretrained(shards, max_shard_size="50KB")
    shutil.copy(folder_of("wavlm") / "preprocessor_config.json", shards)
    sorted(shards.glob("*.safetensors"))[0].unlink()
    message = refused(shards)
    assert "model-00001-of" in message and "whole model" in message


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    more = refused(changed_folder(tmp_path / "more", "wavlm", num_hidden_layers=3))
    assert "missing (encoder.layers.2." in more and more.count("encoder.layers.2.") == 10
    less = refused(changed_folder(tmp_path / "less", "wavlm", num_hidden_layers=1))
    assert "unexpected (" in less and "encoder.layers.1." in less
    wider = refused(changed_folder(tmp_path / "wider", "wavlm", intermediate_size=64))
    assert "mismatched (" in wider and "intermediate_dense.weight" in wider


def test_settings_that_an_encoder_cannot_be_used_with_are_refused() -> None:
    wavlm = folder_of("wavlm")
    assert "features.sample_rate_hz=24000" in refused(
        folder_of("mimi"), "features.sample_rate_hz=16000"
    )
    assert "such as 160" in refused(wavlm, "encoder.context=window", "encoder.slice_ms=170")
    assert "set encoder.d_model=32" in refused(wavlm, "encoder.num_layers=0")
    assert "encoder.num_layers=0: must be" in refused(
        wavlm, "encoder.kind=conmamba", "encoder.pretrained=null", "encoder.num_layers=0"
    )
    assert "at most 4 s" in refused(folder_of("whisper"), "data.max_s=20", family="whisper")
    assert "at most 4 s" in refused(
        folder_of("whisper"),
        "encoder.context=window",
        "encoder.left_context_ms=4800",
        family="whisper",
    )
    assert "no caches; set encoder.context=full or window" in refused(
        wavlm, "encoder.context=cache"
    )
    bounded = refused(folder_of("moonshine_streaming"), "encoder.context=cache")
    assert "gives its encoder no cache" in bounded and "left_context_ms" in bounded
    assert "streams by its caches, in offline stages as well; set encoder.context=cache" in refused(
        folder_of("nemotron_asr_streaming")
    )
    assert "no channel for the level; set features.level=none" in refused(
        folder_of("nemotron_asr_streaming"), "encoder.context=cache", "features.level=channel"
    )


def test_a_slice_that_an_encoder_was_not_trained_with_is_refused(tmp_path: Path) -> None:
    folder = changed_folder(tmp_path, "nemotron_asr_streaming")
    (folder / "processor_config.json").write_text('{"supported_num_lookahead_tokens": [0, 1, 6]}')
    message = refused(
        folder, "encoder.context=cache", "encoder.slice_ms=480", family="nemotron_asr_streaming"
    )
    assert "slices of 80, 160, 560 ms; set encoder.slice_ms=560" in message


def test_known_sizes_of_hub_models_are_those_of_their_settings() -> None:
    for name, info in HUB_ENCODERS.items():
        model = pretrained_folders.HUB_MODELS[name]
        architecture = ARCHITECTURES[model.model_type]
        settings = AutoConfig.for_model(model.model_type, **model.settings)
        for field, value in dataclasses.asdict(architecture.sizes(settings)).items():
            assert getattr(info, field) == value, (name, field)
        assert info.contexts == architecture.contexts


def test_the_command_makes_a_folder_and_names_those_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrained_folders", "--random-weights", "hubert", str(tmp_path / "folder")]
    monkeypatch.setattr(sys, "argv", command)
    pretrained_folders.main()
    assert "million random weights" in capsys.readouterr().out
    names = {file.name for file in (tmp_path / "folder").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert find_encoder(str(tmp_path / "folder")).width == 32
    with pytest.raises(ValueError, match=r"choose one of: whisper, .*microsoft/wavlm-large"):
        pretrained_folders.write_random_weights("hubert-huge", tmp_path)
