--- Walking over a list that the server hands out in pages.
local M = {}

--- An iterator over the items of all pages, fetched when they are needed. A page that fails raises its error.
-- @tparam ?integer first page to begin with (default 1)
-- @tparam function fetch (page) → `{items=, pagination={has_next_page=}}`, or nil, err
-- @treturn function iterator; each id comes once: an item made meanwhile moves the others to the next page
function M.each(first, fetch)
  local page, items, position, is_last = (first or 1) - 1, {}, 0, false
  local seen = {}
  return function()
    while true do
      position = position + 1
      local item = items[position]
      if item and not seen[item.id] then
        seen[item.id] = true
        return item
      elseif not item then
        if is_last then return nil end
        page, position = page + 1, 0
        local answer, err = fetch(page)
        if not answer then error(err, 0) end
        items = answer.items or {}
        is_last = #items == 0 or not (answer.pagination and answer.pagination.has_next_page)
      end
    end
  end
end

--- Adds what asks for one page to a query (a list of pairs).
-- @tparam table query
-- @tparam ?integer page
-- @tparam ?integer page_size
function M.add_to_query(query, page, page_size)
  if page then query[#query + 1] = { "page", ("%d"):format(page) } end
  if page_size then query[#query + 1] = { "pageSize", ("%d"):format(page_size) } end
end

return M
