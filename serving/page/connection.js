// A conversation over a WebSocket, version 1 of docs/talk.md.

export const VERSION = 1;
const MAX_UNSENT_BYTES = 256 * 1024; // 8 s of audio

// on: { ready(fields), slice(event), heard(fields), end({ reason, message }) }. `end` is called once, with reason "gone"
// if the connection is lost.
export class Connection {
  constructor(rateHz, on) {
    this.on = on;
    this.open = true;
    const address = new URL("talk", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address);
    this.socket.onopen = () => this.socket.send(JSON.stringify({ version: VERSION, rate_hz: rateHz, heard: "live" }));
    this.socket.onmessage = ({ data }) => this.open && this.receive(JSON.parse(data));
    this.socket.onclose = () => this.end({ reason: "gone", message: "The connection to the server is lost." });
  }

  receive({ type, ...fields }) {
    if (type === "end") this.end(fields);
    else this.on[type]?.(fields);
  }

  send(samples) {
    if (!this.open || this.socket.readyState !== WebSocket.OPEN) return;
    if (this.socket.bufferedAmount > MAX_UNSENT_BYTES) {
      this.close({ reason: "gone", message: "The connection to the server is too slow." });
    } else {
      this.socket.send(samples);
    }
  }

  close(reason = { reason: "closed", message: "" }) {
    this.end(reason);
    this.socket.close();
  }

  end(reason) {
    if (!this.open) return;
    this.open = false;
    this.on.end(reason);
  }
}
