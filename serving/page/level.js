// Level of the sound that goes to the server, or is kept from it by the echo gate.

const MIN_DB = -60; // of the meter
const SILENT_DB = -80; // a microphone that is muted has digital silence, or nearly
const SILENT_MS = 4000;

// Of 16-bit samples, relative to full scale.
export function levelDb(samples) {
  const power = samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
  return 10 * Math.log10(power / 32768 ** 2 + 1e-12);
}

export class Level {
  // onSilence(whether): no sound has come for some time, or it has come back.
  constructor(meter, onSilence) {
    this.meter = meter;
    this.onSilence = onSilence;
    this.clear();
  }

  clear() {
    this.lastSoundAt = null;
    this.silent = false;
    this.show(MIN_DB);
  }

  // The next chunk, of the microphone or of a clip, whose silence says nothing about a microphone.
  push(db, fromMicrophone) {
    this.show(db);
    const now = performance.now();
    if (db > SILENT_DB || !fromMicrophone) this.lastSoundAt = now;
    const silent = now - (this.lastSoundAt ??= now) > SILENT_MS;
    if (silent !== this.silent) this.onSilence((this.silent = silent));
  }

  show(db) {
    const percent = Math.round(100 * Math.min(1, Math.max(0, 1 - db / MIN_DB)));
    this.meter.ariaValueNow = percent;
    this.meter.firstElementChild.style.width = `${percent}%`;
  }
}
