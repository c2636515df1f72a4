const REMEMBERED = 1000; // messages that are recognized when the server sends them again

/** Gives each stored message to the page once, in order, and acknowledges it afterwards. */
export class StoredMessages {
  #handle;
  #acknowledge;
  /** From the id of a message to "pending" or "done". */
  #states = new Map();
  #last = Promise.resolve();

  constructor(handle, acknowledge) {
    this.#handle = handle;
    this.#acknowledge = acknowledge;
  }

  receive(message) {
    const { id } = message;
    const state = this.#states.get(id);
    if (state === "done") this.#acknowledge(id);
    if (state !== undefined) return;
    if (this.#states.size >= REMEMBERED) {
      const done = [...this.#states].find(([, state]) => state === "done");
      if (done === undefined) return; // not acknowledged, so the server sends it again
      this.#states.delete(done[0]);
    }
    this.#states.set(id, "pending");
    this.#last = this.#last.then(async () => {
      try {
        await this.#handle(message);
      } catch {
        this.#states.delete(id); // the server sends it again at the next `ready`
        return;
      }
      this.#states.set(id, "done");
      this.#acknowledge(id);
    });
  }
}
