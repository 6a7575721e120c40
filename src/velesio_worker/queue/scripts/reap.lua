-- Put the jobs of a worker that is lost, or that ends, back to the front of their lists, and strike it off.
--
-- KEYS[1]  {llama_queue}:workers      sorted set: worker -> end of its lease, in seconds
-- KEYS[2]  {llama_queue}:slots:<w>    hash: slot -> the list to whose front its job goes
-- KEYS[3]  {llama_queue}:only:<w>     list: the jobs that name the worker
-- KEYS[4]  llama_queue                list: where those go, to be told that it is gone
-- KEYS[5]  {llama_queue}:worker:<w>   hash: what the worker was and did
-- ARGV[1]  worker id
-- ARGV[2]  end of its lease as the caller saw it: whoever has beaten since then lives
-- ARGV[3]  '1': although its lease runs, since it has missed a beat and has no connection any more, or asks for it
--
-- The slots are named in KEYS[2] and share its hash tag.
--
-- Returns how many jobs were put back; -1: the worker lives, or somebody else was faster.
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) ~= tonumber(ARGV[2]) then
  return -1
end
local now = redis.call('TIME')
if ARGV[3] ~= '1' and tonumber(ends) > tonumber(now[1]) + tonumber(now[2]) / 1000000 then
  return -1
end
-- Move a job; false: there is none, or somebody else's key is no list.
local function move(from, to, side)
  local job = redis.pcall('LMOVE', from, to, side, 'RIGHT')
  if type(job) ~= 'table' then
    return job, false
  elseif string.find(job.err, 'WRONGTYPE', 1, true) ~= 1 then
    error(job.err)
  end
  return false, true
end
-- Put what lies in a list back to another one; where that is no list, to the one that all jobs come from.
local function back(from, to, side)
  local moved = 0
  while true do
    local job, foreign = move(from, to, side)
    if foreign and to ~= KEYS[4] then
      to = KEYS[4]
    elseif not job then
      return moved
    else
      moved = moved + 1
    end
  end
end
local moved = 0
local slots = redis.call('HGETALL', KEYS[2])
for i = 1, #slots, 2 do
  moved = moved + back(slots[i], slots[i + 1], 'RIGHT')
end
moved = moved + back(KEYS[3], KEYS[4], 'LEFT')
redis.call('DEL', KEYS[2], KEYS[5])
redis.call('ZREM', KEYS[1], ARGV[1])
return moved
