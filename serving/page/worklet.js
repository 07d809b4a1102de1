// What the microphone or a clip sounds like, to the server's rate, in pieces of 40 ms.

import { Resampler } from "./resample.js";

class Ear extends AudioWorkletProcessor {
  constructor({ processorOptions: { rateHz } }) {
    super();
    this.resampler = new Resampler(sampleRate, rateHz);
    this.piece = new Int16Array(Math.round(0.04 * rateHz));
    this.filled = 0;
  }

  process([[heard = new Float32Array(128)]]) {
    for (const value of this.resampler.push(heard)) {
      this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(32768 * value)));
      if (this.filled === this.piece.length) {
        this.port.postMessage(this.piece.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("ear", Ear);
