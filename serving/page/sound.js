// The way of every sound to the server: microphone and clips through one worklet.

export class Sound {
  // heard(Int16Array): the next piece.
  static async open(rateHz, heard) {
    if (!window.isSecureContext) {
      throw new Error("A browser lends sound to https:// and localhost only. Reach this server by ssh -L, or behind https.");
    }
    const context = new AudioContext();
    await context.audioWorklet.addModule("worklet.js");
    await context.resume();
    return new Sound(context, rateHz, heard);
  }

  constructor(context, rateHz, heard) {
    this.context = context;
    this.ear = new AudioWorkletNode(context, "ear", { channelCount: 1, channelCountMode: "explicit", processorOptions: { rateHz } });
    this.ear.port.onmessage = ({ data }) => heard(data);
    this.ear.connect(context.destination); // silent: a node that leads nowhere is not run
    this.microphone = new GainNode(context);
    this.microphone.connect(this.ear);
    this.stream = this.clip = null;
  }

  async useMicrophone() {
    const wanted = { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: true };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    this.context.createMediaStreamSource(this.stream).connect(this.microphone);
  }

  dropMicrophone() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
  }

  // Play a WAV file, instead of another one and of the microphone; resolves when it is over.
  async play(file) {
    const buffer = await this.context.decodeAudioData(file);
    this.clip?.stop();
    const clip = (this.clip = new AudioBufferSourceNode(this.context, { buffer }));
    clip.connect(this.ear);
    clip.connect(this.context.destination);
    this.microphone.gain.value = 0;
    clip.start();
    await new Promise((resolve) => (clip.onended = resolve));
    if (this.clip === clip) this.hush();
  }

  hush() {
    this.clip?.stop();
    this.clip = null;
    this.microphone.gain.value = 1;
  }

  close() {
    this.dropMicrophone();
    this.ear.port.onmessage = null;
    return this.context.close();
  }
}
