-- Who is next, and what each has had: what waits for one kind of capacity, by priority and tenant.
--
-- {llama_queue}:<kind>                          list: the jobs without priority and tenant; producers of old know no other
-- {llama_queue}:line:<kind>:<priority>:<tenant> list: a tenant's jobs, each beside its tag in the list …:tags
-- {llama_queue}:lines:<kind>                    sorted set: tag of each job in such a line -> since when it waits, in seconds
-- {llama_queue}:lines:<kind>:<priority>         sorted set: the same of those of one priority
-- {llama_queue}:fair:<kind>                     hash: `served`, `at:<priority>` and `now:<priority>`, see below; `mean`, what
--                                               a job costs; `tag`, the number of the last one; `lined`, how many wait in lines;
--                                               `session`, the last one's of a session; `passed:<priority>`, how often in a
--                                               row the next one was passed over
-- {llama_queue}:fair:<kind>:<priority>          sorted set: tenant that waits -> what it has had (its virtual time)
-- {llama_queue}:fair:<kind>:<priority>:had      sorted set: the same of tenants that wait for nothing, while it matters
-- {llama_queue}:idle:<kind>                     sorted set: <w>:<n>, a slot that waits for a job -> since when, in seconds
-- {llama_queue}:running:<kind>                  hash: <w>:<n> -> when it was taken, its cost, priority and tenant
-- {llama_queue}:warm:<session>                  string: the worker whose engine has read what that session begins with
--
-- A tag is <number>:<cost>, and of a job of a session <number>:<cost>:<session>; in `running` it is <cost>:<session>.
--
-- Among priorities it is stride scheduling, counted in jobs: `at` goes on by 1 / weight with each job, and `served` is
-- where the last one was taken. Among the tenants of one it is start-time fair queueing, counted in cost: `now` is what
-- the tenant had had whose job was begun last, and whoever comes anew begins there: who was idle has no credit for it
-- (Goyal, Vin and Cheng, SIGCOMM 1996; Sheng et al., OSDI 2024). As long as nothing lies in any line, all of that would
-- come to nothing: jobs without priority and tenant are then begun without it, at a cost of 0.
local WEIGHTS, PRIORITIES = {high = 16, normal = 4, low = 1}, {'high', 'normal', 'low'}
local KEPT = 7 * 86400  -- seconds; so long it is known what was served, once nothing is any more
local FRESH = 3  -- seconds; who waits says so at least every other second
local MOST_LOOKED_AT = 64  -- of those that wait, to see whether any is another worker's
local WARM_SECONDS, WARM_WINDOW, WARM_PASSES = 900, 32, 8  -- so long, so far and so often in a row warm jobs go first

local function queue_of(base, kind)
  local self = {}
  local ready, state, waiting, idle = base .. kind, base .. 'fair:' .. kind, base .. 'lines:' .. kind, base .. 'idle:' .. kind
  local running = base .. 'running:' .. kind

  local function sound(value)  -- what stands in a key may be anything
    local number = tonumber(value or nil)
    return number and number == number and number >= 0 and number < 1e15 and number or 0
  end
  local function get(field)
    return sound(redis.call('HGET', state, field))
  end
  local function set(field, value)
    redis.call('HSET', state, field, string.format('%.17g', value))
  end
  local function score(key, member, value)
    redis.call('ZADD', key, string.format('%.17g', value), member)
  end
  local function tenants(priority, most)
    return redis.call('ZRANGEBYSCORE', state .. ':' .. priority, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  end
  local function line(priority, tenant)
    return base .. 'line:' .. kind .. ':' .. priority .. ':' .. tenant
  end
  local function length(list)  -- 0 for what somebody else has put there
    local found = redis.pcall('LLEN', list)
    return type(found) == 'number' and found or 0
  end
  local function is_plain(priority, tenant)
    return priority == 'normal' and tenant == ''
  end
  local function tags(list)
    return list .. ':tags'
  end
  local function cost_of(tag)
    return type(tag) == 'string' and sound(string.match(tag, '^%d+:([^:]+)')) or 0
  end
  local function session_of(tag)  -- empty for none
    return type(tag) == 'string' and string.match(tag, '^%d+:[^:]+:(%x+)$') or ''
  end
  local function with_session(cost, session)
    return string.format('%.17g', cost) .. (session ~= '' and ':' .. session or '')
  end
  local function warm(session)
    return base .. 'warm:' .. session
  end

  -- Have a job count as one that waits since a moment; returns its tag, which says what it counts for.
  local function count_in(priority, counts, since)
    local tag = string.format('%d:%s', redis.call('HINCRBY', state, 'tag', 1), counts)
    redis.call('ZADD', waiting, string.format('%.3f', since), tag)
    redis.call('ZADD', waiting .. ':' .. priority, string.format('%.3f', since), tag)
    redis.call('HINCRBY', state, 'lined', 1)
    return tag
  end

  -- Have one count no more; returns since when it waited. Its tag may be gone.
  local function count_out(tag, priority)
    local since
    if type(tag) == 'string' then
      since = redis.call('ZSCORE', waiting, tag)
      redis.call('ZREM', waiting, tag)
      redis.call('ZREM', waiting .. ':' .. priority, tag)
    end
    redis.call('HINCRBY', state, 'lined', -1)
    return since
  end

  -- Have a job that comes into a line count; its tag lies beside it. With `look`, it is looked for jobs of sessions as
  -- long as it waits.
  function self.tag(key, priority, side, counts, since, look)
    local tag = count_in(priority, counts, since)
    if look then
      set('session', sound(string.match(tag, '^%d+')))
    end
    redis.call(side == 'LEFT' and 'LPUSH' or 'RPUSH', tags(key), tag)
  end

  -- Have one that goes, so far from the front of its line, count no more; returns its tag, and since when it waited.
  function self.untag(key, priority, place)
    local tag = redis.pcall('LINDEX', tags(key), -place)
    if type(tag) == 'string' then
      redis.call('LREM', tags(key), -1, tag)
    end
    return tag, count_out(tag, priority)
  end

  -- Have a tenant wait that has something to wait for.
  local function join(priority, tenant)
    local line_up, had = state .. ':' .. priority, state .. ':' .. priority .. ':had'
    if redis.call('ZSCORE', line_up, tenant) then
      return
    end
    if #tenants(priority, 1) == 0 then
      set('at:' .. priority, math.max(get('at:' .. priority), get('served')))
    end
    score(line_up, tenant, math.max(get('now:' .. priority), sound(redis.call('ZSCORE', had, tenant))))
    redis.call('ZREM', had, tenant)
  end

  -- Have one that has nothing left wait no more. What it had more than others counts as long as any of them waits.
  local function leave(priority, tenant)
    local key = line(priority, tenant)
    for _ = 1, is_plain(priority, tenant) and 0 or math.min(length(tags(key)), 10000) do
      self.untag(key, priority, 1)  -- of jobs that somebody else took away
    end
    local line_up, had = state .. ':' .. priority, state .. ':' .. priority .. ':had'
    local so_far, now = sound(redis.call('ZSCORE', line_up, tenant)), get('now:' .. priority)
    redis.call('ZREM', line_up, tenant)
    if #tenants(priority, 1) == 0 then
      now = math.max(now, so_far)
      set('now:' .. priority, now)
    end
    if so_far > now then
      score(had, tenant, so_far)
      redis.call('EXPIRE', had, KEPT)
    end
    for _, past in ipairs(redis.call('ZRANGEBYSCORE', had, '-inf', string.format('%.17g', now), 'LIMIT', 0, 16)) do
      redis.call('ZREM', had, past)
    end
  end

  local function charge(priority, tenant, cost)
    if cost == 0 then
      return
    end
    local line_up, had = state .. ':' .. priority, state .. ':' .. priority .. ':had'
    local so_far = redis.call('ZSCORE', line_up, tenant)
    if so_far then
      score(line_up, tenant, math.max(0, sound(so_far) + cost))
      return
    end
    local now = get('now:' .. priority)
    local after = math.max(now, sound(redis.call('ZSCORE', had, tenant))) + cost
    if after > now then
      score(had, tenant, after)
      redis.call('EXPIRE', had, KEPT)
    else
      redis.call('ZREM', had, tenant)
    end
  end

  -- Take note that a job is begun; `in_turn`: because it was the tenant's turn.
  local function serve(priority, tenant, cost, in_turn)
    local at = get('at:' .. priority)
    if #tenants(priority, 1) == 0 then
      at = math.max(at, get('served'))
    end
    set('served', math.max(get('served'), at))
    redis.call('EXPIRE', state, KEPT)
    set('at:' .. priority, at + 1 / WEIGHTS[priority])
    if in_turn then
      local line_up, had = state .. ':' .. priority, state .. ':' .. priority .. ':had'
      local so_far = redis.call('ZSCORE', line_up, tenant) or redis.call('ZSCORE', had, tenant)
      set('now:' .. priority, math.max(get('now:' .. priority), sound(so_far)))
    end
    charge(priority, tenant, cost)
  end

  -- Whether nobody waits but, perhaps, those without priority and tenant, who are no tenant either until others wait.
  local function alone()
    return redis.call('EXISTS', state .. ':high', state .. ':normal', state .. ':low') == 0
  end

  -- The list without priority and tenant is written to by whoever likes: see whether anything is in it.
  local function look_at_plain()
    if length(ready) > 0 then
      join('normal', '')
    elseif redis.call('ZSCORE', state .. ':normal', '') then
      leave('normal', '')
    end
  end

  -- The places of the next jobs, {priority, tenant, how far from the front of its line}, in the order in which they
  -- are begun if nothing else comes; and whether any tenant was believed to wait.
  function self.order(most)
    look_at_plain()
    local lines = {}
    for _, priority in ipairs(PRIORITIES) do
      local found, here = tenants(priority, most), {}
      for i = 1, #found, 2 do
        here[#here + 1] = {name = found[i], had = sound(found[i + 1]), place = 0}
      end
      if #here > 0 then
        lines[#lines + 1] = {priority = priority, at = get('at:' .. priority), tenants = here}
      end
    end
    local order, believed, mean = {}, #lines > 0, #lines > 0 and math.max(1, get('mean'))
    for _ = 1, believed and 3 * most or 0 do  -- each turn finds a job, or a tenant that has no more
      local of, who
      for _, one in ipairs(lines) do
        of = one.tenants[1] and (not of or one.at < of.at) and one or of
      end
      if not of or #order == most then
        break
      end
      for at, tenant in ipairs(of.tenants) do
        who = (not who or tenant.had < of.tenants[who].had) and at or who
      end
      local tenant = of.tenants[who]
      local plain = is_plain(of.priority, tenant.name)
      local key = plain and ready or line(of.priority, tenant.name)
      if length(key) > tenant.place then
        tenant.place = tenant.place + 1
        local tag = not plain and redis.pcall('LINDEX', tags(key), -tenant.place)
        order[#order + 1] = {key = key, priority = of.priority, tenant = tenant.name, place = tenant.place, tag = tag}
        tenant.had = tenant.had + (plain and mean or cost_of(tag))
        of.at = of.at + 1 / WEIGHTS[of.priority]
      else
        if tenant.place == 0 then  -- what somebody else took away
          leave(of.priority, tenant.name)
        end
        table.remove(of.tenants, who)
      end
    end
    return order, believed
  end

  -- Take note that a job was begun: it is in a slot, and no longer in its line.
  local function begun(field, priority, tenant, cost, session)
    local counts = with_session(cost, session)
    redis.call('HSET', running, field, string.format('%.3f %s %s %s', clock(), counts, priority, tenant))
  end

  -- Move a job from its place into an empty slot.
  local function move(one, slot, field, job)
    local plain, cost, tag = is_plain(one.priority, one.tenant), math.max(1, get('mean')), nil
    if plain and not job then
      redis.call('LMOVE', one.key, slot, 'RIGHT', 'LEFT')
    elseif plain then
      redis.call('LREM', one.key, -1, job)
      redis.call('LPUSH', slot, job)
    else
      tag = self.untag(one.key, one.priority, one.place)
      cost = cost_of(tag)
      if job then
        redis.call('LREM', one.key, -1, job)
        redis.call('LPUSH', slot, job)
      else
        redis.call('LMOVE', one.key, slot, 'RIGHT', 'LEFT')
      end
    end
    serve(one.priority, one.tenant, cost, not job)
    if length(one.key) == 0 then
      leave(one.priority, one.tenant)
    end
    begun(field, one.priority, one.tenant, cost, session_of(tag))
  end

  -- Whether a job of a session may wait: the oldest job in a line is no younger than the last one of a session.
  local function sessions_wait()
    local last = get('session')
    local oldest = last > 0 and redis.call('ZRANGEBYSCORE', waiting, '-inf', '+inf', 'LIMIT', 0, 1)[1]
    return oldest and sound(string.match(oldest, '^%d+')) <= last
  end

  -- The first of some jobs that goes on with what a worker's engine has read; nil for none. Only those of the first one's
  -- priority are looked at.
  local function warm_one(order, worker)
    for _, one in ipairs(order) do
      local session = one.priority == order[1].priority and session_of(one.tag) or ''
      if session ~= '' and redis.pcall('GET', warm(session)) == worker then
        return one
      end
    end
    return nil
  end

  -- Move the next job into an empty slot, or one of the next that is warm on the slot's worker; one that is kept for it
  -- before all. Returns it, or false if none waits, and whether it is warm. The one that is next is passed over only so
  -- often.
  function self.take(slot, field)
    local kept, own = self.take_kept(slot, field)
    if kept then
      return kept, own
    end
    if alone() then
      local job = redis.pcall('LMOVE', ready, slot, 'RIGHT', 'LEFT')
      if type(job) ~= 'string' then
        return false, false
      end
      begun(field, 'normal', '', 0, '')
      return job, false
    end
    local look, order, believed = sessions_wait(), {}, false
    for _ = 1, 64 do  -- a tenant whose jobs somebody else took away is not to hold others up
      order, believed = self.order(look and WARM_WINDOW or 1)
      if order[1] or not believed then
        break
      end
    end
    local first = order[1]
    if not first then
      return false, false
    end
    local so_often = 'passed:' .. first.priority  -- of each, else the turns of one would be for nothing in another
    local passed = get(so_often)
    local one = look and passed < WARM_PASSES and warm_one(order, string.match(field, '^[^:]+')) or nil
    local passes = one and one ~= first
    if passes or passed > 0 then
      set(so_often, passes and passed + 1 or 0)
    end
    move(one or first, slot, field, passes and redis.call('LINDEX', one.key, -one.place) or nil)
    return redis.call('LINDEX', slot, -1), one ~= nil
  end

  -- Move a certain job that waits into an empty slot; returns whether it did.
  function self.pick(slot, field, job, most)
    for _, one in ipairs(self.order(most)) do
      if redis.call('LINDEX', one.key, -one.place) == job then
        move(one, slot, field, job)
        return true
      end
    end
    return false
  end

  -- The list in which a tenant's jobs wait, and whether a tag lies beside each; nil if somebody else uses its name.
  function self.list(priority, tenant)
    local key = is_plain(priority, tenant) and ready or line(priority, tenant)
    if type(redis.pcall('LLEN', key)) ~= 'number' then
      return nil
    end
    return key, key ~= ready
  end

  -- Move the first of a tenant's jobs to a list, or to the end of its line of another priority.
  function self.shift(priority, tenant, destination, other)
    local key, tagged = self.list(priority, tenant)
    local counts, since = string.format('%.17g', math.max(1, get('mean'))), nil
    if tagged then
      local tag
      tag, since = self.untag(key, priority, 1)
      counts = type(tag) == 'string' and string.match(tag, '^%d+:(.*)$') or '0'
    end
    redis.call('LMOVE', key, destination, 'RIGHT', 'LEFT')
    if length(key) == 0 then
      leave(priority, tenant)
    end
    if other then
      join(other, tenant)
    end
    if other and not is_plain(other, tenant) then
      self.tag(destination, other, 'LEFT', counts, sound(since) > 0 and sound(since) or clock(), true)
    end
  end

  -- Put what lies in a slot where it is to wait, at one side of its line; where somebody waits, that gets it: with some
  -- `patience`, in seconds, the one whose engine has read its session, which is then returned, if it serves the `model`.
  function self.put(slot, priority, tenant, cost, session, side, patience, model)
    local spare = redis.call('LLEN', ready)
    local most = spare + (session ~= '' and MOST_LOOKED_AT or 1)
    local waits = redis.call('ZRANGEBYSCORE', idle, string.format('%.3f', clock() - FRESH), '+inf', 'LIMIT', 0, most)
    if #waits > spare and session ~= '' and (patience or 0) > 0 then
      local undisturbed, worker = pcall(self.keep, slot, priority, tenant, cost, session, patience, model, waits)
      if undisturbed and worker then
        return worker
      end
    end
    if is_plain(priority, tenant) or #waits > spare then
      redis.call('LMOVE', slot, ready, 'RIGHT', side)
      return nil
    end
    local key = line(priority, tenant)
    local job = redis.pcall('LMOVE', slot, key, 'RIGHT', side)
    if type(job) == 'table' then  -- the line is none: somebody else uses its name
      redis.call('LMOVE', slot, ready, 'RIGHT', side)
    elseif job then
      self.tag(key, priority, side, with_session(cost, session), clock(), session ~= '')
      join(priority, tenant)
    end
    return nil
  end

  -- Say that a slot waits for a job that comes, or that it does not.
  function self.waits(field, whether)
    if whether then
      redis.call('ZADD', idle, string.format('%.3f', clock()), field)
      redis.call('EXPIRE', idle, 20 * FRESH)
    else
      redis.pcall('ZREM', idle, field)  -- where that is none, nobody waits
    end
  end

  -- Take note of a job that came into a slot in another way than from here.
  function self.got(field, priority, tenant, cost, session)
    self.waits(field, false)
    if redis.call('HEXISTS', running, field) == 1 then
      return
    end
    if is_plain(priority, tenant) and alone() then
      cost = 0
    else
      look_at_plain()
      serve(priority, tenant, cost, true)
    end
    begun(field, priority, tenant, cost, session)
  end

  -- What a slot's job was begun as: cost, priority, tenant and session; nil if it was not begun from here.
  function self.begun(field)
    local cost, priority, tenant = string.match(redis.call('HGET', running, field) or '', '^%S+ (%S+) (%S+) (.*)$')
    if WEIGHTS[priority or ''] then
      return sound(string.match(cost, '^[^:]+')), priority, tenant, string.match(cost, ':(%x+)$') or ''
    end
    return nil
  end

  -- Take note that a slot's job is not run any more; `used`: what it did cost, nil if that is as it was estimated;
  -- `held`: '1' if the engine holds what the job's session begins with, '0' if it turned out not to, else empty; behind a
  -- colon the session, where the worker knows it: beside what lay in the plain list there is none.
  function self.over(field, used, held)
    local cost, priority, tenant, session = self.begun(field)
    redis.call('HDEL', running, field)
    local does, told = string.match(held or '', '^([01]):?(%x*)$')
    session = told and told ~= '' and told or session
    if cost and session ~= '' and does == '1' then
      redis.call('SET', warm(session), string.match(field, '^[^:]+'), 'EX', WARM_SECONDS)
    elseif cost and session ~= '' and does == '0' then
      redis.call('DEL', warm(session))
    end
    if cost and used then
      if cost > 0 or not is_plain(priority, tenant) then
        charge(priority, tenant, used - cost)
      end
      local mean = used > 0 and get('mean')  -- else it was ended without having run
      if mean then
        set('mean', mean == 0 and used or mean + (used - mean) / 16)
      end
      if mean == 0 then
        redis.call('EXPIRE', state, KEPT)
      end
    end
  end

  -- Put what lies in a slot back to the front of its line; returns whether it was begun from here.
  function self.put_back(slot, field)
    local cost, priority, tenant, session = self.begun(field)
    if not cost then
      return false
    end
    charge(priority, tenant, -cost)
    redis.call('HDEL', running, field)
    self.put(slot, priority, tenant, cost, session, 'RIGHT')
    return true
  end

  local inner = {weights = WEIGHTS, length = length, count_in = count_in, count_out = count_out, serve = serve, begun = begun}
  function inner.read_tag(tag)
    return cost_of(tag), session_of(tag)
  end
  inner.with_session = with_session
  keeps(self, base, kind, inner)
  return self
end

