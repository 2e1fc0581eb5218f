-- ARGV: turns. Returns how many reservations were kept; one that has lapsed is not brought back.

local kept = 0
for _, turn in ipairs(ARGV) do
  local lapses = redis.call('ZSCORE', turns, turn)
  if lapses and tonumber(lapses) > now then
    redis.call('ZADD', turns, now + HOLD, turn)
    kept = kept + 1
  end
end
if kept > 0 then
  keep_turns()
end
return kept
