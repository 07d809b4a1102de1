"""The real page in headless Chromium: a fake microphone plays a recording to a stand-in model."""

import shutil
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soxr
from matplotlib.image import imread

from serving.limits import Limits
from serving.web import bind
from tests.local_server import connected, next_message, running_server
from tests.talker import ANSWERS, HIGH_HZ, LOW_HZ, tones

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
    pytest.mark.timeout(300),
]
WAIT_MS = 120_000
TALK = tones(
    # a question; speech to somebody else during its answer
    (0, 1), (LOW_HZ, 1), (0, 2), (HIGH_HZ, 1), (0, 1.5),
    # an interruption; a question with a pause
    (LOW_HZ, 1), (0, 2.5), (LOW_HZ, 0.5), (0, 0.9), (LOW_HZ, 0.5), (0, 8),
)  # fmt: skip


@contextmanager
def browsing(address: str, *switches: str, **context) -> Iterator[tuple]:
    """The page of an address, and what went wrong in it or was asked for elsewhere."""
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *switches])
        page = browser.new_context(viewport={"width": 1180, "height": 900}, **context).new_page()
        page.set_default_timeout(WAIT_MS)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" else None,
        )
        page.on("request", lambda r: None if f"//{address}/" in r.url else wrong.append(r.url))
        page.goto(f"http://{address}/")
        page.wait_for_selector("#clips button")
        yield page, wrong
        browser.close()


def answers(page) -> list[tuple[str, bool]]:
    """(text, interrupted) of the responses in the list on the page."""
    read = """items => items.map(i => [
        i.querySelector('span').textContent, i.classList.contains('interrupted')])"""
    return [tuple(found) for found in page.eval_on_selector_all("#turns .answer", read)]


def colours(page, selector: str) -> np.ndarray:
    """(n, 3) of what an element looks like, 0 to 255."""
    picture = imread(BytesIO(page.locator(selector).screenshot()))
    return np.round(255 * picture[..., :3]).reshape(-1, 3)


def share(found: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Of the pixels that are nearly of a colour."""
    return float((np.abs(found - colour).max(1) < 12).mean())


def test_a_conversation_through_the_microphone(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "talk.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(TALK.tobytes())
    switches = [
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'talk.wav'}%noloop",
    ]  # fmt: skip
    with (
        running_server(tmp_path / "talks", Limits(2)) as address,
        browsing(address, *switches) as (page, wrong),
    ):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "talk"
        page.keyboard.press("Enter")
        page.wait_for_selector("#turns .answer >> nth=2")
        page.wait_for_selector("#turns .answer:not(.in-progress) >> nth=2")
        if len(answers(page)) > 3:
            pytest.skip(
                "the browser played parts of the recording twice: the machine is too busy for its "
                "microphone"
            )
        first, second, third = answers(page)
        assert (
            first[1] and ANSWERS[0].startswith(first[0]) and len(first[0].split()) > 4
        )  # on through the aside
        assert second == (ANSWERS[1], False) and third == (
            ANSWERS[2],
            False,
        )  # one answer to what had a pause
        assert page.inner_text("#announced") == f"Answer: {ANSWERS[2]}"
        assert page.locator("#slices tr").count() == 50
        light = colours(page, "#timeline")
        for colour in (
            (47, 138, 95),
            (226, 167, 46),
            (211, 217, 214),
            (216, 236, 223),
        ):  # three states, an answer
            assert share(light, colour) > 0.001, colour
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(500)
        assert light.mean() > 200 and colours(page, "#timeline").mean() < 90
        page.click("#talk")
        page.wait_for_selector("#status[data-state=idle]")
        assert page.inner_text("#talk") == "Start talking" and not wrong
        with page.expect_download() as download:
            page.click("#trace")
        assert download.value.suggested_filename.endswith(".jsonl")


def test_clips_sentences_and_a_second_clip_that_interrupts(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    with running_server(tmp_path, Limits(2)) as address, browsing(address) as (page, wrong):
        page.click("[data-clip=question]")
        page.wait_for_selector("#turns .in-progress")
        page.fill("#text", "what is the capital of france")
        page.press("#text", "Enter")
        page.wait_for_selector("#turns .interrupted")
        assert (
            page.locator("#turns .you")
            .all_inner_texts()[1]
            .endswith("what is the capital of france")
        )
        assert page.inner_text("#microphone") == "Microphone is off" and not wrong


def test_the_page_shows_busy_and_gone_and_recovers(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
    assert port
    with running_server(tmp_path, Limits(1)) as address, browsing(address) as (page, _):
        with connected(address) as other:
            assert next_message(other)["type"] == "ready"
            page.click("[data-clip=question]")
            page.wait_for_selector("#status[data-state=busy]")
            assert page.inner_text("#notice").startswith("Busy: 1 conversations")
        page.route("**/about", lambda route: route.abort())
        page.reload()
        page.wait_for_selector("#status[data-state=gone]")
        assert "make serve" in page.inner_text("#notice")
        page.unroute("**/about")
        page.wait_for_selector("#status[data-state=idle]")
        assert not page.is_visible("#notice")


def test_the_page_is_accessible_and_fits_a_telephone(tmp_path: Path) -> None:
    with running_server(tmp_path, Limits(1)) as address, browsing(address) as (page, wrong):
        tree = page.locator("body").aria_snapshot()
        for part in (
            'heading "DuplexMamba"',
            'button "Start talking"',
            'button "A question"',
            'meter "response"',
            'textbox "A sentence to be spoken"',
            "status: Ready",
            'img "Timeline',
        ):
            assert part in tree, tree
        page.set_viewport_size({"width": 320, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= 320 and not wrong


@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 16_000, 8_000])
def test_resampling_equals_that_of_a_library(tmp_path: Path, rate_hz: int) -> None:
    rng = np.random.default_rng(0)
    noise = soxr.resample(
        rng.normal(0, 0.1, 6_000), 6_000, rate_hz
    )  # to 3 kHz, which passes everywhere
    high = (
        0.5 * np.sin(2 * np.pi * 11_000 * np.arange(len(noise)) / rate_hz)
        if rate_hz > 22_000
        else 0 * noise
    )
    script = """async ([samples, rate, sizes]) => {
        const { Resampler } = await import("/resample.js");
        const resampler = new Resampler(rate, 16000), out = [];
        for (let at = 0, i = 0; at < samples.length; at += sizes[i++ % sizes.length]) {
            const chunk = samples.slice(at, at + sizes[i % sizes.length]);
            out.push(...resampler.push(Float32Array.from(chunk)));
        }
        return out;
    }"""
    with running_server(tmp_path, Limits(1)) as address, browsing(address) as (page, _):
        found = np.array(page.evaluate(script, [(noise + high).tolist(), rate_hz, [128]]))
    expected = soxr.resample(noise, rate_hz, 16_000)[: len(found)]
    assert 0.95 * len(noise) * 16_000 / rate_hz < len(found) <= len(noise) * 16_000 / rate_hz + 1
    inner = slice(200, -200)
    assert np.abs(found - expected)[inner].max() < 0.01 * np.abs(expected).max()
