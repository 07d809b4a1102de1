"""Errors about unusable input: early, and with a remedy."""

from pathlib import Path

import pytest

from tests.small_runs import refused, train, write_corpus, write_wav

pytestmark = pytest.mark.timeout(300)


def test_a_corpus_with_few_unusable_files_is_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    manifest = write_corpus(tmp_path / "corpus", 30)
    (tmp_path / "corpus" / "9.wav").write_bytes(b"not audio")
    write_wav(tmp_path / "corpus" / "10.wav", 1.0, channels=2)
    write_wav(tmp_path / "corpus" / "11.wav", 1.0, rate=8000)
    done = train(
        tmp_path / "runs", f"data.path={manifest}", "data.max_bad_share=0.05", stage="encoder"
    )
    assert done.returncode == 0 and "9.wav" in done.out, done.out + done.err


def test_silent_files_are_named_during_training(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus", 30)
    for i in range(8, 30):
        write_wav(tmp_path / "corpus" / f"{i}.wav", 1.0, level=0.0)
    args = [f"data.path={manifest}", "data.synthetic_share=0", "trainer.max_steps=50"]
    done = train(tmp_path / "runs", *args, stage="encoder")
    assert done.returncode == 2 and "silent" in done.err and "data.max_bad_share" in done.err, (
        done.err
    )


def test_fewer_utterances_to_score_than_ranks_fail_before_training(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    answer = refused(tmp_path, "trainer.devices=2", "data.test_size=1", stage="encoder")
    assert answer.startswith("data.test_size: 1 to score for 2 ranks, of which each needs one")


def test_an_error_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = train(tmp_path, "optim.learning_rate=1")
    assert done.returncode == 2 and done.err.startswith(
        "error: unknown key 'optim.learning_rate'"
    ), done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["configs/stage/asrr.yaml"], "Did you mean 'configs/stage/asr.yaml'"),
        (["configs/preset/tinny.yaml"], "Did you mean 'configs/preset/tiny.yaml'"),
        (["data.path=nowhere"], "nowhere does not exist"),
        (["tokenizer.source=nowhere"], "set stage.ctc_weight=0"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, args: list[str], answer: str) -> None:
    assert answer in refused(tmp_path, *args)


def test_too_many_unusable_files_stop_a_run_before_training(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus")
    for i in range(10):
        (tmp_path / "corpus" / f"{i}.wav").write_bytes(b"not audio")
    assert "10 of 20 files (50.0 %)" in refused(tmp_path / "runs", f"data.path={manifest}")


def test_impossible_dialogues_fail_before_training(tmp_path: Path) -> None:
    done = train(tmp_path / "runs", "dialogue.min_interrupted_answer_s=30", stage="streaming")
    assert done.returncode == 2 and "dialogue.min_interrupted_answer_s=30" in done.err, done.err
    assert not (tmp_path / "runs").exists()
