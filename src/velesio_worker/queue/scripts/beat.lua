-- Renew a worker's lease, by Redis's own clock, and say what the worker is, does and holds.
--
-- KEYS[1]  {llama_queue}:workers       sorted set: worker -> end of its lease, in seconds
-- KEYS[2]  {llama_queue}:worker:<w>    hash: what the worker is and does
-- KEYS[3]  {llama_queue}:slots:<w>     hash: slot -> the list to whose front its job goes should the worker be lost
-- KEYS[4]  {llama_queue}:control       stream: requests to cancel, which nobody else may keep short
-- ARGV[1]  worker id
-- ARGV[2]  lease, in seconds
-- ARGV[3]  how many entries KEYS[4] keeps
-- ARGV[4]  how many of the following belong to KEYS[2]
-- ARGV[5…] fields and values of KEYS[2], then those of KEYS[3]
--
-- Returns the end of the lease, just as it stands in KEYS[1].
local function set(key, from, to)
  for i = from, to, 1000 do  -- so many arguments as Lua gives on, and an even number
    redis.call('HSET', key, unpack(ARGV, i, math.min(i + 999, to)))
  end
end
local ends = string.format('%.3f', clock() + tonumber(ARGV[2]) - 0.0005)  -- rounded down: guard.lua takes none for longer
redis.call('ZADD', KEYS[1], ends, ARGV[1])
local last = 4 + tonumber(ARGV[4])
redis.call('DEL', KEYS[2])
set(KEYS[2], 5, last)
redis.call('EXPIRE', KEYS[2], ARGV[2])
set(KEYS[3], last + 1, #ARGV)
redis.pcall('XTRIM', KEYS[4], 'MAXLEN', ARGV[3])  -- in vain where that is no stream
return ends
