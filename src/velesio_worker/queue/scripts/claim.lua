-- Make a worker the owner of a job's next attempt.
--
-- KEYS[1]  {result:<id>}:job   hash: the job's state
-- KEYS[2]  result:<id>         string: the job's result
-- KEYS[3]  {result:<id>}:cancel   anything: somebody wants the job to be stopped
-- KEYS[4]  stream:<id>         stream: where the first attempt begins at once; only if that is wanted, not in a Cluster
-- ARGV[1]  worker id
-- ARGV[2]  name of the worker's slot that holds the job
-- ARGV[3]  nonce of this claim: the same nonce again gives the same answer, so a lost reply costs nothing
-- ARGV[4]  max_attempts
-- ARGV[5]  claim (its nonce) that may be taken over, because its owner was found gone; '' for none
-- ARGV[6]  life of the hash, in seconds
-- ARGV[7]  what all the queue's keys begin with, {llama_queue}:, if note is to be taken of the job as got.lua does, which
--          is not for a Cluster, else empty; with it the next five are got.lua's:
-- ARGV[8]  kind
-- ARGV[9]  priority
-- ARGV[10] tenant
-- ARGV[11] what the job is estimated to cost
-- ARGV[12] its session, in hexadecimal digits; empty for none
-- ARGV[13] life of the stream, in seconds; this and the next two only with KEYS[4]
-- ARGV[14] event of the entry that begins attempt 1, start
-- ARGV[15] its data, JSON
--
-- Returns {status, attempt, first, owner, slot, nonce, counted, base, suspect, begun}; `first` is 1 on the first attempt of a
-- submission, `counted` is how many attempts of it count, this one too, `base` how many belong to earlier ones,
-- `suspect` is 1 if an engine was lost while it read the request of this submission, `begun` if attempt 1 is the
-- caller's and its stream holds the entry that begins it.
--   finished   the result is there already; nothing was changed
--   held       another slot owns the job; nothing was changed
--   claimed    the attempt is the caller's
--   cancelled  the attempt is the caller's, to end it: somebody asked for that
--   exhausted  the attempt is the caller's, to end it: max_attempts were lost already
--
-- An error beginning with DAMAGED: somebody else has written into the hash.
--
-- Hash: attempt (counts up for ever), base (attempts of earlier submissions under this id), returned (attempts
-- handed back in good order, which do not count), owner, slot, nonce, cancel, suspect, claimed_at, finished_at,
-- finished_by.
if ARGV[7] ~= '' then  -- first: of whatever is wrong with the job's own keys its slot knows nothing
  pcall(queue_of(ARGV[7], ARGV[8]).got, ARGV[1] .. ':' .. ARGV[2], ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12])
end
local state = redis.call('HMGET', KEYS[1],
  'attempt', 'base', 'returned', 'owner', 'slot', 'nonce', 'cancel', 'finished_by', 'claimed_at', 'suspect')
local attempt, base, returned = count(state[1], 0), count(state[2], 0), count(state[3], 0)
if not (attempt and base and returned) then
  return redis.error_reply('DAMAGED ' .. KEYS[1] .. ' holds counts that are none')
end
local owner, slot, nonce = state[4] or '', state[5] or '', state[6] or ''

if redis.call('EXISTS', KEYS[2]) == 1 then
  return {'finished', attempt, 0, owner, slot, nonce, 0, base, 0, 0}
end

local mine = owner == ARGV[1] and slot == ARGV[2]
if not (mine and nonce == ARGV[3]) then
  if owner ~= '' and not mine and nonce ~= ARGV[5] then
    return {'held', attempt, 0, owner, slot, nonce, 0, base, 0, 0}
  end
  if state[8] then
    -- An earlier submission under this id ended and its result has expired: begin anew, with rising attempts. A flag
    -- that came after that end was meant for it; one for this submission (cancel.lua) would have begun anew before.
    base, returned, state[7], state[10] = attempt, 0, false, false
    redis.call('HDEL', KEYS[1], 'finished_by', 'finished_at', 'cancel', 'suspect')
    redis.call('DEL', KEYS[3])
  end
  if attempt > base and not state[9] then
    base, returned = attempt, 0  -- no worker has claimed it: what others wrote is no attempt to go on from
  end
  attempt = attempt + 1
  redis.call('HSET', KEYS[1], 'attempt', attempt, 'base', base, 'returned', returned,
    'owner', ARGV[1], 'slot', ARGV[2], 'nonce', ARGV[3], 'claimed_at', math.floor(clock()))
end
redis.call('EXPIRE', KEYS[1], ARGV[6])

local counted = attempt - base - returned
local status = 'claimed'
if state[7] == '1' or redis.call('EXISTS', KEYS[3]) == 1 then
  status = 'cancelled'
elseif counted > tonumber(ARGV[4]) then
  status = 'exhausted'
end
local first, suspect = (attempt == base + 1) and 1 or 0, state[10] == '1' and 1 or 0
local begun = 0
if KEYS[4] and attempt == 1 then
  local kind, how, at = redis.call('TYPE', KEYS[4]).ok, 'written', -1
  if kind == 'stream' then
    how, at = followed(KEYS[4], '1', 0, 14)
  elseif kind ~= 'none' then
    how = kind  -- somebody else's: whoever writes there next says so
  end
  if how == 'written' and at < 0 and status == 'claimed' then
    -- In vain where others wrote greater ids and deleted them.
    local added = redis.pcall('XADD', KEYS[4], '1-0', 'event', ARGV[14], 'data', ARGV[15])
    if type(added) == 'string' then
      at = 0
      redis.call('EXPIRE', KEYS[4], ARGV[13])
    end
  end
  begun = (how == 'written' and at == 0) and 1 or 0
end
return {status, attempt, first, ARGV[1], ARGV[2], ARGV[3], counted, base, suspect, begun}
