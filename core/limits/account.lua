-- One account's state and what all scripts do with it. The rules in words: core/limits/model.py.
--
-- KEYS[1]  sorted set: reserved turn -> when it lapses
-- KEYS[2]  sorted set: admitted turn -> when, for the last minute
-- KEYS[3]  hash of an even day (days since 1970), KEYS[4] of an odd one; a hash two days old is begun anew:
--          day; used, held: sums of tokens; h:<turn>: tokens it holds; s:<turn>: tokens it was settled with
--
-- All keys carry the account as their hash tag and expire by themselves.

local MINUTE, HOLD, DAY = 60000, 120000, 86400000
local turns, minute = KEYS[1], KEYS[2]
local now = clock()
local day = math.floor(now / DAY)
local today, yesterday = KEYS[3 + day % 2], KEYS[3 + (day + 1) % 2]

local forgotten = (day + 2) * DAY - now

local function begin(key, number)
  if redis.call('HGET', key, 'day') ~= string.format('%d', number) then
    redis.call('DEL', key)
    if number == day then
      redis.call('HSET', key, 'day', number)
      redis.call('PEXPIRE', key, forgotten)
    end
  end
end

begin(today, day)
begin(yesterday, day - 1)

-- The turns must outlive what they hold, or nobody would give the held tokens back.
local function keep_turns()
  redis.call('PEXPIRE', turns, forgotten)
end

-- The day hash on which the turn has the field, and its tokens.
local function find(field)
  for _, key in ipairs({today, yesterday}) do
    local tokens = redis.call('HGET', key, field)
    if tokens then
      return key, tonumber(tokens)
    end
  end
end

-- Ends a reservation, lapsed or not; returns the hash of the day on which it was made.
local function release(turn)
  redis.call('ZREM', turns, turn)
  local key, tokens = find('h:' .. turn)
  if key then
    redis.call('HDEL', key, 'h:' .. turn)
    -- Not -tokens: that of 0 is sent as "-0", which is no integer to Redis.
    redis.call('HINCRBY', key, 'held', 0 - tokens)
  end
  return key
end
