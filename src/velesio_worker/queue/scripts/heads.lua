-- How many jobs wait in each list, and the one that is next. Changes nothing.
--
-- KEYS     lists: jobs that wait, then sorted sets: {llama_queue}:lines:<kind> and {llama_queue}:lines:<kind>:<priority>
-- ARGV[1]  the largest job to be read whole, in bytes; of a larger one only so much is read
-- ARGV[i]  for each list, from the second on: '1' if its next job is to be read, which is dear if that is large
--
-- Returns {how many, the next job or its beginning, how many bytes it has, …}; an empty string where none was read.
-- Behind that, for each sorted set, {how many wait, since when the first does; false where none waits}.
local reply = {}
local lists = #ARGV - 1
for i = 1, lists do
  local key = KEYS[i]
  local waiting = redis.call('LLEN', key)
  local head = waiting > 0 and ARGV[i + 1] == '1' and redis.call('LINDEX', key, -1) or ''
  reply[3 * i - 2] = waiting
  reply[3 * i - 1] = string.sub(head, 1, tonumber(ARGV[1]))
  reply[3 * i] = #head
end
for i = lists + 1, #KEYS do
  local waiting = redis.call('ZCARD', KEYS[i])
  local first = waiting > 0 and redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1) or {}
  reply[#reply + 1] = waiting
  reply[#reply + 1] = first[2] or false
end
return reply
