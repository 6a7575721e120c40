-- Move certain jobs from the front of a tenant's line to a list where they are taken at once. Each is asked for by the
-- SHA-1 of its bytes, so that none goes which the caller has not seen: a job that is gone meanwhile is passed over.
--
-- KEYS[1]  {llama_queue}:<kind>    list: the jobs without priority and tenant; beside it lie all of fair.lua's
-- KEYS[2]  {llama_queue}:manage…   list: where the jobs go
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  tenant
-- ARGV[4]  priority
-- ARGV[5…] the jobs, the one that is next first
--
-- Returns the places in that list, from 1 on, of those that were moved.
local queue = queue_of(ARGV[1], ARGV[2])
local from, moved = queue.list(ARGV[4], ARGV[3]), {}
for i = 5, from and type(redis.pcall('LLEN', KEYS[2])) == 'number' and #ARGV or 0 do
  local job = redis.call('LINDEX', from, -1)
  if job and redis.sha1hex(job) == ARGV[i] then
    queue.shift(ARGV[4], ARGV[3], KEYS[2])
    moved[#moved + 1] = i - 4
  end
end
return moved
