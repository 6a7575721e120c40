-- How many jobs wait in each list, and the one that is next. Changes nothing.
--
-- KEYS     lists: jobs that wait
-- ARGV[1]  the largest job to be read whole, in bytes; of a larger one only so much is read
-- ARGV[i]  for each list, from the second on: '1' if its next job is to be read, which is dear if that is large
--
-- Returns {how many, the next job or its beginning, how many bytes it has, …}; an empty string where none was read.
local reply = {}
for i, key in ipairs(KEYS) do
  local head = ARGV[i + 1] == '1' and redis.call('LINDEX', key, -1) or ''
  reply[3 * i - 2] = redis.call('LLEN', key)
  reply[3 * i - 1] = string.sub(head, 1, tonumber(ARGV[1]))
  reply[3 * i] = #head
end
return reply
