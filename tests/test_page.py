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
from tests.local_server import connected, eventually, next_message, running_server
from tests.talker import ANSWERS, HIGH_HZ, LOW_HZ, Talker, TalkerState, tones

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
QUESTION = tones((LOW_HZ, 1), (0, 0.6))
LISTEN_BRIEFLY = ("ANSWER_WITHIN_S = 8", "ANSWER_WITHIN_S = 4")


def write_wav(file, pcm: np.ndarray) -> None:
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(pcm.tobytes())


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    """One browser for all tests; its microphone plays TALK from the start whenever it is opened."""
    path = tmp_path_factory.mktemp("microphone") / "talk.wav"
    write_wav(str(path), TALK)
    switches = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    ]
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=BROWSER, args=switches)
        yield found
        found.close()


@contextmanager
def browsing(browser, address: str, script: str = "", **options) -> Iterator[tuple]:
    """The page of an address, and what went wrong in it or was asked for elsewhere.

    The script runs before those of the page.
    """
    context = browser.new_context(viewport={"width": 1180, "height": 900}, **options)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.add_init_script(script)
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
    context.close()


class Transcriber:
    """In place of a model."""

    def __init__(self, session, max_speech_s: float):
        pass

    def steps(self, samples, final: bool) -> Iterator[str]:
        yield "what was asked" if final else "what"


def clip_is(page, pcm: np.ndarray) -> None:
    """Let the first clip be this sound."""
    file = BytesIO()
    write_wav(file, pcm)
    page.route("**/clips/question.wav", lambda route: route.fulfill(body=file.getvalue()))


def with_patch(page, script: str, old: str, new: str) -> None:
    """Load the page again with a change in one of its scripts."""
    text = (Path("serving/page") / script).read_text()
    assert old in text
    body = text.replace(old, new)
    page.route(
        f"**/{script}", lambda route: route.fulfill(body=body, content_type="text/javascript")
    )
    page.reload()
    page.wait_for_selector("#clips button")


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


def test_a_conversation_through_the_microphone(browser, tmp_path: Path) -> None:
    with (
        running_server(tmp_path / "talks", Limits(2), transcribe=Transcriber) as address,
        browsing(browser, address, permissions=["microphone"]) as (page, wrong),
    ):
        spoken: list[str] = []
        page.on("request", lambda r: spoken.append(r.post_data) if "voice=model" in r.url else None)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "talk"
        page.keyboard.press("Space")
        page.wait_for_selector("#status[data-state=hearing]")
        assert page.inner_text("#talk") == "Stop talking"
        # The text appears while the question goes on.
        page.wait_for_selector("#turns .heard.in-progress")
        assert not answers(page)
        level = "Number(document.getElementById('level').ariaValueNow)"
        assert eventually(lambda: page.evaluate(level) > 50)
        page.wait_for_selector("#status[data-state=interrupted]")
        page.wait_for_selector("#turns .answer >> nth=2")
        page.wait_for_selector("#turns .answer:not(.in-progress) >> nth=2")
        if len(answers(page)) > 3:
            pytest.skip(
                "the browser played parts of the recording twice: the machine is too busy for its "
                "microphone"
            )
        first, second, third = answers(page)
        # The first one went on through the speech to somebody else.
        assert first[1] and ANSWERS[0].startswith(first[0]) and len(first[0].split()) > 4
        # The question with a pause got one answer.
        assert second == (ANSWERS[1], False) and third == (ANSWERS[2], False)
        page.wait_for_selector("#turns .heard:not(.in-progress) >> nth=2")
        kinds = page.eval_on_selector_all("#turns li", "all => all.map(i => i.classList[0])")
        assert kinds == ["heard", "answer"] * 3
        assert page.locator("#turns .heard span").all_inner_texts() == ["what was asked"] * 3
        assert page.locator("#slices tr").count() == 50
        # The browser has no voice here. The server spoke what was not interrupted.
        assert "paris" in spoken and ANSWERS[0].startswith(spoken[0])
        light = colours(page, "#timeline")
        # The three states and an answer.
        for colour in ((47, 138, 95), (226, 167, 46), (211, 217, 214), (216, 236, 223)):
            assert share(light, colour) > 0.001, colour
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(500)
        assert light.mean() > 200 and colours(page, "#timeline").mean() < 90
        page.keyboard.press("Escape")
        page.wait_for_selector("#status[data-state=idle]")
        assert page.inner_text("#talk") == "Start talking" and not wrong
        assert page.evaluate(level) == 0
        with page.expect_download() as download:
            page.click("#trace")
        assert download.value.suggested_filename.endswith(".jsonl")


def test_clips_sentences_and_a_second_clip_that_interrupts(browser, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    with (
        running_server(tmp_path, Limits(2)) as address,
        browsing(browser, address) as (page, wrong),
    ):
        page.click("text=how many legs does a spider have")
        page.wait_for_selector("#turns .answer.in-progress")
        page.fill("#text", "what is the capital of france")
        page.press("#text", "Enter")
        page.wait_for_selector("#turns .interrupted")
        assert page.locator("#turns .played span").all_inner_texts() == [
            "how many legs does a spider have",
            "what is the capital of france",
        ]
        assert page.inner_text("#talk") == "Stop" and not wrong


def test_what_was_not_caught_and_the_end_of_a_conversation_without_a_microphone(
    browser, tmp_path: Path
) -> None:
    talker = Talker()
    talker.question_s = 9.0
    with (
        running_server(tmp_path, Limits(2), talker, transcribe=Transcriber) as address,
        browsing(browser, address) as (page, wrong),
    ):
        page.route(
            "**/about",
            lambda route: route.fulfill(
                json={**route.fetch().json(), "not_understood": ANSWERS[1], "synthesiser": True}
            ),
        )
        with_patch(page, "talk.js", *LISTEN_BRIEFLY)
        page.uncheck("#voice")
        clip_is(page, QUESTION)
        page.click("[data-clip=question]")
        page.wait_for_selector("#status[data-state=missed]")
        assert page.inner_text("#status") == "I did not catch that"
        assert "I did not catch that" in page.inner_text("#turns .heard em")
        page.wait_for_selector("#turns .heard:not(.in-progress)")
        assert "I heard: what was asked" in page.text_content("#announced")
        page.wait_for_selector("#status[data-state=idle]")
        assert page.inner_text("#talk") == "Start talking"
        # The answer that says so counts too, once it is complete.
        talker.question_s = 0.7
        talker.state = TalkerState(answers=1)
        page.click("[data-clip=question]")
        page.wait_for_selector("#status[data-state=missed]")
        assert f"Answer: {ANSWERS[1]}" in page.text_content("#announced")
        assert page.locator("#turns .rule").count() == 1 and not wrong


NO_MICROPHONE = """navigator.mediaDevices.getUserMedia =
    async () => { throw new DOMException("none", "NotFoundError") };"""
NEVER_ANSWERED = "navigator.mediaDevices.getUserMedia = () => new Promise(() => {});"
LOST = """const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wish) => (window.stream = await open(wish));"""


def test_trouble_with_the_microphone_is_explained(browser, tmp_path: Path) -> None:
    with running_server(tmp_path, Limits(1)) as address:
        for script, state, advice in (
            ("", "refused", "Allow it"),
            (NO_MICROPHONE, "no-microphone", "Connect one"),
        ):
            with browsing(browser, address, script) as (page, wrong):
                page.click("#talk")
                page.wait_for_selector(f"#status[data-state={state}]")
                assert advice in page.inner_text("#notice")
                assert page.inner_text("#talk") == "Start talking" and not wrong
        with browsing(browser, address, NEVER_ANSWERED) as (page, wrong):
            page.click("#talk")
            page.wait_for_selector("#status[data-state=asking]")
            page.keyboard.press("Escape")
            page.wait_for_selector("#status[data-state=idle]")
            assert page.inner_text("#talk") == "Start talking" and not wrong
        with browsing(browser, address, LOST, permissions=["microphone"]) as (page, wrong):
            page.click("#talk")
            page.wait_for_selector("#status[data-state=listening]")
            page.evaluate("stream.getTracks()[0].dispatchEvent(new Event('ended'))")
            page.wait_for_selector("#status[data-state=idle]")
            assert "disconnected" in page.inner_text("#notice") and not wrong


BROWSER_VOICE = """
    window.spoken = [];
    const voices = [{ lang: "en-US", localService: true }, { lang: "en-US", localService: false }];
    Object.defineProperty(window, "speechSynthesis", { value: Object.assign(new EventTarget(), {
        getVoices: () => voices,
        speak: (utterance) => spoken.push(utterance),
        cancel: () => spoken.push("cancel"),
    }) });
    window.SpeechSynthesisUtterance = class { constructor(text) { this.text = text; } };
"""
SPEAK = """async () => {
    const { Voice } = await import("/voice.js");
    const voice = new Voice(null);
    const texts = () => spoken.splice(0).map((item) => item.text ?? item);
    const steps = [];
    voice.begin();
    voice.add("thir");
    voice.add("teen days");
    steps.push(texts());            // the second word may go on
    voice.add(" of");
    const first = spoken[0];
    steps.push(texts());
    voice.add(" may are");
    steps.push(texts());            // still speaking
    first.onboundary({ charIndex: 9 });
    voice.hold();
    voice.add(" over");
    steps.push(texts());
    voice.release();
    const second = spoken[0];
    steps.push(texts());
    voice.finish();
    second.onend();
    steps.push(texts());
    voice.add(" late");
    voice.begin();
    voice.stop();
    voice.add(" nothing");
    voice.finish();
    steps.push(texts());
    return steps;
}"""


def test_a_voice_of_the_browser_speaks_whole_words_and_yields(browser, tmp_path: Path) -> None:
    with (
        running_server(tmp_path, Limits(1)) as address,
        browsing(browser, address, BROWSER_VOICE) as (page, wrong),
    ):
        assert page.evaluate(SPEAK) == [
            [],
            ["thirteen days "],
            [],
            ["cancel"],
            ["days of may are "],
            ["over "],
            ["cancel"],
        ]
        # The page uses it too, until it is switched off.
        clip_is(page, QUESTION)
        page.click("[data-clip=question]")
        assert eventually(lambda: page.evaluate("spoken.length > 0"))
        assert page.evaluate("spoken[0].text") == "one two "
        page.focus("#voice")
        page.keyboard.press("Space")
        assert page.evaluate("spoken.splice(0).at(-1)") == "cancel"
        page.wait_for_selector("#turns .answer:has-text('five')")
        assert page.evaluate("spoken") == [] and not wrong


def test_speech_of_the_server_that_comes_late_is_dropped(browser, tmp_path: Path) -> None:
    script = """async () => {
        const { Voice } = await import("/voice.js");
        const begun = [];
        window.AudioBufferSourceNode = class {
            constructor(_, { buffer }) { this.buffer = buffer; }
            connect() {} start() { begun.push(this); } stop() { begun.push("stop"); }
        };
        const asked = [];
        const voice = new Voice(async (words) => { asked.push(words); });
        voice.hasServer = true;
        voice.context = { decodeAudioData: async () => ({ duration: 1 }), destination: null, currentTime: 0 };
        const now = performance.now.bind(performance);
        const settle = () => new Promise((resolve) => setTimeout(resolve, 20));
        voice.begin(); voice.add("one two three");
        performance.now = () => now() + 5000;   // while it is being synthesised
        await settle();
        const late = begun.length;
        voice.finish();
        await settle();
        voice.stop();
        return [asked, late, begun.length, begun.at(-1)];
    }"""
    with (
        running_server(tmp_path, Limits(1)) as address,
        browsing(browser, address) as (page, wrong),
    ):
        assert page.evaluate(script) == [["one two", "three"], 0, 2, "stop"] and not wrong


def test_the_page_shows_busy_and_gone_and_recovers(browser, tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
    assert port
    with running_server(tmp_path, Limits(1)) as address, browsing(browser, address) as (page, _):
        clip_is(page, QUESTION)
        with connected(address) as other:
            assert next_message(other)["type"] == "ready"
            page.click("[data-clip=question]")
            page.wait_for_selector("#status[data-state=busy]")
            assert page.inner_text("#notice").startswith("Busy: 1 of 1 conversations")
        page.route("**/about", lambda route: route.abort())
        page.reload()
        page.wait_for_selector("#status[data-state=gone]")
        assert "make serve" in page.inner_text("#notice")
        page.unroute("**/about")
        page.wait_for_selector("#status[data-state=idle]")
        assert not page.is_visible("#notice") and page.is_visible("#clips button")


def test_the_page_is_accessible_and_fits_a_telephone(browser, tmp_path: Path) -> None:
    with (
        running_server(tmp_path, Limits(1)) as address,
        browsing(browser, address, reduced_motion="reduce") as (page, wrong),
    ):
        tree = page.locator("body").aria_snapshot()
        for part in (
            'heading "DuplexMamba"',
            'button "Start talking"',
            'meter "Level of your voice"',
            'switch "Speak the answers" [checked]',
            'group "What to ask"',
            'button "what is the capital of france"',
            'button "Talking to somebody else"',
            'meter "response"',
            'textbox "A sentence to be spoken"',
            'img "Timeline',
        ):
            assert part in tree, tree
        order = []
        for _ in range(3):
            page.keyboard.press("Tab")
            order.append(
                page.evaluate("document.activeElement.id || document.activeElement.dataset.clip")
            )
        # The conversation is still empty.
        assert order[:3] == ["talk", "voice", "what_is_the_capital_of_france"]
        page.set_viewport_size({"width": 360, "height": 740})
        clip_is(page, QUESTION)
        page.click("[data-clip=question]")
        page.wait_for_selector("#turns .answer.in-progress")
        for width in (360, 320):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        # The clip's button is far down, and the conversation above it.
        assert page.evaluate("document.getElementById('status').getBoundingClientRect().top") > 0
        page.wait_for_timeout(800)
        assert page.inner_text("#state-announced") == "Answering" and not wrong


@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 16_000, 8_000])
def test_resampling_equals_that_of_a_library(browser, tmp_path: Path, rate_hz: int) -> None:
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
    with running_server(tmp_path, Limits(1)) as address, browsing(browser, address) as (page, _):
        found = np.array(page.evaluate(script, [(noise + high).tolist(), rate_hz, [128]]))
    expected = soxr.resample(noise, rate_hz, 16_000)[: len(found)]
    assert 0.95 * len(noise) * 16_000 / rate_hz < len(found) <= len(noise) * 16_000 / rate_hz + 1
    inner = slice(200, -200)
    assert np.abs(found - expected)[inner].max() < 0.01 * np.abs(expected).max()


HEARD = """async () => {
    const { Turns } = await import("/turns.js");
    const said = [];
    const list = document.createElement("ol");
    const turns = new Turns(list, (text) => said.push(text));
    const answer = (slice, atS, answering, text = "yes", action = "respond") =>
        turns.addSlice({ slice, action, text, answering, time_s: atS });
    const hear = (startS, slice, answered, text, final) =>
        turns.addHeard({ start_s: startS, slice, answered, text, final });
    turns.begin();
    const missed = [
        hear(1, null, null, "", false),
        hear(1, null, null, "what", false),
    ];
    answer(9, 2, false);
    missed.push(hear(1, 9, true, "what", false));
    const early = said.slice();
    missed.push(hear(1, 9, true, "what is it", true));
    // Without live text, and decided at once.
    answer(20, 4, true);
    missed.push(hear(3.5, 20, true, "", false), hear(3.5, 20, true, "", true));
    // An aside during the answer, which ends before the text of the aside is there.
    answer(25, 5, true, "", "drop");
    missed.push(hear(4.5, 25, false, "", false));
    answer(26, 5.2, false, " no", "listen");
    missed.push(hear(4.5, 25, false, "look there", true));
    // Nobody takes any notice; the next question comes before the text.
    missed.push(hear(6, 35, false, "", false));
    answer(50, 10, false);
    missed.push(hear(6, 35, false, "blah", true));
    const lines = [...list.children].map((item) => [...item.children].map((part) => part.textContent).join(" "));
    return [missed, early, said, lines];
}"""


def test_text_that_comes_late_stays_with_its_speech_and_is_read_before_the_answer(
    browser, tmp_path: Path
) -> None:
    with (
        running_server(tmp_path, Limits(1)) as address,
        browsing(browser, address) as (page, wrong),
    ):
        missed, early, said, lines = page.evaluate(HEARD)
    assert [at for at, was_missed in enumerate(missed) if was_missed] == [8] and early == []
    assert said == [
        "You: what is it",
        "Answer: yes",
        "You: (speech)",
        "You: look there",
        "Answer: yes no",
        "I did not catch that. I heard: blah",
        "Answer: yes",
    ]
    assert lines == [
        "You: 1.0 s what is it",
        "Answer: 2.0 s yes",
        "You: 3.5 s (speech)",
        "Answer: 4.0 s yes no",
        "You: 4.5 s look there not for me",
        "You: 6.0 s blah I did not catch that. If it was for me, ask again or in other words.",
        "Answer: 10.0 s yes",
    ]
    assert not wrong


GATE = """async () => {
    const { EchoGate } = await import("/echo.js");
    const gate = new EchoGate();
    const passes = (db, speaking, chunks) => {
        let passed = 0;
        for (let i = 0; i < chunks; i++) {
            const samples = new Int16Array([1000]);
            gate.push(samples, db, speaking);
            passed += samples[0] === 1000;
        }
        return passed;
    };
    const found = [passes(-50, true, 9)];  // no question yet: nothing is known of the user
    gate.hearing = true;
    found.push(passes(-20, false, 20));    // the question
    gate.hearing = false;
    found.push(passes(-50, true, 20));     // echo of the answer, after the end of the question
    found.push(passes(-25, true, 5));      // an interruption
    found.push(passes(-45, true, 12));     // its soft parts
    found.push(passes(-45, false, 20));    // echo after the voice, then the user's own silence
    gate.clear();
    return [...found, passes(-50, true, 9)];
}"""


def test_the_pages_own_voice_is_kept_from_the_model(browser, tmp_path: Path) -> None:
    with (
        running_server(tmp_path, Limits(1)) as address,
        browsing(browser, address) as (page, wrong),
    ):
        assert page.evaluate(GATE) == [9, 20, 11, 5, 11, 13, 9] and not wrong


CONTRASTS = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = colour.slice(0, 3).map((value) => value / 255)
            .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const opaque = (colour) => colour.length === 3 || colour[3] === 1;
    const behind = (element) => {
        const colour = parse(getComputedStyle(element).backgroundColor);
        return opaque(colour) ? colour : behind(element.parentElement);
    };
    const contrast = (element, pseudo) => {
        const [a, b] = [parse(getComputedStyle(element, pseudo).color), behind(element)].map(light);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const texts = [...document.body.querySelectorAll("*")].filter((e) => hasText(e) && e.checkVisibility());
    const found = texts.map((e) => [`${e.tagName} ${e.textContent.slice(0, 20)}`, contrast(e)]);
    found.push(["placeholder", contrast(document.getElementById("text"), "::placeholder")]);
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_background(browser, tmp_path: Path, scheme: str) -> None:
    with (
        running_server(tmp_path, Limits(1), transcribe=Transcriber) as address,
        browsing(browser, address, color_scheme=scheme, reduced_motion="reduce") as (page, wrong),
    ):
        page.click("#talk")  # without permission
        page.wait_for_selector("#status[data-state=refused]")
        refused = page.evaluate(CONTRASTS)
        clip_is(page, tones((0, 0.5), (LOW_HZ, 1), (0, 2.5), (LOW_HZ, 1), (0, 3)))
        page.uncheck("#voice")
        page.click("[data-clip=question]")
        page.wait_for_selector("#turns .interrupted")
        page.wait_for_selector("#turns .heard:not(.in-progress) >> nth=1")
        talked = page.evaluate(CONTRASTS)
    names = " ".join(name for name, _ in refused + talked)
    for part in ("This page may not", "What to ask", "interrupted", "one two", "what was asked"):
        assert part in names, names
    low = [(name, ratio) for name, ratio in refused + talked if ratio < 4.5]
    assert not low and not wrong
