// Keeps the page's own voice, which a loudspeaker brings into the microphone, from being heard as the user's.

const BELOW_DB = 14; // an interruption is no further below the user's question
const TAIL_CHUNKS = 8; // of 40 ms: echo after the end of the voice
const OPEN_CHUNKS = 12; // after a loud one, so that words keep their soft parts
const FORGET_DB = 0.1; // of the user's level with each chunk of speech

export class EchoGate {
  constructor() {
    this.clear();
  }

  clear() {
    Object.assign(this, { hearing: false, userDb: -Infinity, tail: 0, open: 0 });
  }

  // Silences a chunk of the microphone in place if the page is speaking and it is too quiet for the user.
  // `hearing`, to be set from outside, says whether the user speaks: the level of the question is the measure.
  push(samples, db, speaking) {
    this.tail = speaking ? TAIL_CHUNKS : Math.max(0, this.tail - 1);
    if (this.hearing && !this.tail) this.userDb = Math.max(db, this.userDb - FORGET_DB);
    this.open = db > this.userDb - BELOW_DB ? OPEN_CHUNKS : Math.max(0, this.open - 1);
    if (this.tail && !this.open) samples.fill(0);
  }
}
