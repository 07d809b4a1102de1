// The page: its buttons, and the display of the server's messages.

import { Connection, VERSION } from "./connection.js";
import { Sound } from "./sound.js";
import { Timeline } from "./timeline.js";
import { Turns } from "./turns.js";

const byId = (id) => document.getElementById(id);
const STATUS_TEXTS = {
  idle: "Ready", connecting: "Connecting …", listening: "Listening", hearing: "Hears you", answering: "Answering",
  busy: "Busy", gone: "Server gone",
};
const MAX_TABLE_ROWS = 50;
const RECONNECT_MS = 3000;

const turns = new Turns(byId("turns"), byId("announced"));
const timeline = new Timeline(byId("timeline"));
let about = null;
let connection = null;
let sound = null;
let starting = null;
let latencies = [];

function showStatus(state) {
  byId("status").dataset.state = state;
  if (byId("status").textContent !== STATUS_TEXTS[state]) byId("status").textContent = STATUS_TEXTS[state];
}

function showNotice(text = "") {
  byId("notice").hidden = !text;
  byId("notice").textContent = text;
}

function updateButtons() {
  const live = connection !== null;
  byId("talk").textContent = live ? "Hang up" : "Start talking";
  byId("talk").classList.toggle("live", live);
  byId("microphone").hidden = !live;
  byId("microphone").setAttribute("aria-pressed", String(Boolean(sound?.stream)));
  byId("microphone").textContent = sound?.stream ? "Microphone is on" : "Microphone is off";
}

// ---- a conversation

// Resolves when a conversation accepts audio; starts one if there is none.
function ensureConversation() {
  if (connection && !starting) return Promise.resolve();
  return (starting ??= startConversation().finally(() => (starting = null)));
}

async function startConversation() {
  showNotice();
  showStatus("connecting");
  about ??= await fetchAbout();
  if (about.version !== VERSION) throw new Error("This page is older than its server: reload it.");
  sound = await Sound.open(about.rate_hz, sendAudio);
  try {
    await new Promise((resolve, reject) => {
      connection = new Connection(about.rate_hz, {
        ready: (fields) => resolve(ready(fields)),
        slice,
        end: (reason) => reject(end(reason)),
      });
    });
  } catch (error) {
    await stopSound();
    throw error;
  }
}

function ready({ conversation, slice_s: sliceS, rate_hz: rateHz }) {
  turns.clear();
  byId("slices").replaceChildren();
  latencies = [];
  timeline.clear(sliceS, rateHz);
  timeline.begin();
  byId("downloads").hidden = false;
  byId("trace").href = `conversations/${conversation}.jsonl`;
  byId("sound").href = `conversations/${conversation}.wav`;
  showStatus("listening");
  updateButtons();
}

function sendAudio(samples) {
  if (!timeline.live || !connection) return;
  connection.send(samples);
  timeline.addAudio(samples);
}

function slice(event) {
  turns.addSlice(event);
  timeline.addSlice(event);
  showStatus(event.answering ? "answering" : event.state === "incomplete" ? "hearing" : "listening");
  for (const meter of byId("meters").children) {
    const percent = Math.round(100 * (event.probabilities[meter.dataset.state] ?? 0));
    meter.classList.toggle("current", meter.dataset.state === event.state);
    meter.querySelector("[role=meter]").ariaValueNow = percent;
    meter.querySelector("i").style.width = `${percent}%`;
    meter.querySelector("output").textContent = `${percent} %`;
  }
  latencies = [...latencies, event.latency_ms].slice(-150);
  const medianMs = latencies.toSorted((a, b) => a - b)[latencies.length >> 1];
  byId("latency").textContent = `latency of a slice ${event.latency_ms.toFixed(0)} ms, median ${medianMs.toFixed(0)} ms`;
  addTableRow(event);
}

function addTableRow({ time_s: atS, probabilities: shares, action, text, compute_ms: computeMs, latency_ms: latencyMs }) {
  const percent = (state) => (state in shares ? `${Math.round(100 * shares[state])} %` : "–");
  const cells = [
    atS.toFixed(1), percent("response"), percent("incomplete"), percent("ignore"), action, text.trim(),
    computeMs.toFixed(1), latencyMs.toFixed(1),
  ];
  const row = byId("slices").insertRow(0);
  for (const cell of cells) row.insertCell().textContent = cell;
  if (byId("slices").rows.length > MAX_TABLE_ROWS) byId("slices").deleteRow(-1);
}

// Returns an error with the reason, already shown on the page.
function end({ reason, message }) {
  connection = null;
  timeline.end();
  turns.stop("ended");
  stopSound();
  const state = reason === "busy" || reason === "gone" ? reason : "idle";
  const advice = reason === "gone" ? " Start it again with make serve; this page will notice." : "";
  if (reason !== "closed") showNotice(`${message[0].toUpperCase()}${message.slice(1)}${advice}`);
  showStatus(state);
  if (reason === "gone") setTimeout(reconnect, RECONNECT_MS);
  return Object.assign(new Error(message), { shown: true });
}

async function stopSound() {
  const old = sound;
  sound = null;
  updateButtons();
  for (const button of byId("clips").children) button.classList.remove("playing");
  await old?.close();
}

// ---- the server

async function request(address, options) {
  const response = await fetch(address, options).catch(() => {
    throw Object.assign(new Error("The server is gone. Start it again with make serve."), { gone: true });
  });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

const fetchAbout = async () => (await request("about")).json();

// Poll until the server is back.
async function reconnect() {
  if (byId("status").dataset.state !== "gone") return;
  about = await fetchAbout().catch(() => null);
  if (!about) return void setTimeout(reconnect, RECONNECT_MS);
  showNotice();
  showStatus("idle");
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
    showStatus(error.gone ? "gone" : "idle");
    if (error.gone) setTimeout(reconnect, RECONNECT_MS);
    await stopSound();
  }
}

async function startMicrophone() {
  try {
    await sound.useMicrophone();
  } catch (error) {
    throw new Error(`No microphone: ${error.message}. The clips and the sentence below work without one.`);
  } finally {
    updateButtons();
  }
}

async function play(text, address, options) {
  const file = await (await request(address, options)).arrayBuffer();
  await ensureConversation();
  turns.addClip(text, timeline.sentS);
  await sound.play(file);
}

byId("talk").addEventListener("click", () => {
  if (connection) return connection.close();
  return attempt(async () => {
    await ensureConversation();
    await startMicrophone();
  });
});

byId("microphone").addEventListener("click", () =>
  attempt(async () => {
    if (!sound.stream) return startMicrophone();
    sound.dropMicrophone();
    updateButtons();
  }),
);

byId("sentence").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text) return;
  byId("text").value = "";
  attempt(() => play(text, "speak", { method: "POST", body: text }));
});

function addClipButton({ name, title, text }) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: title, title: text });
  button.dataset.clip = name;
  button.addEventListener("click", () =>
    attempt(async () => {
      for (const other of byId("clips").children) other.classList.toggle("playing", other === button);
      await play(text, `clips/${name}.wav`).finally(() => button.classList.remove("playing"));
    }),
  );
  byId("clips").append(button);
}

attempt(async () => {
  const { run, text_letters: letters, clips } = (about = await fetchAbout());
  byId("run").textContent = `${run} · it listens while it answers`;
  byId("text").maxLength = letters;
  clips.forEach(addClipButton);
});
