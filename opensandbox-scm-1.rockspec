rockspec_format = "3.0"
package = "opensandbox"
version = "scm-1"
source = { url = "." }
description = {
  summary = "Sandboxes for Lua: run commands, code and files in isolation",
  detailed = "Client of OpenSandbox servers, with an embedded runtime for Linux that needs no server.",
  license = "Apache-2.0",
}
supported_platforms = { "unix" }
dependencies = { "lua >= 5.1, < 5.5", "lua-cjson >= 2.1.0" }
external_dependencies = { CURL = { library = "curl" } }
build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "RelWithDebInfo",
    OSB_LUA_INCLUDE_DIR = "$(LUA_INCDIR)",
    LUADIR = "$(LUADIR)",
    LIBDIR = "$(LIBDIR)",
  },
}
test = { type = "command", command = "./dev test" }
