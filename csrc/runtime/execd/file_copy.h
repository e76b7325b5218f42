/* Copies within the kernel where it can. */
#ifndef OSB_FILE_COPY_H
#define OSB_FILE_COPY_H

/* Copies what is left of `from` to `to`; 0, or -1 with errno. */
int osb_file_copy_bytes(int from, int to);

/* Moves a file or tree to another file system, with modes, owners (as far as allowed) and times; 0, or -1 with errno:
 * then what was copied is removed again, or what could not be removed is left at `from`. */
int osb_file_move_across(char *from, const char *to);

#endif
