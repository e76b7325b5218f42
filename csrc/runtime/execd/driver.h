/* The programs in drivers/ that run the code of contexts, one for each language, and how their interpreters are
 * started.
 *
 * A driver gets requests by OSB_DRIVER_REQUESTS, tells by OSB_DRIVER_EVENTS what happened, a line of JSON each, and is
 * itself the text of OSB_DRIVER_TEXT. */
#ifndef OSB_DRIVER_H
#define OSB_DRIVER_H

#include <stdbool.h>
#include <stddef.h>

#include "child.h"
#include "common/buf.h"

/* descriptors in the interpreter */
#define OSB_DRIVER_REQUESTS OSB_CHILD_EXTRA_FD
#define OSB_DRIVER_EVENTS (OSB_CHILD_EXTRA_FD + 1)
#define OSB_DRIVER_TEXT (OSB_CHILD_EXTRA_FD + 2)
#define OSB_DRIVER_INTERRUPTS (OSB_CHILD_EXTRA_FD + 3)

struct osb_driver {
    const char *language;
    const char *const *programs;  /* that can run it, the best first; NULL-terminated */
    const char *const *arguments; /* that follow the program's name; NULL-terminated */
    const char *package;          /* of Debian, that brings one of them */
    const unsigned char *text;
    const size_t *size;
    bool shell;             /* requests are commands on its standard input; else a line with the length, and the code */
    bool counts_interrupts; /* it learns of interrupts by OSB_DRIVER_INTERRUPTS, not by SIGINT */
};

/* The driver of a language, or NULL. */
const struct osb_driver *osb_driver_find(const char *language);

/* The path of the first of its programs that is installed, to be freed, and its name; NULL when none is. */
char *osb_driver_program(const struct osb_driver *driver, const char **name);

/* Appends what makes the driver run the code as its request `number`. False when memory is out. */
bool osb_driver_request(const struct osb_driver *driver, unsigned int number, const char *code, size_t len,
                        struct osb_buf *out);

/* Appends what has to follow an interrupt of that request. False when memory is out. */
bool osb_driver_after_interrupt(const struct osb_driver *driver, unsigned int number, struct osb_buf *out);

#endif
