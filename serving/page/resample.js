// Windowed-sinc resampling of a stream, exact for the ratio of any two whole rates.

const ZEROS = 16; // zero crossings of the sinc on either side
const PASSED = 0.94; // of the lower of the two Nyquist frequencies

export class Resampler {
  constructor(fromHz, toHz) {
    const shared = divisor(fromHz, toHz);
    this.step = fromHz / shared; // input samples between two outputs, in units of one over `phases`
    this.phases = toHz / shared;
    const cutoff = PASSED * Math.min(1, toHz / fromHz);
    this.half = Math.ceil(ZEROS / cutoff);
    this.weights = Array.from({ length: this.phases }, (_, phase) => kernel(cutoff, this.half, phase / this.phases));
    this.past = new Float32Array(this.half - 1); // silence came before
    this.at = this.half - 1; // of the next output, in the past and what follows it
    this.phase = 0;
  }

  // Float32Array in, Float32Array out: all that can be told by now.
  push(samples) {
    const joined = new Float32Array(this.past.length + samples.length);
    joined.set(this.past);
    joined.set(samples, this.past.length);
    const out = [];
    while (this.at + this.half < joined.length) {
      out.push(this.value(joined));
      const ahead = this.phase + this.step;
      this.at += Math.floor(ahead / this.phases);
      this.phase = ahead % this.phases;
    }
    const done = Math.min(this.at - this.half + 1, joined.length);
    this.past = joined.slice(done);
    this.at -= done;
    return Float32Array.from(out);
  }

  value(samples) {
    const weights = this.weights[this.phase];
    const first = this.at - this.half + 1;
    let sum = 0;
    for (let k = 0; k < weights.length; k++) sum += weights[k] * samples[first + k];
    return sum;
  }
}

// Weights of the samples from half - 1 before to half after a place, which is `offset` behind the one in the middle.
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

function divisor(a, b) {
  return b === 0 ? a : divisor(b, a % b);
}
