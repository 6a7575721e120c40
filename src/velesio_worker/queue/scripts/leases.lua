-- The workers whose leases end soon, or have ended, by Redis's own clock; and those whose leases run oddly long.
--
-- KEYS[1]  {llama_queue}:workers   sorted set: worker -> end of its lease, in seconds
-- ARGV[1]  how soon, in seconds
-- ARGV[2]  what is oddly long, in seconds; '' for none
-- ARGV[3]  how many of each are looked at
--
-- Returns {how many there are in all}, and behind that {worker, end of its lease as it stands there, milliseconds until
-- then, …}; negative for what is past.
local now, reply = clock(), {redis.call('ZCARD', KEYS[1])}
local function add(from, to)
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], from, to, 'WITHSCORES', 'LIMIT', 0, ARGV[3])
  for i = 1, #found, 2 do
    local left = math.max(-1e9, math.min(1e9, (moment(found[i + 1]) or 0) - now))
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = found[i + 1]
    reply[#reply + 1] = math.floor(left * 1000)
  end
end
add('-inf', string.format('%.3f', now + tonumber(ARGV[1])))
if ARGV[2] ~= '' then
  add(string.format('(%.3f', now + tonumber(ARGV[2])), '+inf')
end
return reply
