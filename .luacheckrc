-- lua/ has to run on Lua 5.1, LuaJIT and everything up to 5.4
std = "min"
max_line_length = 140
exclude_files = { "build", "lua_modules", "node_modules" }
files["spec"] = { std = "min+busted" }
files["bench"] = { std = "lua54" }
files["opensandbox-scm-1.rockspec"] = { std = "rockspec" }
