// A conversation over a WebSocket, version 1 of docs/talk.md.

export const VERSION = 1;
const MOST_UNSENT = 256 * 1024; // bytes: 8 s of sound

// on: { ready(facts), slice(event), end({ reason, message }) }; end comes once, "gone" where the server says nothing.
export class Connection {
  constructor(rateHz, on) {
    this.on = on;
    this.open = true;
    const address = new URL("talk", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address);
    this.socket.onopen = () => this.socket.send(JSON.stringify({ version: VERSION, rate_hz: rateHz }));
    this.socket.onmessage = ({ data }) => this.open && this.take(JSON.parse(data));
    this.socket.onclose = () => this.end({ reason: "gone", message: "The server is gone." });
  }

  take({ type, ...facts }) {
    if (type === "end") this.end(facts);
    else this.on[type]?.(facts);
  }

  send(samples) {
    if (!this.open || this.socket.readyState !== WebSocket.OPEN) return;
    if (this.socket.bufferedAmount > MOST_UNSENT) this.close({ reason: "gone", message: "The line to the server is too slow." });
    else this.socket.send(samples);
  }

  close(why = { reason: "closed", message: "" }) {
    this.end(why);
    this.socket.close();
  }

  end(why) {
    if (!this.open) return;
    this.open = false;
    this.on.end(why);
  }
}
