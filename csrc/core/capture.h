/* What a command has written so far: its output events in order of arrival, in one piece of memory. */
#ifndef OSB_CAPTURE_H
#define OSB_CAPTURE_H

#include <stddef.h>

#include "compat.h"

struct osb_capture;

enum osb_output { OSB_OUTPUT_STDOUT, OSB_OUTPUT_STDERR };

/* The capture at `index`, or NULL when there is none (nil). Raises for anything else. */
struct osb_capture *osb_capture_opt(lua_State *L, int index);

/* Adds one event; what exceeds the limit is left out and noted. Raises when memory is out. */
void osb_capture_add(lua_State *L, struct osb_capture *capture, enum osb_output output, const char *text, size_t len,
                     double timestamp);

#endif
