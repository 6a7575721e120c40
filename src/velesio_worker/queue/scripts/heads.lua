-- How many jobs wait in each list, and the one that is next. Changes nothing.
--
-- KEYS     lists: jobs that wait
-- ARGV[1]  the largest job to be read whole, in bytes; of a larger one only so much is read
--
-- Returns {how many, the next job or its beginning, …}; an empty string where none waits.
local reply = {}
for i, key in ipairs(KEYS) do
  reply[2 * i - 1] = redis.call('LLEN', key)
  local head = redis.call('LINDEX', key, -1)
  reply[2 * i] = head and string.sub(head, 1, tonumber(ARGV[1])) or ''
end
return reply
