-- ARGV: turn, tokens, requests per minute, turns at once, tokens per day.
-- Returns {0 admitted | 1 rate_limited | 2 quota, retry after (ms, -1: never), requests left, tokens left, reset (ms)}.

local turn, tokens = ARGV[1], tonumber(ARGV[2])
local per_minute, at_once, per_day = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local SOON = 1000

for _, lapsed in ipairs(redis.call('ZRANGEBYSCORE', turns, '-inf', now)) do
  release(lapsed)
end
redis.call('ZREMRANGEBYSCORE', minute, '-inf', now - MINUTE)

local requests = redis.call('ZCARD', minute)
local sums = redis.call('HMGET', today, 'used', 'held')
local used, held = tonumber(sums[1] or 0), tonumber(sums[2] or 0)

local function leaves(rank)
  local entry = redis.call('ZRANGE', minute, rank, rank, 'WITHSCORES')
  return entry[2] and entry[2] + MINUTE - now or 0
end

local function answer(code, retry)
  local left = math.max(0, per_minute - requests)
  return {code, retry, left, math.max(0, per_day - used - held), leaves(0)}
end

if redis.call('ZSCORE', turns, turn) or find('s:' .. turn) then
  return answer(0, 0)
end
if used + tokens > per_day then
  return answer(2, tokens > per_day and -1 or (day + 1) * DAY - now)
end
if per_minute < 1 or at_once < 1 then
  return answer(1, -1)
end

local wait = 0
if requests >= per_minute then
  wait = leaves(requests - per_minute)
end
if redis.call('ZCARD', turns) >= at_once or used + held + tokens > per_day then
  wait = math.max(wait, SOON)
end
if wait > 0 then
  return answer(1, wait)
end

redis.call('ZADD', turns, now + HOLD, turn)
keep_turns()
redis.call('ZADD', minute, now, turn)
redis.call('PEXPIRE', minute, MINUTE)
redis.call('HSET', today, 'h:' .. turn, tokens)
redis.call('HINCRBY', today, 'held', tokens)
requests = redis.call('ZCARD', minute)
held = held + tokens
return answer(0, 0)
