// The page: its buttons, and where what comes from the server goes.

import { Connection, VERSION } from "./connection.js";
import { Sound } from "./sound.js";
import { Timeline } from "./timeline.js";
import { Turns } from "./turns.js";

const by = (id) => document.getElementById(id);
const WORDS = {
  idle: "Ready", connecting: "Connecting …", listening: "Listening", hearing: "Hears you", answering: "Answering",
  busy: "Busy", gone: "Server gone",
};
const ROWS_KEPT = 50;
const LOOK_AGAIN_MS = 3000;

const turns = new Turns(by("turns"), by("announced"));
const timeline = new Timeline(by("timeline"));
let about = null;
let connection = null;
let sound = null;
let beginning = null;
let latencies = [];

function show(state) {
  by("status").dataset.state = state;
  if (by("status").textContent !== WORDS[state]) by("status").textContent = WORDS[state];
}

function notice(text = "") {
  by("notice").hidden = !text;
  by("notice").textContent = text;
}

function buttons() {
  const live = connection !== null;
  by("talk").textContent = live ? "Hang up" : "Start talking";
  by("talk").classList.toggle("live", live);
  by("microphone").hidden = !live;
  by("microphone").setAttribute("aria-pressed", String(Boolean(sound?.stream)));
  by("microphone").textContent = sound?.stream ? "Microphone is on" : "Microphone is off";
}

// ---- a conversation

// One that is open for sound; begins it where there is none.
function converse() {
  if (connection && !beginning) return Promise.resolve();
  return (beginning ??= begin().finally(() => (beginning = null)));
}

async function begin() {
  notice();
  show("connecting");
  about ??= await look();
  if (about.version !== VERSION) throw new Error("This page is older than its server: reload it.");
  sound = await Sound.open(about.rate_hz, hear);
  try {
    await new Promise((resolve, reject) => {
      connection = new Connection(about.rate_hz, { ready: (facts) => resolve(ready(facts)), slice, end: (why) => reject(end(why)) });
    });
  } catch (error) {
    await stopSound();
    throw error;
  }
}

function ready({ conversation, slice_s: sliceS, rate_hz: rateHz }) {
  turns.clear();
  by("slices").replaceChildren();
  latencies = [];
  timeline.clear(sliceS, rateHz);
  timeline.begin();
  by("downloads").hidden = false;
  by("trace").href = `conversations/${conversation}.jsonl`;
  by("sound").href = `conversations/${conversation}.wav`;
  show("listening");
  buttons();
}

function hear(samples) {
  if (!timeline.live || !connection) return;
  connection.send(samples);
  timeline.hear(samples);
}

function slice(event) {
  turns.take(event);
  timeline.take(event);
  show(event.answering ? "answering" : event.state === "incomplete" ? "hearing" : "listening");
  for (const meter of by("meters").children) {
    const percent = Math.round(100 * (event.probabilities[meter.dataset.state] ?? 0));
    meter.classList.toggle("now", meter.dataset.state === event.state);
    meter.querySelector("[role=meter]").ariaValueNow = percent;
    meter.querySelector("i").style.width = `${percent}%`;
    meter.querySelector("output").textContent = `${percent} %`;
  }
  latencies = [...latencies, event.latency_ms].slice(-150);
  const middle = latencies.toSorted((a, b) => a - b)[latencies.length >> 1];
  by("latency").textContent = `latency of a slice ${event.latency_ms.toFixed(0)} ms, median ${middle.toFixed(0)} ms`;
  row(event);
}

function row({ time_s: atS, probabilities: shares, action, text, compute_ms: computeMs, latency_ms: latencyMs }) {
  const percent = (state) => (state in shares ? `${Math.round(100 * shares[state])} %` : "–");
  const cells = [
    atS.toFixed(1), percent("response"), percent("incomplete"), percent("ignore"), action, text.trim(),
    computeMs.toFixed(1), latencyMs.toFixed(1),
  ];
  const line = by("slices").insertRow(0);
  for (const cell of cells) line.insertCell().textContent = cell;
  if (by("slices").rows.length > ROWS_KEPT) by("slices").deleteRow(-1);
}

// What there is to say about it is returned as an error.
function end({ reason, message }) {
  connection = null;
  timeline.end();
  turns.stop("ended");
  stopSound();
  const state = reason === "busy" || reason === "gone" ? reason : "idle";
  const advice = reason === "gone" ? " Start it again with make serve; this page will notice." : "";
  if (reason !== "closed") notice(`${message[0].toUpperCase()}${message.slice(1)}${advice}`);
  show(state);
  if (reason === "gone") setTimeout(lookAgain, LOOK_AGAIN_MS);
  return Object.assign(new Error(message), { told: true });
}

async function stopSound() {
  const old = sound;
  sound = null;
  buttons();
  for (const button of by("clips").children) button.classList.remove("playing");
  await old?.close();
}

// ---- the server

async function ask(address, options) {
  const answer = await fetch(address, options).catch(() => {
    throw Object.assign(new Error("The server is gone. Start it again with make serve."), { gone: true });
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

const look = async () => (await ask("about")).json();

async function lookAgain() {
  if (by("status").dataset.state !== "gone") return;
  about = await look().catch(() => null);
  if (!about) return void setTimeout(lookAgain, LOOK_AGAIN_MS);
  notice();
  show("idle");
}

// ---- what people do

// Run it, and say what goes wrong.
async function attempt(deed) {
  try {
    await deed();
  } catch (error) {
    if (error.told) return;
    notice(error.message);
    if (connection) return;
    show(error.gone ? "gone" : "idle");
    if (error.gone) setTimeout(lookAgain, LOOK_AGAIN_MS);
    await stopSound();
  }
}

async function listen() {
  try {
    await sound.useMicrophone();
  } catch (error) {
    throw new Error(`No microphone: ${error.message}. The clips and the sentence below work without one.`);
  } finally {
    buttons();
  }
}

async function play(text, address, options) {
  const file = await (await ask(address, options)).arrayBuffer();
  await converse();
  turns.said(text, timeline.heardS);
  await sound.play(file);
}

by("talk").addEventListener("click", () => {
  if (connection) return connection.close();
  return attempt(async () => {
    await converse();
    await listen();
  });
});

by("microphone").addEventListener("click", () =>
  attempt(async () => {
    if (!sound.stream) return listen();
    sound.dropMicrophone();
    buttons();
  }),
);

by("sentence").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = by("text").value.trim();
  if (!text) return;
  by("text").value = "";
  attempt(() => play(text, "speak", { method: "POST", body: text }));
});

function offer({ name, title, text }) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: title, title: text });
  button.dataset.clip = name;
  button.addEventListener("click", () =>
    attempt(async () => {
      for (const other of by("clips").children) other.classList.toggle("playing", other === button);
      await play(text, `clips/${name}.wav`).finally(() => button.classList.remove("playing"));
    }),
  );
  by("clips").append(button);
}

attempt(async () => {
  const { run, text_letters: letters, clips } = (about = await look());
  by("run").textContent = `${run} · it listens while it answers`;
  by("text").maxLength = letters;
  clips.forEach(offer);
});
