--- Work that goes on while the script waits for something else: tasks that belong to an object, and queues worked off in order.
local core = require "opensandbox.core"
local task = require "opensandbox.task"
local tasks = require "opensandbox.tasks"

local M = {}

--- Starts a task that belongs to an object: `opensandbox.run` does not wait for its end.
-- @tparam function fn
-- @treturn userdata task
function M.spawn(fn, ...)
  local handle = tasks.spawn(fn, ...)
  task.scheduler().all[core.state(handle, "task")] = nil
  return handle
end

local Queue = {}
Queue.__index = Queue

--- Wakes those whose goal is reached.
local function advance(self)
  self.done = self.done + 1
  for i = #self.flushes, 1, -1 do
    local flush = self.flushes[i]
    if self.done >= flush.goal then
      table.remove(self.flushes, i)
      flush.condition:wake()
    end
  end
end

local function work(self)
  self.worker = task.current_task()
  local ok, err = true, nil
  while ok and self.first <= self.last do
    local item = self.items[self.first]
    self.items[self.first] = nil
    self.first = self.first + 1
    ok, err = task.pcall(self.handle, item)
    advance(self)
  end
  self.worker, self.running = nil, false
  if not ok then error(err, 0) end
end

local function start(self)
  if self.running or self.first > self.last then return end
  self.running = true
  M.spawn(work, self)
end

--- Adds an item. It is handled in a task of the queue's own, after those before it.
function Queue:push(item)
  self.last = self.last + 1
  self.items[self.last] = item
  start(self)
end

--- How many items wait to be handled.
function Queue:length()
  return self.last - self.first + 1
end

--- Waits until everything that is in the queue now was handled. Inside a handler of this queue there is nothing to wait for.
function Queue:flush()
  local goal = self.last
  if self.done >= goal or (self.worker and task.current_task() == self.worker) then return end
  start(self)
  local condition = task.condition(self.label, function() return self.done >= goal end)
  self.flushes[#self.flushes + 1] = { goal = goal, condition = condition }
  task.await(condition)
end

--- Makes a queue whose items are handled one after the other; a handler may wait.
-- @tparam string label for messages about deadlocks
-- @tparam function handle gets each item
function M.queue(label, handle)
  return setmetatable({ label = label, handle = handle, items = {}, first = 1, last = 0, done = 0, flushes = {} }, Queue)
end

--- Does something that several may ask for at once: the others wait for the first one's result.
-- @tparam table holder where it is noted that it is being done
-- @tparam string key
-- @tparam string label for messages about deadlocks
-- @tparam function fn
-- @return what fn returns (two values)
function M.once(holder, key, label, fn)
  local flight = holder[key]
  if flight then
    task.await(flight.condition)
    return flight[1], flight[2]
  end
  flight = {}
  flight.condition = task.condition(label, function() return flight.done == true end)
  holder[key] = flight
  local ok, value, err = task.pcall(fn)
  holder[key], flight.done = nil, true
  flight[1], flight[2] = ok and value or nil, not ok and value or err
  flight.condition:wake()
  if not ok then error(value, 0) end
  return value, err
end

return M
