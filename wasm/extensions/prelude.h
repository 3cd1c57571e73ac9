/*
** Read before the source of an extension (-include). SQLite's header leaves loadable extensions out wherever __wasi__ is
** defined; in rapsqlite's sandbox they can be loaded.
*/
#include "sqlite3.h"
#undef SQLITE_OMIT_LOAD_EXTENSION
