// Moving timeline of the last seconds of a conversation, with the rows of `make timeline`.

const ROWS = { sound: 44, states: 64, listens: 40, answers: 60, ms: 40 };
const GAP = 6; // pixels between rows
const PIXELS_PER_S = 64;
const NARROW = 500; // pixels, below which a second is shorter
const COLOURS = ["ink", "quiet", "line", "response", "incomplete", "ignore", "answer", "compute"];
const HISTORY_S = 60;
const LINE_HEIGHT = 14; // pixels between lines of words, which alternate between three lines
const BRANCH_COLOURS = { respond: "response", listen: "incomplete", drop: "ignore" };
const STATES = ["response", "incomplete", "ignore"];

export class Timeline {
  constructor(canvas) {
    this.canvas = canvas;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.colours = {};
    this.clear(0.2, 16000);
    this.paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  clear(sliceS, rateHz) {
    Object.assign(this, { sliceS, rateHz, sentS: 0, sentAt: 0, live: false });
    Object.assign(this, { peaks: [], slices: [], branches: [], answers: [] });
    this.draw();
  }

  begin() {
    this.live = true;
    if (!this.still.matches) requestAnimationFrame(() => this.move());
  }

  end() {
    this.live = false;
    this.draw();
  }

  move() {
    if (!this.live) return;
    this.draw();
    requestAnimationFrame(() => this.move());
  }

  // A chunk of audio that was sent to the server.
  addAudio(samples) {
    const peak = samples.reduce((max, value) => Math.max(max, Math.abs(value)), 0) / 32768;
    this.peaks.push({ atS: this.sentS, peak });
    this.sentS += samples.length / this.rateHz;
    this.sentAt = performance.now();
  }

  addSlice(event) {
    const fromS = event.time_s - this.sliceS;
    this.slices.push({ ...event, fromS });
    const branch = this.branches.at(-1);
    // A branch continues until an action other than `listen` ends it.
    if (branch?.action === "listen") Object.assign(branch, { toS: event.time_s, action: event.action });
    else this.branches.push({ fromS, toS: event.time_s, action: event.action });
    this.addText(event);
    this.forget(event.time_s - HISTORY_S);
    if (this.still.matches) this.draw();
  }

  addText({ action, text, answering, time_s: toS }) {
    let last = this.answers.at(-1);
    if (action === "respond") {
      if (last?.inProgress) Object.assign(last, { inProgress: false, interrupted: true });
      last = { fromS: toS, toS, words: [], inProgress: true, interrupted: false };
      this.answers.push(last);
    }
    if (!last?.inProgress) return;
    if (text && !text.startsWith(" ") && last.words.length) last.words.at(-1).text += text; // continues the last word
    else if (text.trim()) last.words.push({ atS: toS, text: text.trim() });
    Object.assign(last, { toS: toS + this.sliceS, inProgress: answering });
  }

  forget(beforeS) {
    const later = (end) => (item) => item[end] > beforeS;
    this.peaks = this.peaks.filter(later("atS"));
    this.slices = this.slices.filter(later("time_s"));
    for (const name of ["branches", "answers"]) this[name] = this[name].filter(later("toS"));
  }

  // Read the colours of the style sheet, which depend on the colour scheme.
  paint() {
    for (const name of COLOURS) {
      this.canvas.style.color = `var(--${name})`;
      this.colours[name] = getComputedStyle(this.canvas).color;
    }
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = devicePixelRatio || 1;
    Object.assign(this.canvas, { width: width * scale, height: height * scale });
    const pen = (this.pen = this.canvas.getContext("2d"));
    pen.scale(scale, scale);
    pen.font = "12px system-ui, sans-serif";
    this.perS = width < NARROW ? PIXELS_PER_S / 2 : PIXELS_PER_S;
    const passedS = this.live ? Math.min(0.2, (performance.now() - this.sentAt) / 1000) : 0;
    const nowS = this.sentS && this.sentS + (this.still.matches ? 0 : passedS);
    this.fromS = Math.max(0, nowS - (width - 8) / this.perS);
    let top = 0;
    this.seconds(width, height);
    for (const [name, size] of Object.entries(ROWS)) {
      this[`${name}Row`](top + 12, size - 12, width);
      this.text(name, 4, top + 9, "quiet", 10);
      top += size + GAP;
    }
  }

  x(seconds) {
    return (seconds - this.fromS) * this.perS;
  }

  bar(fromS, toS, top, height, colour, inset = 0.5) {
    this.pen.fillStyle = this.colours[colour];
    this.pen.fillRect(this.x(fromS) + inset, top, Math.max(1, this.x(toS) - this.x(fromS) - 2 * inset), height);
  }

  text(words, x, y, colour, size = 12) {
    this.pen.font = this.pen.font.replace(/\d+px/, `${size}px`);
    this.pen.fillStyle = this.colours[colour];
    this.pen.fillText(words, x, y);
  }

  seconds(width, height) {
    for (let second = Math.ceil(this.fromS); this.x(second) < width; second++) {
      this.pen.fillStyle = this.colours.line;
      this.pen.fillRect(this.x(second), 0, 1, height - 16);
      if (second % 2 === 0) this.text(`${second} s`, this.x(second) + 3, height - 3, "quiet", 10);
    }
  }

  soundRow(top, height) {
    for (const { atS, peak } of this.peaks) {
      const tall = Math.max(1, Math.sqrt(peak) * height);
      this.bar(atS, atS + 0.04, top + (height - tall) / 2, tall, "quiet", 0.3);
    }
  }

  statesRow(top, height) {
    for (const { fromS, time_s, probabilities } of this.slices) {
      let y = top + height;
      for (const state of STATES) {
        const tall = height * (probabilities[state] ?? 0);
        this.bar(fromS, time_s, (y -= tall), tall, state);
      }
    }
  }

  listensRow(top, height) {
    for (const { fromS, toS, action } of this.branches) {
      this.bar(fromS, toS, top + 8, height - 16, BRANCH_COLOURS[action], 1);
      this.text("○", this.x(fromS) - 1, top + 6, "quiet", 10);
      if (action === "respond") this.text("▲", this.x(toS) - 9, top + 7, "response", 11);
      if (action === "drop") this.text("×", this.x(toS) - 9, top + height, "quiet", 12);
    }
  }

  answersRow(top, height) {
    for (const { fromS, toS, words, interrupted } of this.answers) {
      this.bar(fromS, toS, top, height, interrupted ? "line" : "answer", 1);
      words.forEach(({ atS, text }, i) => {
        const y = top + 12 + LINE_HEIGHT * (i % 3);
        this.text(text, this.x(atS) + 4, y, interrupted ? "quiet" : "ink", 11);
      });
    }
  }

  msRow(top, height) {
    const maxMs = Math.max(20, ...this.slices.map(({ latency_ms }) => latency_ms));
    for (const { fromS, time_s, latency_ms, compute_ms } of this.slices) {
      for (const [value, colour] of [[latency_ms, "line"], [compute_ms, "compute"]]) {
        const tall = (height * value) / maxMs;
        this.bar(fromS, time_s, top + height - tall, tall, colour);
      }
    }
    this.text(`up to ${Math.round(maxMs)}`, 26, top - 3, "quiet", 10);
  }
}
