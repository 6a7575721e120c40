-- Renew a worker's lease, by Redis's own clock, and say what the worker is and does.
--
-- KEYS[1]  {llama_queue}:workers       sorted set: worker -> end of its lease, in seconds
-- KEYS[2]  {llama_queue}:worker:<w>    hash: what the worker is and does
-- ARGV[1]  worker id
-- ARGV[2]  lease, in seconds
-- ARGV[3…] fields and values of the hash
--
-- Returns the end of the lease, in whole milliseconds of Unix time.
local now = redis.call('TIME')
local ends = tonumber(now[1]) + tonumber(now[2]) / 1000000 + tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], string.format('%.3f', ends), ARGV[1])
local fields = {}
for i = 3, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], unpack(fields))
redis.call('EXPIRE', KEYS[2], ARGV[2])
return math.floor(ends * 1000)
