// The page: its controls, and the display of the server's messages.

import { Connection, VERSION } from "./connection.js";
import { EchoGate } from "./echo.js";
import { Level, levelDb } from "./level.js";
import { Sound } from "./sound.js";
import { State } from "./state.js";
import { Timeline } from "./timeline.js";
import { Turns } from "./turns.js";
import { Voice } from "./voice.js";

const byId = (id) => document.getElementById(id);
const MAX_TABLE_ROWS = 50;
const MAX_ANNOUNCED = 10;
const RECONNECT_MS = 3000;
const ANSWER_WITHIN_S = 8; // after a clip without a microphone; then the conversation is over
const CANCELLED = Object.assign(new Error("cancelled"), { shown: true });
const MICROPHONE_ADVICE = {
  NotAllowedError: "This page may not use the microphone. Allow it beside the address, and start again.",
  NotFoundError: "There is no microphone. Connect one, and start again.",
  NotReadableError: "Another program uses the microphone. Close it, and start again.",
};

const state = new State(byId("status"), byId("state-announced"));
const level = new Level(byId("level"), (silent) => showNotice(silent ? "No sound comes from the microphone. Is it muted?" : ""));
const turns = new Turns(byId("turns"), announce);
const timeline = new Timeline(byId("timeline"));
const voice = new Voice(synthesise);
const echo = new EchoGate();
let about = null;
let connection = null;
let sound = null;
let starting = null;
let quietSinceS = 0;
let latencies = [];

function showNotice(text = "") {
  byId("notice").hidden = !text;
  byId("notice").textContent = text;
}

// A line of its own: two that follow each other closely are both read.
function announce(text) {
  byId("announced").append(Object.assign(document.createElement("p"), { textContent: text }));
  if (byId("announced").children.length > MAX_ANNOUNCED) byId("announced").firstElementChild.remove();
}

function updateControls() {
  const label = starting ? "Cancel" : !connection ? "Start talking" : sound?.stream ? "Stop talking" : "Stop";
  byId("talk-label").textContent = label;
  byId("talk").classList.toggle("live", Boolean(starting || connection));
  const noVoice = about && !voice.available;
  byId("voice").disabled = noVoice;
  byId("voice-label").textContent = noVoice ? "Speak the answers (no voice is installed)" : "Speak the answers";
}

// ---- a conversation

// Resolves when a conversation accepts audio; starts one if there is none.
function ensureConversation(withMicrophone) {
  if (starting) return starting;
  if (connection) return Promise.resolve();
  const start = startConversation(withMicrophone, () => starting !== start).finally(() => {
    if (starting === start) starting = null;
    updateControls();
  });
  starting = start;
  updateControls();
  return start;
}

// cancelled(): whether the user has given up while the browser was asking for permission.
async function startConversation(withMicrophone, cancelled) {
  showNotice();
  state.show("connecting");
  about ??= await fetchAbout();
  if (about.version !== VERSION) throw new Error("This page is older than its server: reload it.");
  const opened = await Sound.open(about.rate_hz, sendAudio);
  if (!cancelled()) {
    sound = opened;
    // Before the connection: the server does not wait while somebody is asked for permission.
    if (withMicrophone) await startMicrophone(cancelled);
  }
  if (cancelled()) {
    opened.close();
    throw CANCELLED;
  }
  state.show("connecting");
  voice.context = opened.context;
  await new Promise((resolve, reject) => {
    connection = new Connection(about.rate_hz, {
      ready: (fields) => resolve(ready(fields)),
      slice,
      heard,
      end: (reason) => reject(end(reason)),
    });
  });
}

async function startMicrophone(cancelled) {
  state.show("asking");
  try {
    await sound.useMicrophone(() => stop("The microphone has been disconnected."));
  } catch (error) {
    if (cancelled()) throw CANCELLED;
    const advice = MICROPHONE_ADVICE[error.name] ?? `The microphone does not work: ${error.message}.`;
    const found = error.name === "NotAllowedError" ? "refused" : "no-microphone";
    throw Object.assign(new Error(`${advice} What is below works without one.`), { state: found });
  }
}

function ready({ conversation, slice_s: sliceS, rate_hz: rateHz }) {
  turns.begin();
  byId("slices").replaceChildren();
  latencies = [];
  quietSinceS = 0;
  level.clear();
  echo.clear();
  timeline.clear(sliceS, rateHz);
  timeline.begin();
  byId("downloads").hidden = false;
  byId("trace").href = `conversations/${conversation}.jsonl`;
  byId("sound").href = `conversations/${conversation}.wav`;
  state.show("listening");
}

function sendAudio(samples) {
  if (!timeline.live || !connection) return;
  const fromMicrophone = Boolean(sound.stream && !sound.clip);
  const db = levelDb(samples);
  if (fromMicrophone) echo.push(samples, db, voice.speaking);
  connection.send(samples);
  timeline.addAudio(samples);
  level.push(db, fromMicrophone);
}

function slice(event) {
  const news = turns.addSlice(event);
  timeline.addSlice(event);
  echo.hearing = event.state === "incomplete";
  speak(event);
  state.show(news || stateOf(event));
  showProbabilities(event);
  showLatency(event.latency_ms);
  addTableRow(event);
  endIfQuiet(event);
}

function stateOf({ action, state: turnState, answering, paused }) {
  if (action === "respond") return "answering";
  if (paused) return "hearing";
  // While it answers, what else it hears is shown below only.
  if (answering) return "answering";
  if (turnState === "incomplete") return "hearing";
  return voice.speaking ? "answering" : "listening";
}

// The voice yields as soon as somebody speaks to the model, and goes on if that was not for it.
function speak({ action, state: turnState, text, answering, paused }) {
  if (action === "respond") voice.begin();
  else if (paused || turnState === "incomplete") voice.hold();
  else voice.release();
  voice.add(text);
  if (!answering) voice.finish();
}

function heard(fields) {
  if (turns.addHeard(fields)) state.show("missed");
}

// A conversation without a microphone ends by itself.
function endIfQuiet({ state: turnState, answering, time_s: atS }) {
  const active = sound?.stream || sound?.clip || answering || voice.speaking || turnState === "incomplete";
  if (active) quietSinceS = atS;
  if (atS - quietSinceS > ANSWER_WITHIN_S) stop();
}

function showProbabilities(event) {
  for (const meter of byId("meters").children) {
    const percent = Math.round(100 * (event.probabilities[meter.dataset.state] ?? 0));
    meter.classList.toggle("current", meter.dataset.state === event.state);
    meter.querySelector("[role=meter]").ariaValueNow = percent;
    meter.querySelector("i").style.width = `${percent}%`;
    meter.querySelector("output").textContent = `${percent} %`;
  }
}

function showLatency(latencyMs) {
  latencies = [...latencies, latencyMs].slice(-150);
  const medianMs = latencies.toSorted((a, b) => a - b)[latencies.length >> 1];
  byId("latency").textContent = `latency of a slice ${latencyMs.toFixed(0)} ms, median ${medianMs.toFixed(0)} ms`;
}

function addTableRow({ time_s: atS, probabilities: shares, action, text, compute_ms: computeMs, latency_ms: latencyMs }) {
  const percent = (name) => (name in shares ? `${Math.round(100 * shares[name])} %` : "–");
  const cells = [
    atS.toFixed(1), percent("response"), percent("incomplete"), percent("ignore"), action, text.trim(),
    computeMs.toFixed(1), latencyMs.toFixed(1),
  ];
  const row = byId("slices").insertRow(0);
  for (const cell of cells) row.insertCell().textContent = cell;
  if (byId("slices").rows.length > MAX_TABLE_ROWS) byId("slices").deleteRow(-1);
}

// The user ends the conversation, or what is about to become one.
function stop(message = "") {
  if (connection) return connection.close({ reason: "closed", message });
  starting = null;
  stopSound();
  state.show("idle");
}

// Returns an error with the reason, already shown on the page.
function end({ reason, message }) {
  connection = null;
  timeline.end();
  turns.end();
  stopSound();
  const advice = reason === "gone" ? " Is it running (make serve)? This page will notice when it is back." : "";
  showNotice(message && `${message[0].toUpperCase()}${message.slice(1)}${advice}`);
  state.show(reason === "busy" || reason === "gone" ? reason : "idle");
  if (reason === "gone") setTimeout(reconnect, RECONNECT_MS);
  return Object.assign(new Error(message), { shown: true });
}

async function stopSound() {
  const old = sound;
  sound = null;
  voice.stop();
  level.clear();
  updateControls();
  for (const button of document.querySelectorAll("[data-clip]")) button.classList.remove("playing");
  await old?.close();
}

// ---- the server

async function request(address, options) {
  const response = await fetch(address, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    const message = "The server does not answer. Is it running (make serve)? This page will notice when it is back.";
    throw Object.assign(new Error(message), { state: "gone" });
  });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

const fetchAbout = async () => (await request("about")).json();

async function synthesise(words, signal) {
  const response = await request("speak?voice=model", { method: "POST", body: words, signal });
  return response.arrayBuffer();
}

// Poll until the server is back.
async function reconnect() {
  if (state.current !== "gone") return;
  about = await fetchAbout().catch(() => null);
  if (!about) return void setTimeout(reconnect, RECONNECT_MS);
  describe(about);
  showNotice();
  state.show("idle");
}

// ---- the user's actions

// Run an action and show its error.
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (error.shown) return;
    showNotice(error.message);
    if (connection) return;
    state.show(error.state ?? "idle");
    if (error.state === "gone") setTimeout(reconnect, RECONNECT_MS);
    await stopSound();
  }
}

async function play(text, address, options) {
  byId("talk").scrollIntoView({ block: "nearest" }); // on a phone the conversation is out of sight here
  const file = await (await request(address, options)).arrayBuffer();
  await ensureConversation(false);
  turns.addClip(text, timeline.sentS);
  await sound.play(file);
}

byId("talk").addEventListener("click", () => {
  if (connection || starting) return stop();
  return attempt(() => ensureConversation(true));
});

document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && (connection || starting)) stop();
});

byId("voice").addEventListener("change", () => {
  voice.enabled = byId("voice").checked;
  voice.stop();
});

byId("sentence").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text) return;
  byId("text").value = "";
  attempt(() => play(text, "speak", { method: "POST", body: text }));
});

function addClipButton(list, { name, title, text }) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: title, title: text });
  button.dataset.clip = name;
  button.addEventListener("click", () =>
    attempt(async () => {
      for (const other of document.querySelectorAll("[data-clip]")) other.classList.toggle("playing", other === button);
      await play(text, `clips/${name}.wav`).finally(() => button.classList.remove("playing"));
    }),
  );
  list.append(button);
}

// Show what the server offers.
function describe({ run, text_letters: letters, clips, examples, synthesiser, not_understood: notUnderstood }) {
  byId("run").textContent = `${run} · it listens while it answers`;
  byId("text").maxLength = letters;
  byId("asking").hidden = false;
  turns.notUnderstood = notUnderstood;
  voice.hasServer = synthesiser;
  byId("examples").replaceChildren();
  byId("clips").replaceChildren();
  examples.forEach((clip) => addClipButton(byId("examples"), clip));
  clips.forEach((clip) => addClipButton(byId("clips"), clip));
  if (!synthesiser) {
    byId("ask-advice").textContent =
      "It knows questions and orders like these. Say one. (Playing them needs the server's synthesiser: pip install '.[tts]')";
    for (const control of document.querySelectorAll("[data-clip], #sentence *")) control.disabled = true;
  }
  updateControls();
}

// Browsers may load their voices late.
globalThis.speechSynthesis?.addEventListener("voiceschanged", updateControls);
attempt(async () => describe((about = await fetchAbout())));
