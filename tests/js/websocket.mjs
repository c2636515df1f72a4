/**
 * As much of a `WebSocket` as the client needs, over a plain socket, for Node before 22, which has
 * none of its own. Text messages up to 64 KiB, unfragmented, as this server sends them.
 */
import { createHash, randomBytes } from "node:crypto";
import { connect } from "node:net";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

export class SmallWebSocket {
  #socket;
  #received = Buffer.alloc(0);
  #key = randomBytes(16).toString("base64");
  #close = { code: 1006, reason: "" };

  constructor(url, protocols) {
    const { hostname, port, pathname, search } = new URL(url);
    this.readyState = 0;
    this.bufferedAmount = 0;
    this.onopen = this.onmessage = this.onclose = this.onerror = null;
    this.#socket = connect(Number(port), hostname, () => {
      const head = [
        `GET ${pathname}${search} HTTP/1.1`,
        `Host: ${hostname}:${port}`,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        `Sec-WebSocket-Key: ${this.#key}`,
        `Sec-WebSocket-Protocol: ${protocols.join(", ")}`,
      ];
      this.#socket.write(`${head.join("\r\n")}\r\n\r\n`);
    });
    this.#socket.on("data", (data) => this.#take(data));
    this.#socket.on("error", () => {});
    this.#socket.on("close", () => {
      this.readyState = 3;
      this.onclose?.(this.#close);
    });
  }

  send(text) {
    this.#write(1, Buffer.from(text));
  }

  close(code = 1000, reason = "") {
    if (this.readyState === 0) this.#socket.destroy();
    if (this.readyState !== 1) return;
    this.readyState = 2;
    this.#write(8, Buffer.concat([Buffer.from([code >> 8, code & 255]), Buffer.from(reason)]));
  }

  #write(opcode, payload) {
    const size = payload.length;
    const length = size < 126 ? [128 | size] : [128 | 126, size >> 8, size & 255];
    this.#socket.write(Buffer.concat([Buffer.from([128 | opcode, ...length, 0, 0, 0, 0]), payload]));
  }

  #take(data) {
    this.#received = Buffer.concat([this.#received, data]);
    if (this.readyState === 0 && !this.#takeHead()) return;
    for (;;) {
      const frame = this.#received;
      if (frame.length < 2) return;
      const long = frame[1] === 126;
      const begin = long ? 4 : 2;
      if (frame.length < begin) return;
      const end = begin + (long ? frame.readUInt16BE(2) : frame[1]);
      if (frame.length < end) return;
      this.#received = frame.subarray(end);
      this.#hear(frame[0] & 15, frame.subarray(begin, end));
    }
  }

  #takeHead() {
    const end = this.#received.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const head = this.#received.subarray(0, end).toString();
    const accept = createHash("sha1").update(this.#key + GUID).digest("base64");
    this.#received = this.#received.subarray(end + 4);
    if (!head.startsWith("HTTP/1.1 101") || !head.includes(accept)) {
      this.#socket.destroy();
      return false;
    }
    this.readyState = 1;
    this.onopen?.({});
    return true;
  }

  #hear(opcode, payload) {
    if (opcode === 1) this.onmessage?.({ data: payload.toString() });
    if (opcode === 9) this.#write(10, payload);
    if (opcode !== 8) return;
    this.#close = { code: payload.readUInt16BE(0), reason: payload.subarray(2).toString() };
    if (this.readyState === 1) this.#write(8, payload);
    this.#socket.end();
  }
}
