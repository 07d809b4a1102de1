// Windowed-sinc resampling of a stream, exact for the ratio of any two whole rates.

const ZEROS = 16; // zero crossings of the sinc on either side
const PASSBAND = 0.94; // edge, relative to the lower of the two Nyquist frequencies

export class Resampler {
  constructor(fromHz, toHz) {
    const divisor = greatestCommonDivisor(fromHz, toHz);
    this.step = fromHz / divisor; // distance of two outputs, in input samples / `phases`
    this.phases = toHz / divisor;
    const cutoff = PASSBAND * Math.min(1, toHz / fromHz);
    this.half = Math.ceil(ZEROS / cutoff);
    this.weights = Array.from({ length: this.phases }, (_, phase) => kernel(cutoff, this.half, phase / this.phases));
    this.past = new Float32Array(this.half - 1); // silence came before
    this.position = this.half - 1; // of the next output, in `past` and the samples after it
    this.phase = 0;
  }

  // Float32Array -> Float32Array: all outputs whose window is complete.
  push(samples) {
    const joined = new Float32Array(this.past.length + samples.length);
    joined.set(this.past);
    joined.set(samples, this.past.length);
    const out = [];
    while (this.position + this.half < joined.length) {
      out.push(this.value(joined));
      const nextPhase = this.phase + this.step;
      this.position += Math.floor(nextPhase / this.phases);
      this.phase = nextPhase % this.phases;
    }
    const done = Math.min(this.position - this.half + 1, joined.length);
    this.past = joined.slice(done);
    this.position -= done;
    return Float32Array.from(out);
  }

  value(samples) {
    const weights = this.weights[this.phase];
    const first = this.position - this.half + 1;
    let sum = 0;
    for (let k = 0; k < weights.length; k++) sum += weights[k] * samples[first + k];
    return sum;
  }
}

// Weights of the samples from half - 1 before to half after a sample, for an output `offset` samples after it.
function kernel(cutoff, half, offset) {
  const weights = Float32Array.from({ length: 2 * half }, (_, k) => {
    const t = k - half + 1 - offset;
    const x = Math.PI * cutoff * t;
    const window = Math.cos((Math.PI * t) / (2 * half)) ** 2;
    return cutoff * window * (x === 0 ? 1 : Math.sin(x) / x);
  });
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
