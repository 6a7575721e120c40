-- Jobs that are kept for one worker for a moment, although others are free: its engine has read what they begin with.
--
-- {llama_queue}:kept:<kind>:<w>   list: the jobs, each beside what is known of it in the list …:tags: until when it is
--                                 kept, in seconds, its tag (fair.lua), its priority and its tenant, with spaces between
-- {llama_queue}:kept:<kind>       sorted set: worker -> until when the oldest of its jobs is kept
-- {llama_queue}:bell:<w>          stream: something is kept for the worker; `kept` is the kind
--
-- None is kept for longer than one that came before it, so the oldest is the first that is to be let go.
local BELL_ENTRIES, BELL_SECONDS, MOST_LET_GO = 16, 60, 64

-- Give a queue what has to do with them. `inner` is what fair.lua has for that: `ready`, `length`, `count_in`, `count_out`,
-- `read_tag`, `serve` and `begun`.
local function keeps(self, base, kind, inner)
  local kept = base .. 'kept:' .. kind

  local function is(key, wanted)
    local found = redis.call('TYPE', key).ok
    return found == wanted or found == 'none'
  end
  local function beside(list)
    return list .. ':tags'
  end

  -- What is known of a job, the oldest (-1) or the newest (0) that is kept in a list. Where that is gone, it is nobody's.
  local function known(list, place)
    local text = redis.pcall('LINDEX', beside(list), place)
    local ends, tag, priority, tenant = string.match(type(text) == 'string' and text or '', '^(%S+) (%S+) (%S+) (.*)$')
    if not inner.weights[priority or ''] then
      priority, tenant = 'normal', ''
    end
    local cost, session = inner.read_tag(tag)
    return {ends = moment(ends) or 0, tag = tag, priority = priority, tenant = tenant, cost = cost, session = session}
  end

  -- Have the sorted set say what is true of a worker's list.
  local function settle(worker, list)
    if inner.length(list) == 0 then
      for _ = 1, math.min(inner.length(beside(list)), MOST_LET_GO) do  -- of jobs that somebody else took away
        local one = known(list, -1)
        inner.count_out(one.tag, one.priority)
        redis.call('LTRIM', beside(list), 0, -2)
      end
      redis.pcall('ZREM', kept, worker)
    else
      redis.pcall('ZADD', kept, string.format('%.6f', known(list, -1).ends), worker)
    end
  end

  -- Whether anybody but a worker waits; `waits`: <w>:<n> of those that do.
  local function others(waits, worker)
    for _, field in ipairs(waits) do
      if string.match(field, '^[^:]+') ~= worker then
        return true
      end
    end
    return false
  end

  -- The list of the worker for which a job may be kept, and that worker; nil for none: it has to live and to serve the
  -- model, and no more is kept for it than it runs at a time. If nobody else waits, it gets the job as it is.
  local function place(session, model, waits)
    local worker = redis.call('GET', base .. 'warm:' .. session)
    if not worker or not string.find(worker, '^[%w._-]+$') or not others(waits, worker) then
      return nil
    end
    local hash, list = base .. 'worker:' .. worker, kept .. ':' .. worker
    if not lives(base .. 'workers', hash, worker) then
      return nil
    end
    local facts = redis.call('HMGET', hash, kind .. '_state', kind .. '_slots', kind .. '_model', 'stage')
    local served = facts[3] or ''
    if facts[1] ~= 'ready' or facts[4] == 'stopping' or (model ~= '' and served ~= '' and served ~= model) then
      return nil
    end
    if not (is(list, 'list') and is(beside(list), 'list') and is(kept, 'zset') and is(base .. 'bell:' .. worker, 'stream')) then
      return nil  -- somebody else uses one of the names
    end
    if inner.length(list) == 0 then
      settle(worker, list)
    end
    return inner.length(list) < math.max(1, count(facts[2], 1) or 1) and list or nil, worker
  end

  -- Keep what lies in a slot for the worker that has read what its session begins with, and ring. Returns the worker; nil
  -- if it is not to be kept, and then nothing was done.
  function self.keep(slot, priority, tenant, cost, session, patience, model, waits)
    local list, worker = place(session, model, waits)
    local ends = clock() + patience
    if not list or ends < known(list, 0).ends or not redis.call('LMOVE', slot, list, 'RIGHT', 'LEFT') then
      return nil
    end
    local tag = inner.count_in(priority, inner.with_session(cost, session), clock())
    redis.call('LPUSH', beside(list), string.format('%.6f %s %s %s', ends, tag, priority, tenant))
    settle(worker, list)
    local bell = base .. 'bell:' .. worker
    redis.call('XADD', bell, 'MAXLEN', '~', BELL_ENTRIES, '*', 'kept', kind)
    redis.call('EXPIRE', bell, BELL_SECONDS)
    return worker
  end

  -- Move the oldest job that is kept for a worker into an empty slot; returns it, or false.
  local function take_of(worker, slot, field)
    local list = kept .. ':' .. worker
    if inner.length(list) == 0 then
      return false
    end
    local one = known(list, -1)
    redis.call('LMOVE', list, slot, 'RIGHT', 'LEFT')
    redis.pcall('LTRIM', beside(list), 0, -2)
    settle(worker, list)
    inner.count_out(one.tag, one.priority)
    inner.serve(one.priority, one.tenant, one.cost, false)
    inner.begun(field, one.priority, one.tenant, one.cost, one.session)
    return redis.call('LINDEX', slot, -1)
  end

  -- Move a job that is kept for the slot's worker into the slot, or one that was kept for another one for long enough.
  -- Returns it, or false, and whether it is the worker's own.
  function self.take_kept(slot, field)
    local worker = string.match(field, '^[^:]+')
    if redis.call('EXISTS', kept, kept .. ':' .. worker) == 0 then
      return false, false
    end
    local own = take_of(worker, slot, field)
    if own then
      return own, true
    end
    local due = redis.pcall('ZRANGEBYSCORE', kept, '-inf', string.format('%.6f', clock()), 'LIMIT', 0, 16)
    for _, other in ipairs(due) do  -- of an error there are none
      local job = take_of(other, slot, field)
      if job then
        return job, false
      end
      settle(other, kept .. ':' .. other)
    end
    return false, false
  end

  -- Have what was kept for a worker for long enough, or all of it, wait for whoever comes; returns how many jobs.
  function self.let_go(worker, all)
    local list, gone = kept .. ':' .. worker, 0
    for _ = 1, math.min(inner.length(list), MOST_LET_GO) do
      local one = known(list, -1)
      if one.ends > clock() and not all then
        break
      end
      self.put(list, one.priority, one.tenant, one.cost, one.session, 'RIGHT')
      redis.pcall('LTRIM', beside(list), 0, -2)
      inner.count_out(one.tag, one.priority)
      gone = gone + 1
    end
    settle(worker, list)
    return gone
  end
end

