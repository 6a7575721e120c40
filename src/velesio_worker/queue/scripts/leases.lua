-- The workers whose leases end soon, or have ended, by Redis's own clock.
--
-- KEYS[1]  {llama_queue}:workers   sorted set: worker -> end of its lease, in seconds
-- ARGV[1]  how soon, in seconds
--
-- Returns {worker, end of its lease as it stands there, milliseconds until then, …}; negative for what is past.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now + tonumber(ARGV[1])), 'WITHSCORES')
local reply = {}
for i = 1, #found, 2 do
  reply[#reply + 1] = found[i]
  reply[#reply + 1] = found[i + 1]
  reply[#reply + 1] = math.floor((tonumber(found[i + 1]) - now) * 1000)
end
return reply
