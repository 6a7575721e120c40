-- Put the jobs of a worker that is lost, or that ends, back to the front of their lists, and strike it off.
--
-- KEYS[1]  {llama_queue}:workers      sorted set: worker -> end of its lease, in seconds
-- KEYS[2]  {llama_queue}:slots:<w>    hash: slot -> the list to whose front its job goes
-- KEYS[3]  {llama_queue}:only:<w>     list: the jobs that name the worker
-- KEYS[4]  llama_queue                list: where those go, to be told that it is gone
-- KEYS[5]  {llama_queue}:worker:<w>   hash: what the worker was and did
-- KEYS[6]  {llama_queue}:returned     hash: what a lost worker held -> how many were lost with it; not for long
-- KEYS[7]  {llama_queue}:suspects     list: where that goes which too many were lost with
-- ARGV[1]  worker id
-- ARGV[2]  end of its lease as the caller saw it: whoever has beaten since then lives
-- ARGV[3]  '1': although its lease runs, since it has missed a beat and has no connection any more, or asks for it
-- ARGV[4]  '1': it was lost with what it held; '0': it ends in good order
-- ARGV[5]  life of KEYS[6], in seconds
-- ARGV[6]  how many workers may be lost with a job that nobody has read yet: it lies in a slot `intake`
-- ARGV[7]  how many may be lost with another one
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
-- Where a job goes that a lost worker held: aside, if it took others with it; such a one is not to stand before the rest.
local function place(from, to)
  local job = ARGV[4] == '1' and redis.pcall('LINDEX', from, -1)
  if type(job) ~= 'string' then
    return to
  end
  local name = #job .. ':' .. redis.sha1hex(string.sub(job, 1, 4096) .. string.sub(job, -4096))
  local lost = redis.pcall('HINCRBY', KEYS[6], name, 1)
  if type(lost) ~= 'number' then
    return to
  end
  redis.call('EXPIRE', KEYS[6], ARGV[5])
  return lost >= tonumber(string.sub(from, -7) == ':intake' and ARGV[6] or ARGV[7]) and KEYS[7] or to
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
  moved = moved + back(slots[i], place(slots[i], slots[i + 1]), 'RIGHT')
end
moved = moved + back(KEYS[3], KEYS[4], 'LEFT')
redis.call('DEL', KEYS[2], KEYS[5])
redis.call('ZREM', KEYS[1], ARGV[1])
return moved
