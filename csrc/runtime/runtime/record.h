/* What a runtime remembers of its sandboxes over its own end, as files in its state directory. */
#ifndef OSB_RECORD_H
#define OSB_RECORD_H

#include "runtime/runtime/runtime.h"
#include "runtime/runtime/sandbox.h"

/* Writes the sandbox's record, or removes it; nothing happens where the state is not kept. Failures are logged. */
void osb_record_save(const struct osb_sandbox *sandbox);
void osb_record_remove(const struct osb_sandbox *sandbox);

/* Puts the sandboxes of earlier runtimes on the list: those that still ran have failed. They expire as before. */
void osb_record_load_all(struct osb_runtime *runtime);

#endif
