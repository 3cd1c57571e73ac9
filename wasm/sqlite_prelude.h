/*
** Read before SQLite's source. It leaves loadable extensions out wherever __wasi__ is defined, for WASI itself has no
** way to load any; here the VFS has one (src/callbacks/extensions.rs). What else SQLite does for WASI concerns its VFS
** for Unix, which is not built. The headers come first, for the C library's own want the macro.
** Large blocks give their pages back when they are freed (src/host/large_blocks.rs).
*/
#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#undef __wasi__

void rapsqlite_free(void *);
void *rapsqlite_realloc(void *, size_t);
#define free rapsqlite_free
#define realloc rapsqlite_realloc
