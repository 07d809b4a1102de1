// The state of the page: one word for the eye, and a calmer version of it for screen readers.

const TEXTS = {
  idle: "Ready",
  asking: "Asking for the microphone …",
  connecting: "Connecting …",
  listening: "Listening",
  hearing: "Hearing you",
  answering: "Answering",
  interrupted: "Interrupted: answering anew",
  missed: "I did not catch that",
  refused: "Microphone refused",
  "no-microphone": "No microphone",
  busy: "Server full",
  gone: "Connection lost",
};
const HELD_MS = { interrupted: 2000, missed: 4000 }; // for which a state stays although the next one is less urgent
const URGENT = ["idle", "hearing", "busy", "gone", "missed", "interrupted"];
const ANNOUNCE_AFTER_MS = 700; // states change several times a second; only those that last are announced

export class State {
  constructor(element, announced) {
    this.element = element;
    this.announced = announced;
    this.current = "idle";
    this.heldUntil = 0;
  }

  show(state) {
    const held = performance.now() < this.heldUntil && !URGENT.includes(state);
    if (state === this.current || held) return;
    this.current = state;
    this.heldUntil = performance.now() + (HELD_MS[state] ?? 0);
    this.element.dataset.state = state;
    this.element.textContent = TEXTS[state];
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.announced.textContent = TEXTS[state]), ANNOUNCE_AFTER_MS);
  }
}
