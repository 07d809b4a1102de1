// AudioWorklet that resamples the microphone or a clip to the server's rate, in chunks of 40 ms.

import { Resampler } from "./resample.js";

const CHUNK_S = 0.04;

class AudioSender extends AudioWorkletProcessor {
  constructor({ processorOptions: { rateHz } }) {
    super();
    this.resampler = new Resampler(sampleRate, rateHz);
    this.chunk = new Int16Array(Math.round(CHUNK_S * rateHz));
    this.filled = 0;
  }

  // A quantum without input is silence.
  process([[samples = new Float32Array(128)]]) {
    for (const value of this.resampler.push(samples)) {
      this.chunk[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(32768 * value)));
      if (this.filled === this.chunk.length) {
        this.port.postMessage(this.chunk.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("audio-sender", AudioSender);
