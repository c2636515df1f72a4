"""The scripts that run in the server: each is one atomic step.

All take what is random or about time as arguments, so that they do the same on a replica.
"""

from __future__ import annotations

import hashlib
from typing import Final

import attrs

META_SECONDS: Final = 7 * 86_400
"""How long the state of a topic is kept after its last event. A position that is older than that
cannot be resumed: ``epoch``."""

MAX_PAST: Final = 400
"""Bytes of the list of past lineages of a topic. A position in a lineage that fell out of the list
cannot be resumed: ``forked``."""


@attrs.frozen
class Script:
    """A Lua script and the digest by which EVALSHA names it."""

    source: str
    digest: str = attrs.field(init=False)

    @digest.default
    def _compute_digest(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


_STATE: Final = """
local function state_of(key)
  local m = redis.call('HMGET', key, 'e', 'l', 't', 'p')
  return m[1], m[2], tonumber(m[3] or '0'), m[4] or ''
end
"""

PUBLISH: Final = Script(
    _STATE
    + f"""
-- KEYS: list, state, [key of the publish]
-- ARGV: channel, data, new epoch, lineage, max events, max bytes, seconds, [seconds of the key]
local list, meta = KEYS[1], KEYS[2]
if KEYS[3] then
  local known = redis.call('GET', KEYS[3])
  if known then return {{0, known}} end
end
local epoch, lineage, top, past = state_of(meta)
if not epoch then
  epoch, lineage, top, past = ARGV[3], ARGV[4], 0, ''
  redis.call('DEL', list)
elseif lineage ~= ARGV[4] then
  past = past .. lineage .. ':' .. string.format('%d', top) .. ' '
  while #past > {MAX_PAST} do past = string.sub(past, string.find(past, ' ', 1, true) + 1) end
  lineage = ARGV[4]
end
top = top + 1
local events, most, seconds = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local bytes = 0
if events > 0 and #ARGV[2] <= most then
  local length = redis.call('RPUSH', list, ARGV[2])
  bytes = #ARGV[2]
  if length > 1 then bytes = bytes + tonumber(redis.call('HGET', meta, 'b') or '0') end
  while length > events or bytes > most do
    bytes = bytes - #redis.call('LPOP', list)
    length = length - 1
  end
  redis.call('EXPIRE', list, seconds)
else
  redis.call('DEL', list)
end
redis.call('HSET', meta, 'e', epoch, 'l', lineage, 't', top, 'p', past, 'b', bytes)
redis.call('EXPIRE', meta, math.max({META_SECONDS}, 2 * seconds))
local mark = epoch .. '.' .. lineage
local position = string.format('%d', top) .. ' ' .. mark
if KEYS[3] then redis.call('SET', KEYS[3], position, 'EX', ARGV[8]) end
redis.call('PUBLISH', ARGV[1], position .. ' ' .. ARGV[2])
return {{1, position}}
"""
)
"""Give an event its offset, keep it, and tell it. Returns [1, "offset mark"], or [0, ...] with the
position of the event that was published under the same key before."""

READ: Final = Script(
    _STATE
    + """
-- KEYS: list, state
-- ARGV: epoch and offset after which events are wanted (-n: the last n, in any epoch, as far as
--       a page has room),
--       bytes of a page, epoch and lineage of a new topic, seconds of its state
local epoch, lineage, top, past = state_of(KEYS[2])
if not epoch then
  epoch, lineage = ARGV[4], ARGV[5]
  redis.call('HSET', KEYS[2], 'e', epoch, 'l', lineage, 't', 0, 'p', '', 'b', 0)
  redis.call('EXPIRE', KEYS[2], ARGV[6])
  redis.call('DEL', KEYS[1])
end
local kept = redis.call('LLEN', KEYS[1])
local first = top - kept + 1
local reply = {epoch, lineage, top, past, first}
local since = tonumber(ARGV[2])
local index, size, most = kept, 0, tonumber(ARGV[3])
if since < 0 then
  -- From the newest one back, as far as a page has room.
  local stop = math.max(kept + since, 0)
  while index > stop do
    size = size + #redis.call('LINDEX', KEYS[1], index - 1)
    if size > most and index < kept then break end
    index = index - 1
  end
  size = 0
elseif ARGV[1] == epoch and since < top then
  index = math.max(since + 1 - first, 0)
end
while index < kept do
  local part = redis.call('LRANGE', KEYS[1], index, index + 31)
  for i = 1, #part do
    size = size + #part[i]
    if size > most and #reply > 5 then return reply end
    reply[#reply + 1] = part[i]
  end
  index = index + 32
end
return reply
"""
)
"""The state of a topic, and a page of its events: [epoch, lineage, top, past, first, event...].

A topic that does not exist gets its epoch here: a position in it can then be resumed. It writes, so
a replica refuses it: a node that reads from a server that was demoted notices."""

HEARTBEAT: Final = Script("""
-- KEYS: leases   ARGV: node, seconds of a lease, channel, number
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return now
""")
"""Renew the lease of a node, and send its number back to it on its own channel."""

SCRIPTS: Final = (PUBLISH, READ, HEARTBEAT)
