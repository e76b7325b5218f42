/* Local files and directories, as far as copying whole trees needs what Lua's own library lacks. Nothing follows a
   symbolic link in the last component of a path. */
#include "core.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LISTING "opensandbox.core.listing"
#define MODE_BITS 0777

static int push_errno(lua_State *L, const char *path)
{
    int number = errno;
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", path, strerror(number));
    lua_pushboolean(L, number == ENOENT);
    return 3;
}

static const char *type_name(mode_t mode)
{
    if (S_ISREG(mode))
        return "file";
    if (S_ISDIR(mode))
        return "directory";
    return S_ISLNK(mode) ? "symlink" : "other";
}

/* path_info(path) -> "file" | "directory" | "symlink" | "other", size in bytes, permission bits as octal digits; or
   nil, message, whether there is nothing */
static int path_info(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct stat info;
    if (lstat(path, &info) != 0)
        return push_errno(L, path);
    char mode[8];
    snprintf(mode, sizeof mode, "%03o", (unsigned)info.st_mode & MODE_BITS);
    lua_pushstring(L, type_name(info.st_mode));
    lua_pushinteger(L, (lua_Integer)info.st_size);
    lua_pushstring(L, mode);
    return 3;
}

static int close_listing(lua_State *L)
{
    DIR **directory = lua_touserdata(L, 1);
    if (*directory)
        closedir(*directory);
    *directory = NULL;
    return 0;
}

/* path_entries(path) -> list of the names in a directory, without . and ..; or nil, message */
static int path_entries(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    DIR **directory = lua_newuserdata(L, sizeof(DIR *)); /* closes it when a push runs out of memory */
    *directory = NULL;
    if (luaL_newmetatable(L, LISTING)) {
        lua_pushcfunction(L, close_listing);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    *directory = opendir(path);
    if (!*directory)
        return push_errno(L, path);
    lua_newtable(L);
    lua_Integer count = 0;
    struct dirent *entry;
    while (errno = 0, (entry = readdir(*directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        lua_pushstring(L, entry->d_name);
        lua_rawseti(L, -2, (int)++count);
    }
    int problem = errno;
    closedir(*directory);
    *directory = NULL;
    if (problem) {
        errno = problem;
        return push_errno(L, path);
    }
    return 1;
}

/* make_directory(path) -> true; or nil, message. One that exists is an error. */
static int path_make_directory(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    if (mkdir(path, 0777) != 0)
        return push_errno(L, path);
    lua_pushboolean(L, 1);
    return 1;
}

/* set_mode(path, octal digits) -> true; or nil, message. For a file that the caller has just made. */
static int path_set_mode(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    unsigned long mode = strtoul(luaL_checkstring(L, 2), NULL, 8);
    if (chmod(path, (mode_t)(mode & MODE_BITS)) != 0)
        return push_errno(L, path);
    lua_pushboolean(L, 1);
    return 1;
}

static const luaL_Reg functions[] = {
    {"path_info", path_info},
    {"path_entries", path_entries},
    {"make_directory", path_make_directory},
    {"set_mode", path_set_mode},
    {NULL, NULL},
};

void osb_path_open(lua_State *L)
{
    osb_compat_setfuncs(L, functions);
}
