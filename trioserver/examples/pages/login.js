/** Log in, and go back to the page that asked for it. Why it did is said in words. */

import { byId, say } from "./dom.js";
import { logIn, session, showWho, wherePathLeads } from "./session.js";
import { ERRORS } from "./trioserver.js";

const WORDS = {
  token_expired: "Your login has expired. Log in again to go on.",
  token_invalid: "Your login was not accepted: the token is not valid here. Log in again.",
  token_missing: "The page sent no token. Log in again.",
  token_revoked: "Your login has been revoked. Log in again.",
  session_blocked: "Access is blocked for you. Ask an administrator, or log in as another user.",
  forbidden: "That page is for administrators. Log in as one.",
  access_denied: "That page is not for this user. Log in as one who may see it.",
};

const query = new URLSearchParams(location.search);
const next = wherePathLeads(query.get("next") ?? "/");
const reason = query.get("reason") ?? "";
const known = Object.hasOwn(WORDS, reason) ? WORDS[reason] : null;
const ofTable = Object.hasOwn(ERRORS, reason) ? ERRORS[reason][2] : null;
const words = known ?? ofTable ?? (query.has("next") ? "Log in to see that page." : "");
say(byId("reason"), words, reason === "" ? "" : "bad");
showWho(session());
byId("username").focus();

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [username, password] = [byId("username"), byId("password")];
  byId("send").disabled = true;
  say(byId("reason"), "Verifying…");
  try {
    await logIn(username.value, password.value);
    location.replace(next);
  } catch (error) {
    say(byId("reason"), error.message, "bad");
    byId("send").disabled = false;
    password.value = "";
    password.focus();
  }
});
