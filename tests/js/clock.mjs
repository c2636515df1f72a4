/** Time that stands still until a test moves it on. */
export class FakeClock {
  #timers = [];
  #now = 0;

  now() {
    return this.#now;
  }

  setTimeout(callback, ms) {
    const timer = { at: this.#now + Math.max(0, ms), callback };
    this.#timers.push(timer);
    return timer;
  }

  clearTimeout(timer) {
    this.#timers = this.#timers.filter((other) => other !== timer);
  }

  /** Timers that wait. */
  get waiting() {
    return this.#timers.length;
  }

  /** Move on to a time; what is due on the way is done in its order, and all it sets off. */
  async advanceTo(ms) {
    await settled();
    for (;;) {
      const due = this.#timers.filter(({ at }) => at <= ms).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.clearTimeout(due);
      this.#now = Math.max(this.#now, due.at);
      due.callback();
      await settled();
    }
    this.#now = Math.max(this.#now, ms);
    await settled();
  }

  advance(ms) {
    return this.advanceTo(this.#now + ms);
  }

  /** The machine sleeps: time passes, and nothing is done until it wakes. */
  sleep(ms) {
    this.#now += ms;
  }
}

/** Until every promise that can go on has gone on. */
export async function settled() {
  for (let round = 0; round < 3; round += 1) await new Promise((resolve) => setImmediate(resolve));
}
