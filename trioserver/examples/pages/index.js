/** The index: says who is logged in. */

import { session, showWho } from "./session.js";

showWho(session());
