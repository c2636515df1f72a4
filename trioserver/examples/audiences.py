"""Whom a token is for: each system admits only tokens that name it (``aud``, RFC 7519).

One secret signs the tokens of all systems. Without an audience, the session token of a phone would
let it into every system that asks for nothing but a good token.
"""

from __future__ import annotations

from typing import Final

BEHAVIOR_LOG: Final = "behavior-log"
ADMIN_DASHBOARD: Final = "admin-dashboard"
CONVERSATIONS: Final = "conversations"
AGENTS: Final = "agents"
STUDY_COACH: Final = "study-coach"

PAGES: Final = (ADMIN_DASHBOARD, CONVERSATIONS, AGENTS, STUDY_COACH)
"""Audiences of tokens from a login with name and password: the systems that have pages."""
