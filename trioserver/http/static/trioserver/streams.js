import { BufferOverflowError } from "./errors.js";

const ITEM_SIZE = 256; // estimated memory of an item beside its text

/** A bounded buffer between the connection that receives items and the code that iterates. */
export class ReceiveBuffer {
  #size = 0;
  #maxSize;
  #onLeave;
  #items = [];
  #waiting = [];
  #closed = false;
  #error = null;

  /** `onLeave` is called when the code that iterates leaves early. */
  constructor(maxSize, onLeave) {
    this.#maxSize = maxSize;
    this.#onLeave = onLeave;
  }

  /** Append an item; false if it was dropped. An empty buffer accepts any item. */
  put(item, size) {
    if (this.#closed) return true;
    if (this.#waiting.length > 0) {
      this.#waiting.shift().resolve({ value: item, done: false });
      return true;
    }
    const cost = size + ITEM_SIZE;
    if (this.#size > 0 && this.#size + cost > this.#maxSize) {
      const last = this.#items.at(-1);
      if (last.missed === undefined) this.#items.push({ missed: 1, cost: 0 });
      else last.missed += 1;
      return false;
    }
    this.#size += cost;
    this.#items.push({ item, cost });
    return true;
  }

  /** Accept no more. After the remaining items, iteration throws `error`, or ends without one. */
  close(error = null) {
    if (this.#closed) return;
    this.#closed = true;
    this.#error = error;
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      if (error === null) resolve({ value: undefined, done: true });
      else reject(error);
    }
  }

  /** Leave, but let the remaining items be read. */
  leave() {
    this.close();
    this.#onLeave();
  }

  next() {
    if (this.#items.length > 0) {
      const { item, missed, cost } = this.#items.shift();
      this.#size -= cost;
      if (missed !== undefined) return Promise.reject(new BufferOverflowError(missed));
      return Promise.resolve({ value: item, done: false });
    }
    if (this.#closed) {
      if (this.#error === null) return Promise.resolve({ value: undefined, done: true });
      return Promise.reject(this.#error);
    }
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  return(value) {
    this.#items.length = 0;
    this.#size = 0;
    this.leave();
    return Promise.resolve({ value, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/**
 * `for await (const chunk of client.stream(...))`: leaving the loop cancels the stream on the server.
 *
 * `result` is the data of the `end`, undefined before it. Iteration throws `RequestRejectedError`,
 * `ConnectionLostError`, `RequestTimeoutError` if the request could not be sent, and
 * `BufferOverflowError` if too many chunks were not consumed. A page cannot slow down a server, so
 * the stream is cancelled then.
 */
export class Stream {
  #buffer;

  /** @hideconstructor @param {ReceiveBuffer} buffer */
  constructor(buffer) {
    this.result = undefined;
    this.#buffer = buffer;
  }

  /** Cancel it. The chunks that have arrived can still be read; then the iteration ends. */
  cancel() {
    this.#buffer.leave();
  }

  next() {
    return this.#buffer.next();
  }

  return(value) {
    return this.#buffer.return(value);
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}
