/**
 * A client of the protocol `trioserver.v1` for web pages and Node.
 *
 *     import { connect } from "./trioserver.js";
 *     const client = connect("/ws/rooms/1", { token: () => fetchToken() });
 *     client.addEventListener("state", ({ detail }) => show(detail.state, detail.reason));
 *     console.log(await client.request("note", { text: "hello" }));
 *
 * It consists of this file and the modules in the folder `trioserver` beside it. `docs/javascript.md`
 * is the guide, `docs/protocol.md` the protocol.
 *
 * It writes nothing to the console, and no token is in an error, an event or a public field.
 * Durations are in milliseconds, and their names end in `Ms`.
 */

export { Client, connect } from "./trioserver/client.js";
export {
  BufferOverflowError,
  ClientError,
  CloseReason,
  ConnectionLostError,
  ERRORS,
  ProtocolError,
  QueueFullError,
  RequestRejectedError,
  RequestTimeoutError,
} from "./trioserver/errors.js";
export { ClientProtocol, SUBPROTOCOL } from "./trioserver/protocol.js";
export { ReconnectPolicy } from "./trioserver/reconnect_policy.js";
export { Stream } from "./trioserver/streams.js";
export { Subscription } from "./trioserver/subscriptions.js";
