// Speaks answers while they are written: by a voice of this browser, else by the server's synthesiser.

const MIN_WORDS = 2; // spoken at once, unless the answer is over: single words sound chopped
const MAX_LATE_MS = 3000; // speech of the server that would begin later is dropped

export class Voice {
  // synthesise(words, signal): the server's WAV file as an ArrayBuffer.
  constructor(synthesise) {
    this.synthesise = synthesise;
    this.enabled = true;
    this.context = null; // AudioContext of the conversation
    this.hasServer = false;
    this.clear();
  }

  clear() {
    Object.assign(this, { pending: "", complete: true, held: false, current: null });
  }

  // Only voices on this machine: others send the answer to a third party.
  get browserVoice() {
    const local = globalThis.speechSynthesis?.getVoices().filter((voice) => voice.localService) ?? [];
    return local.find(({ lang }) => lang.startsWith("en"));
  }

  get available() {
    return Boolean(this.browserVoice) || this.hasServer;
  }

  get speaking() {
    return Boolean(this.current);
  }

  // A new answer begins; what remains of the old one is not spoken.
  begin() {
    this.stop();
    this.complete = false;
  }

  add(text) {
    if (this.complete) return;
    this.pending += text;
    this.speakNext();
  }

  finish() {
    this.complete = true;
    this.speakNext();
  }

  // Be silent at once, and for good.
  stop() {
    this.current?.stop();
    this.clear();
  }

  // Be silent at once while the user speaks; `release` goes on with the words that were not spoken.
  hold() {
    if (this.held) return;
    this.held = true;
    const rest = this.current?.stop() ?? "";
    this.current = null;
    this.pending = rest + this.pending;
  }

  release() {
    if (!this.held) return;
    this.held = false;
    this.speakNext();
  }

  speakNext() {
    if (this.current || this.held || !this.enabled) return;
    // The last word may still grow.
    const end = this.complete ? this.pending.length : Math.max(0, this.pending.lastIndexOf(" "));
    const words = this.pending.slice(0, end).trim().replace(/\s+/g, " ");
    const tooFew = !this.complete && words.split(" ").length < MIN_WORDS;
    if (!words || tooFew) return;
    this.pending = this.pending.slice(end);
    const speak = this.browserVoice ? this.speakHere : this.speakByServer;
    const current = (this.current = speak.call(this, `${words} `, () => {
      if (this.current !== current) return;
      this.current = null;
      this.speakNext();
    }));
  }

  // Both kinds of speech: done() is called at the end; stop() ends it early and returns the words not yet spoken.
  speakHere(words, done) {
    const utterance = new SpeechSynthesisUtterance(words);
    utterance.voice = this.browserVoice;
    let spoken = 0;
    utterance.onboundary = ({ charIndex }) => (spoken = charIndex);
    utterance.onend = utterance.onerror = done;
    speechSynthesis.speak(utterance);
    const stop = () => {
      utterance.onend = utterance.onerror = null;
      speechSynthesis.cancel();
      return words.slice(spoken);
    };
    return { stop };
  }

  speakByServer(words, done) {
    const dueMs = performance.now();
    const abort = new AbortController();
    let node = null;
    let startS = 0;
    const start = async () => {
      const buffer = await this.context.decodeAudioData(await this.synthesise(words.trim(), abort.signal));
      const late = performance.now() - dueMs > MAX_LATE_MS;
      if (abort.signal.aborted) return;
      if (late) return done();
      node = new AudioBufferSourceNode(this.context, { buffer });
      node.connect(this.context.destination); // not to the server
      node.onended = done;
      node.start();
      startS = this.context.currentTime;
    };
    start().catch(done); // an answer that is not spoken can still be read
    const stop = () => {
      abort.abort();
      if (node) node.onended = null;
      node?.stop();
      // By the share of its duration, back to the start of a word.
      const share = node ? (this.context.currentTime - startS) / node.buffer.duration : 0;
      return words.slice(words.lastIndexOf(" ", Math.floor(share * words.length)) + 1);
    };
    return { stop };
  }
}
