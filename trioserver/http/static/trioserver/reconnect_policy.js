/** @typedef {import("./errors.js").CloseReason} CloseReason */

/**
 * Decides after each connection when to connect again: exponential backoff with full jitter.
 *
 * Pauses start at the shortest again only after a connection that lasted at least as long as the
 * longest pause, so that a connection that is lost repeatedly does not cause a reconnect storm.
 */
export class ReconnectPolicy {
  #failed = 0;
  #pauses = 0;
  #refreshing = false;

  /**
   * @param {object} options
   * @param {boolean} options.reconnect
   * @param {boolean} options.canRefresh  whether another token can be obtained
   * @param {number} [options.firstMs]
   * @param {number} [options.maximumMs]
   * @param {number | null} [options.maxAttempts]  consecutive ones that may fail before ready; null
   *   for no limit
   * @param {() => number} [options.random]  from 0 to 1
   */
  constructor({
    reconnect,
    canRefresh,
    firstMs = 500,
    maximumMs = 30_000,
    maxAttempts = null,
    random = Math.random,
  }) {
    Object.assign(this, { reconnect, canRefresh, firstMs, maximumMs, maxAttempts, random });
  }

  /** Milliseconds before attempt `number`, counted from 0. */
  delayMs(number) {
    return this.random() * Math.min(this.maximumMs, this.firstMs * 2 ** Math.min(number, 64));
  }

  /**
   * Milliseconds until the next attempt, null to give up.
   * @param {CloseReason} reason
   * @param {{readyForMs: number | null, reconnectInMs: number | null}} facts
   *   how long the connection was ready, null if it never was; the time that `goaway` named, null
   *   without one
   */
  pauseMs(reason, { readyForMs, reconnectInMs }) {
    if (!this.reconnect || reason.retry === "never") return null;
    if (readyForMs !== null && readyForMs >= this.maximumMs) {
      this.#pauses = 0;
      this.#refreshing = false;
    }
    const wasRefreshing = this.#refreshing;
    this.#refreshing = reason.retry === "refresh_token";
    if (this.#refreshing && !this.canRefresh) return null;
    this.#failed = readyForMs === null ? this.#failed + 1 : 0;
    if (this.maxAttempts !== null && this.#failed >= this.maxAttempts) return null;
    if (reconnectInMs !== null) return reconnectInMs;
    if (this.#refreshing && !wasRefreshing) return 0;
    this.#pauses += 1;
    return (reason.retryAfterMs ?? 0) + this.delayMs(this.#pauses - 1);
  }
}
