-- Read what is next, for somebody who may choose. Changes nothing.
--
-- KEYS[1]  {llama_queue}:<kind>           list: jobs that wait; beside it lie all of fair.lua's
-- ARGV[1]  how many to read at most
-- ARGV[2]  the largest to be read, in bytes; a larger one is an empty string in the reply
-- ARGV[3]  how many bytes to look at, all together
-- ARGV[4]  what all the queue's keys begin with, {llama_queue}:, if the list is that of a kind with lines, else empty
-- ARGV[5]  kind
--
-- Returns the jobs, the one that is next first.
local waiting, looked, most = {}, 0, tonumber(ARGV[1])
local order = ARGV[4] ~= '' and queue_of(ARGV[4], ARGV[5]).order(most)
for place = 1, order and #order or most do
  local payload
  if order then
    payload = redis.call('LINDEX', order[place].key, -order[place].place)
  else
    payload = redis.call('LINDEX', KEYS[1], -place)
  end
  if not payload or looked > tonumber(ARGV[3]) then
    break
  end
  looked = looked + #payload
  waiting[place] = #payload <= tonumber(ARGV[2]) and payload or ''
end
return waiting
