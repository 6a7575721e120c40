-- Put the jobs of a worker that is lost, or that ends, back to the front of their lists, and strike it off.
--
-- KEYS[1]  {llama_queue}:workers      sorted set: worker -> end of its lease, in seconds
-- KEYS[2]  {llama_queue}:slots:<w>    hash: slot -> the list to whose front its job goes
-- KEYS[3]  {llama_queue}:only:<w>     list: the jobs that name the worker
-- KEYS[4]  llama_queue                list: where those go, to be told that it is gone
-- KEYS[5]  {llama_queue}:worker:<w>   hash: what the worker was and did
-- KEYS[6]  {llama_queue}:returned     hash: what a lost worker held -> how many were lost with it; not for long
-- KEYS[7]  {llama_queue}:suspects     list: where that goes which too many were lost with
-- KEYS[8…] the other lists that a job may go back to
-- ARGV[1]  worker id
-- ARGV[2]  end of its lease as the caller saw it: whoever has beaten since then lives
-- ARGV[3]  '1': although its lease runs, since it has missed a beat and has no connection any more, or asks for it
-- ARGV[4]  what the names of the worker's slots begin with, {llama_queue}:active:<w>:
-- ARGV[5]  how many jobs, and how many slots, are looked at
-- ARGV[6]  '1': it was lost with what it held; '0': it ends in good order
-- ARGV[7]  life of KEYS[6], in seconds
-- ARGV[8]  how many workers may be lost with a job that nobody has read yet: it lies in a slot `intake`
-- ARGV[9]  how many may be lost with another one
-- ARGV[10] what all the queue's keys begin with, {llama_queue}:
-- ARGV[11…] the kinds that have lines (fair.lua)
--
-- KEYS[2] names slots and lists, and anybody may have written it: of the slots those count that are the worker's own,
-- and of the lists those in KEYS. Nothing here goes on for longer than ARGV[5] says.
--
-- Returns {how many jobs were put back, 1 if some are left: then it is to be called again}; {-1, 0}: the worker lives,
-- or somebody else was faster.
local ends, seen = moment(redis.call('ZSCORE', KEYS[1], ARGV[1])), moment(ARGV[2])
if not ends or ends ~= seen or (ARGV[3] ~= '1' and ends > clock()) then
  return {-1, 0}
end
local most, moved, homes = tonumber(ARGV[5]), 0, {[KEYS[4]] = true}
for i = 8, #KEYS do
  homes[KEYS[i]] = true
end
-- Move a job; false: there is none, or somebody else's key is no list, which the second value says.
local function move(from, to, side)
  local job = redis.pcall('LMOVE', from, to, side, 'RIGHT')
  if type(job) ~= 'table' then
    return job, false
  elseif string.find(job.err, 'WRONGTYPE', 1, true) ~= 1 then
    error(job.err)
  end
  return false, true
end
-- Where a job goes that a lost worker held: aside, if it took others with it; such a one is not to stand before the rest.
local function place(from, to)
  local job = ARGV[6] == '1' and redis.pcall('LINDEX', from, -1)
  if type(job) ~= 'string' then
    return to
  end
  local name = #job .. ':' .. redis.sha1hex(string.sub(job, 1, 4096) .. string.sub(job, -4096))
  local lost = redis.pcall('HINCRBY', KEYS[6], name, 1)
  if type(lost) ~= 'number' then
    return to
  end
  redis.call('EXPIRE', KEYS[6], ARGV[7])
  return lost >= tonumber(string.sub(from, -7) == ':intake' and ARGV[8] or ARGV[9]) and KEYS[7] or to
end
-- Put what lies in a list back to another one; where that is no list, to the one that all jobs come from.
local function back(from, to, side)
  local length = redis.pcall('LLEN', from)
  for _ = 1, math.min(type(length) == 'number' and length or 0, most - moved) do
    local job, foreign = move(from, to, side)
    if foreign and to ~= KEYS[4] then
      to = KEYS[4]
      job = move(from, to, side)
    end
    if not job then
      return
    end
    moved = moved + 1
  end
end
local function field_of(slot)  -- what is behind active:
  return string.sub(slot, #ARGV[10] + 8)
end
local function its_own(slot)
  return string.sub(slot, 1, #ARGV[4]) == ARGV[4] and string.find(slot, '^[%w-]+$', #ARGV[4] + 1)
end
-- Put a job back to the line that it was taken from; false if it was taken from none.
local function lined(slot, aside)
  for i = 11, #ARGV do
    local queue = queue_of(ARGV[10], ARGV[i])
    local sound, was = pcall(function()
      if not aside and redis.call('LLEN', slot) == 1 then
        return queue.put_back(slot, field_of(slot))
      end
      queue.over(field_of(slot))
    end)
    if sound and was then
      moved = moved + 1
      return true
    end
  end
  return false
end
local page = redis.call('HSCAN', KEYS[2], '0', 'COUNT', ARGV[5])
local slots = page[2]
for i = 1, #slots, 2 do  -- before any is put back: where a slot waits, that is where it would go
  for k = 11, its_own(slots[i]) and #ARGV or 0 do
    queue_of(ARGV[10], ARGV[k]).waits(field_of(slots[i]), false)
  end
end
for i = 1, #slots, 2 do
  local slot, home = slots[i], slots[i + 1]
  if its_own(slot) then
    local to = place(slot, homes[home] and home or KEYS[4])
    if not lined(slot, to == KEYS[7]) then
      back(slot, to, 'RIGHT')
    end
  end
  if moved >= most then
    return {moved, 1}
  end
  redis.call('HDEL', KEYS[2], slot)
end
if page[1] ~= '0' then
  return {moved, 1}
end
back(KEYS[3], KEYS[4], 'LEFT')
if moved >= most then
  return {moved, 1}
end
for i = 11, #ARGV do
  pcall(queue_of(ARGV[10], ARGV[i]).let_go, ARGV[1], true)
end
redis.call('DEL', KEYS[2], KEYS[5])
redis.call('ZREM', KEYS[1], ARGV[1])
return {moved, 0}
