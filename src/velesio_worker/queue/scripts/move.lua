-- Move a tenant's jobs, the oldest first, from one priority to the end of its line of another. Not more than are wanted.
--
-- KEYS[1]  {llama_queue}:<kind>   list: the jobs without priority and tenant; beside it lie all of fair.lua's
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  tenant
-- ARGV[4]  the priority that they have
-- ARGV[5]  the one that they get
-- ARGV[6]  how many
--
-- Returns how many were moved; -1 if somebody else uses the name of a line.
local queue = queue_of(ARGV[1], ARGV[2])
local from, to = queue.list(ARGV[4], ARGV[3]), queue.list(ARGV[5], ARGV[3])
if not from or not to then
  return -1
end
local moved = math.min(redis.call('LLEN', from), tonumber(ARGV[6]))
for _ = 1, moved do
  queue.shift(ARGV[4], ARGV[3], to, ARGV[5])
end
return moved
