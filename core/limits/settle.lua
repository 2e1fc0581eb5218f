-- ARGV: turn, tokens. Returns the tokens that the turn stands settled with.

local turn, tokens = ARGV[1], tonumber(ARGV[2])
local reserved_on = release(turn)
local key, before = find('s:' .. turn)
key, before = key or reserved_on or today, before or 0
if tokens > before then
  redis.call('HSET', key, 's:' .. turn, tokens)
  redis.call('HINCRBY', key, 'used', tokens - before)
  return tokens
end
return before
