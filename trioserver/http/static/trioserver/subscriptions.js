import { CLOSED, ConnectionLostError } from "./errors.js";
import { PendingRequest } from "./requests.js";
import { ReceiveBuffer } from "./streams.js";

/**
 * A subscription to topics, across reconnects. `for await (const event of subscription)`, or a
 * handler.
 *
 * An event is `{topic, offset, data, gap}`. `gap` is true if the connection was lost before this
 * event, so that events may be missing. `active` resolves when the server has accepted the
 * subscription, and rejects if it does not. Iteration throws `BufferOverflowError` if events were
 * dropped because they were not consumed in time (continue to get those that followed),
 * `RequestRejectedError`, and `ConnectionLostError` if the client has given up.
 */
export class Subscription {
  #buffer;
  #end;

  /** @hideconstructor */
  constructor(topics, active, buffer, end) {
    /** @type {readonly string[]} */
    this.topics = topics;
    this.active = active;
    this.#buffer = buffer;
    this.#end = end;
  }

  /** Unsubscribe. */
  close() {
    this.#buffer.return();
    this.#end();
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

/** What delivers events to a subscription: its topics, its handler or buffer, and its end. */
export class Subscriber {
  #topics;
  #handler;
  #onEnd;
  #buffer;
  #gap = false;
  #accept;
  #reject;

  /** `leave` is called when the program unsubscribes. */
  constructor(topics, handler, onEnd, maxSize, leave) {
    this.#topics = new Set(topics);
    this.#handler = handler;
    this.#onEnd = onEnd;
    this.#buffer = new ReceiveBuffer(maxSize, () => leave(this));
    const active = new Promise((resolve, reject) => {
      this.#accept = resolve;
      this.#reject = reject;
    });
    active.catch(() => {}); // iteration reports it, too
    const names = Object.freeze([...topics]);
    this.subscription = new Subscription(names, active, this.#buffer, () => this.end(null));
  }

  get topics() {
    return this.subscription.topics;
  }

  has(topic) {
    return this.#topics.has(topic);
  }

  /** The server has accepted the subscription. */
  accepted() {
    this.#accept();
  }

  /** The connection was lost: events may be missing before the next one. */
  disconnected() {
    this.#gap = true;
  }

  deliver({ topic, offset, data }, size) {
    const event = { topic, offset, data, gap: this.#gap };
    if (this.#handler !== null) {
      this.#gap = false;
      callSafely(this.#handler, event);
    } else if (this.#buffer.put(event, size)) {
      this.#gap = false;
    }
  }

  /** There will be no more events: because of an error, or null. */
  end(error) {
    this.#buffer.close(error);
    this.#reject(error ?? new ConnectionLostError(CLOSED, false));
    const tell = this.#onEnd;
    this.#onEnd = null;
    if (tell !== null) callSafely(tell, error);
  }
}

/** Call a function of the page. What it throws is reported, and does not stop anything here. */
function callSafely(listener, value) {
  try {
    listener(value);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

const MAX_TOPICS = 100; // in one message

/** All subscriptions of a client. They outlive a connection. */
export class SubscriberRegistry {
  #maxBufferBytes;
  #subscribers = new Set();
  #connection = null;

  constructor({ maxBufferBytes }) {
    this.#maxBufferBytes = maxBufferBytes;
  }

  /** Make a subscriber. Throws `RangeError` for too many topics. */
  make(topics, handler, onEnd) {
    const names = [...new Set([topics].flat().map(String))];
    if (names.length === 0 || names.length > MAX_TOPICS) {
      throw new RangeError(`${names.length} topics; a subscription has 1 to ${MAX_TOPICS}`);
    }
    const leave = (subscriber) => this.#unsubscribe(subscriber);
    return new Subscriber(names, handler, onEnd, this.#maxBufferBytes, leave);
  }

  /** Deliver events to a subscriber from now on. */
  add(subscriber) {
    this.#subscribers.add(subscriber);
    if (this.#connection?.isReady) this.#subscribe(subscriber);
  }

  /** Subscribe to everything again, on a connection that is ready. */
  connected(connection) {
    this.#connection = connection;
    for (const subscriber of this.#subscribers) this.#subscribe(subscriber);
  }

  disconnected() {
    this.#connection = null;
    for (const subscriber of this.#subscribers) subscriber.disconnected();
  }

  deliver(event, size) {
    for (const subscriber of [...this.#subscribers]) {
      if (subscriber.has(event.topic)) subscriber.deliver(event, size);
    }
  }

  /** End all subscriptions: the client is closed. */
  close(error) {
    for (const subscriber of [...this.#subscribers]) subscriber.end(error);
    this.#subscribers.clear();
  }

  #subscribe(subscriber) {
    const connection = this.#connection;
    const id = connection.protocol.subscribe(subscriber.topics);
    const resolve = () => subscriber.accepted();
    const reject = (error) => {
      if (error instanceof ConnectionLostError) return; // the next connection subscribes again
      this.#subscribers.delete(subscriber);
      subscriber.end(error);
    };
    connection.track(id, new PendingRequest("subscribe", null, { resolve, reject }));
    connection.flush();
  }

  #unsubscribe(subscriber) {
    if (!this.#subscribers.delete(subscriber)) return;
    const used = new Set([...this.#subscribers].flatMap(({ topics }) => topics));
    const unused = subscriber.topics.filter((topic) => !used.has(topic));
    if (unused.length > 0 && this.#connection?.isReady) {
      this.#connection.protocol.unsubscribe(unused);
      this.#connection.flush();
    }
  }
}
