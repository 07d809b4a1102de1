// Audio to the server: microphone and clips through one worklet.

export class Sound {
  // onAudio(Int16Array) is called with each chunk.
  static async open(rateHz, onAudio) {
    if (!window.isSecureContext) {
      throw new Error("Browsers allow audio on https:// and localhost only. Reach this server by ssh -L, or behind https.");
    }
    const context = new AudioContext();
    await context.audioWorklet.addModule("worklet.js");
    await context.resume();
    return new Sound(context, rateHz, onAudio);
  }

  constructor(context, rateHz, onAudio) {
    this.context = context;
    const options = { channelCount: 1, channelCountMode: "explicit", processorOptions: { rateHz } };
    this.sender = new AudioWorkletNode(context, "audio-sender", options);
    this.sender.port.onmessage = ({ data }) => onAudio(data);
    this.sender.connect(context.destination); // outputs silence, but an unconnected node is not run
    this.microphone = new GainNode(context);
    this.microphone.connect(this.sender);
    this.stream = this.clip = null;
  }

  // onLost() is called when the microphone is taken away. Rejects with a DOMException.
  async useMicrophone(onLost) {
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: true };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    // The user may have given up while the browser was asking.
    if (this.context.state === "closed") return this.dropMicrophone();
    this.stream.getTracks().forEach((track) => (track.onended = onLost));
    this.context.createMediaStreamSource(this.stream).connect(this.microphone);
  }

  dropMicrophone() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
  }

  // Play a WAV file instead of the current clip and the microphone; resolves when it has ended.
  async play(file) {
    const buffer = await this.context.decodeAudioData(file);
    this.clip?.stop();
    const clip = (this.clip = new AudioBufferSourceNode(this.context, { buffer }));
    clip.connect(this.sender);
    clip.connect(this.context.destination);
    this.microphone.gain.value = 0;
    clip.start();
    await new Promise((resolve) => (clip.onended = resolve));
    if (this.clip === clip) this.stopClip();
  }

  stopClip() {
    this.clip?.stop();
    this.clip = null;
    this.microphone.gain.value = 1;
  }

  async close() {
    this.dropMicrophone();
    this.sender.port.onmessage = null;
    if (this.context.state !== "closed") await this.context.close();
  }
}
