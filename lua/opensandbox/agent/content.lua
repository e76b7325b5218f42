--- Content blocks of prompts.
local base64 = require "opensandbox.base64"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"

local M = {}

--- @tparam string text
-- @treturn table block
function M.text(text)
  return { type = "text", text = options.argument("text", text, "string") }
end

--- @tparam string bytes of the image
-- @tparam string mime_type as `"image/png"`
-- @treturn table block
function M.image(bytes, mime_type)
  options.argument("bytes", bytes, "string")
  return { type = "image", data = base64.encode(bytes), mimeType = options.argument("mime_type", mime_type, "string") }
end

--- @tparam string bytes of the sound
-- @tparam string mime_type as `"audio/wav"`
-- @treturn table block
function M.audio(bytes, mime_type)
  options.argument("bytes", bytes, "string")
  return { type = "audio", data = base64.encode(bytes), mimeType = options.argument("mime_type", mime_type, "string") }
end

--- A resource that comes along.
-- @tparam string uri
-- @tparam string text its content
-- @tparam[opt] string mime_type
-- @treturn table block
function M.resource(uri, text, mime_type)
  options.argument("uri", uri, "string")
  return { type = "resource", resource = { uri = uri, text = options.argument("text", text, "string"), mimeType = mime_type } }
end

--- A resource that the agent may read by itself.
-- @tparam string uri
-- @tparam string name
-- @tparam[opt] string mime_type
-- @treturn table block
function M.resource_link(uri, name, mime_type)
  options.argument("uri", uri, "string")
  return { type = "resource_link", uri = uri, name = options.argument("name", name, "string"), mimeType = mime_type }
end

--- The blocks of a prompt.
-- @tparam string|table prompt text, one block, or a list of texts and blocks
-- @treturn table list of blocks
function M.blocks(prompt)
  options.argument("prompt", prompt, { "string", "table" })
  if type(prompt) == "string" or prompt.type then prompt = { prompt } end
  local list = json.array()
  for i, block in ipairs(prompt) do
    if type(block) == "string" then block = M.text(block) end
    if type(block) ~= "table" or type(block.type) ~= "string" then
      errors.raise(("prompt[%d]: a text or a content block expected"):format(i))
    end
    list[i] = block
  end
  if #list == 0 then errors.raise("the prompt is empty") end
  return list
end

return M
