#include "glob.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/shared/text.h"

#define MAX_STEPS 1000000
#define MAX_DEPTH 16 /* of alternatives, one in or behind another */

struct match {
    long steps; /* left */
    int depth;
};

static uint32_t next_character(const char **at)
{
    size_t size = osb_utf8_length(*at, strnlen(*at, 4));
    const unsigned char *bytes = (const unsigned char *)*at;
    uint32_t value = bytes[0];
    if (size > 1) {
        value = bytes[0] & (0xffu >> (size + 1));
        for (size_t i = 1; i < size; i++)
            value = value << 6 | (bytes[i] & 0x3f);
    }
    *at += size > 0 ? size : 1;
    return value;
}

/* Well-formed brackets, braces and escapes. */
static bool is_valid(const char *at)
{
    int braces = 0;
    for (; *at; at++) {
        if (*at == '\\') {
            if (!*++at)
                return false;
        } else if (*at == '[') {
            at++;
            if (*at == '^' || *at == '!')
                at++;
            if (*at == ']')
                return false;
            for (; *at != ']'; at++) {
                if (!*at || (*at == '\\' && !*++at))
                    return false;
            }
        } else if (*at == '{') {
            braces++;
        } else if (*at == '}' && braces-- == 0) {
            return false;
        }
    }
    return braces == 0;
}

/* Matches a character class; *pattern is behind its '[' and is moved behind its ']'. */
static bool class_has(const char **pattern, uint32_t character)
{
    bool negate = **pattern == '^' || **pattern == '!', found = false;
    if (negate)
        ++*pattern;
    while (**pattern != ']') {
        if (**pattern == '\\')
            ++*pattern;
        uint32_t low = next_character(pattern), high = low;
        if (**pattern == '-' && (*pattern)[1] != ']') {
            ++*pattern;
            if (**pattern == '\\')
                ++*pattern;
            high = next_character(pattern);
        }
        found |= low <= character && character <= high;
    }
    ++*pattern;
    return found != negate;
}

/* The end of the alternative that begins at `at`: its ',' or '}'. */
static const char *alternative_end(const char *at)
{
    for (int depth = 0;; at++) {
        if (*at == '\\')
            at++;
        else if (*at == '{')
            depth++;
        else if ((*at == ',' || *at == '}') && depth == 0)
            return at;
        else if (*at == '}')
            depth--;
    }
}

static bool matches(struct match *match, const char *pattern, const char *name);

/* Tries every alternative followed by what is behind the braces; `pattern` is behind the '{'. */
static bool matches_alternatives(struct match *match, const char *pattern, const char *name)
{
    const char *close = pattern;
    while (*(close = alternative_end(close)) != '}')
        close++;
    if (match->depth >= MAX_DEPTH) {
        match->steps = 0;
        return false;
    }
    match->depth++;
    bool found = false;
    size_t behind = strlen(close + 1);
    for (const char *at = pattern; !found && match->steps > 0;) {
        const char *end = alternative_end(at);
        size_t len = (size_t)(end - at);
        char *whole = malloc(len + behind + 1);
        if (!whole) {
            match->steps = 0;
            break;
        }
        memcpy(whole, at, len);
        memcpy(whole + len, close + 1, behind + 1);
        found = matches(match, whole, name);
        free(whole);
        if (*end == '}')
            break;
        at = end + 1;
    }
    match->depth--;
    return found;
}

/* Matches what is between the brackets of !(…), followed by what is behind them; `pattern` is behind the '('. */
static bool matches_group(struct match *match, const char *pattern, const char *name)
{
    size_t len = strcspn(pattern, ")"), behind = strlen(pattern + len + 1);
    char *whole = match->depth < MAX_DEPTH ? malloc(len + behind + 1) : NULL;
    if (!whole) {
        match->steps = 0;
        return false;
    }
    memcpy(whole, pattern, len);
    memcpy(whole + len, pattern + len + 1, behind + 1);
    match->depth++;
    bool found = matches(match, whole, name);
    match->depth--;
    free(whole);
    return found;
}

/* Matches a valid pattern; only the last star has to be tried again. Running out of steps ends it. */
static bool matches(struct match *match, const char *pattern, const char *name)
{
    const char *star = NULL, *star_name = NULL;
    /* a name has no directories: those that the pattern allows are none */
    while (strncmp(pattern, "**/", 3) == 0)
        pattern += 3;
    while (match->steps-- > 0) {
        const char *next = name;
        bool fits = false;
        if (*pattern == '*') {
            pattern += strspn(pattern, "*");
            star = pattern;
            star_name = name;
            continue;
        }
        if (*pattern == '{') {
            if (matches_alternatives(match, pattern + 1, name))
                return true;
        } else if (*pattern == '!' && pattern[1] == '(' && strchr(pattern, ')')) {
            return !matches_group(match, pattern + 2, name);
        } else if (*pattern == '\0' || strcmp(pattern, "/**") == 0) {
            if (*name == '\0')
                return true;
        } else if (*name != '\0') {
            const char *at = pattern;
            uint32_t character = next_character(&next);
            if (*at == '?') {
                at++;
                fits = true;
            } else if (*at == '[') {
                at++;
                fits = class_has(&at, character);
            } else {
                if (*at == '\\')
                    at++;
                fits = next_character(&at) == character;
            }
            if (fits) {
                pattern = at;
                name = next;
                continue;
            }
        }
        if (!star || *star_name == '\0')
            return false;
        next_character(&star_name);
        pattern = star;
        name = star_name;
    }
    return false;
}

enum osb_glob_result osb_glob_match(const char *pattern, const char *name)
{
    struct match match = {MAX_STEPS, 0};
    if (!is_valid(pattern))
        return OSB_GLOB_BAD_PATTERN;
    bool found = matches(&match, pattern, name);
    if (!found && match.steps <= 0)
        return OSB_GLOB_BAD_PATTERN;
    return found ? OSB_GLOB_YES : OSB_GLOB_NO;
}
