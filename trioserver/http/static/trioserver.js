/** The client of the protocol `trioserver.v1`; `docs/javascript.md` is the guide. */

export * from "./trioserver/client.js";
