-- Read what waits at the front of a list, for somebody who may choose. Changes nothing.
--
-- KEYS[1]  {llama_queue}:image            list: jobs that wait
-- ARGV[1]  how many to read at most
-- ARGV[2]  the largest to be read, in bytes; a larger one is an empty string in the reply
-- ARGV[3]  how many bytes to look at, all together
--
-- Returns the jobs, the one that is next first.
local waiting, looked = {}, 0
for place = 1, tonumber(ARGV[1]) do
  local payload = redis.call('LINDEX', KEYS[1], -place)
  if not payload or looked > tonumber(ARGV[3]) then
    break
  end
  looked = looked + #payload
  waiting[place] = #payload <= tonumber(ARGV[2]) and payload or ''
end
return waiting
