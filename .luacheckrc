-- lua/ has to run on Lua 5.1, LuaJIT and everything up to 5.4; what only some of them have is used where it is there
std = "min"
read_globals = {
  math = { fields = { "type", "tointeger" } },
  table = { fields = { "pack", "unpack" } },
  "rawlen", "unpack",
}
ignore = { "581" } -- not (x >= 0) is true for NaN, x < 0 is not
max_line_length = 140
exclude_files = { "library", "build", "build.luarocks", "lua_modules", "node_modules" }
files["spec"] = { std = "max+busted" }
files["examples/nvim"] = { read_globals = { "vim" } }
files["examples/love"] = { std = "min+love" }
files["bench"] = { std = "lua54" }
files[".ci"] = { std = "lua54" }
files["opensandbox-scm-1.rockspec"] = { std = "rockspec" }
-- runs on whatever Lua a sandbox has, and puts its own functions in the place of Lua's
files["csrc/runtime/execd/drivers"] = { std = "max", ignore = { "122", "211", "631" } }
