/*
** Read before SQLite's source. It leaves loadable extensions out wherever __wasi__ is defined, for WASI itself has no
** way to load any; here the VFS has one (src/callbacks/extensions.rs). What else SQLite does for WASI concerns its VFS
** for Unix, which is not built. The headers come first, for the C library's own want the macro.
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

/*
** What SQLite keeps to itself and the guest needs: where an aggregate of its own is defined (own_aggregates.rs), and
** values that no statement holds (argument.rs). All pointers are alike to the linker.
*/
#define RAPSQLITE_NAMES(name, internal) name __attribute__((alias(internal)))
void *RAPSQLITE_NAMES(rapsqlite_find_function(void *, const char *, int, unsigned char, unsigned char), "sqlite3FindFunction");
void *RAPSQLITE_NAMES(rapsqlite_value_new(void *), "sqlite3ValueNew");
void RAPSQLITE_NAMES(rapsqlite_value_set_null(void *), "sqlite3VdbeMemSetNull");
void RAPSQLITE_NAMES(rapsqlite_value_set_int64(void *, long long), "sqlite3VdbeMemSetInt64");
void RAPSQLITE_NAMES(rapsqlite_value_set_double(void *, double), "sqlite3VdbeMemSetDouble");
void RAPSQLITE_NAMES(rapsqlite_value_set_bytes(void *, int, const void *, unsigned char, void (*)(void *)), "sqlite3ValueSetStr");
