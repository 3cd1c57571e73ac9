/*
** An extension that means harm: it goes past SQL and asks the VFS itself for files, and writes to them in every way that a
** VFS has. intrude(how, file name) returns the result code of the last step.
*/
#include <string.h>

#include "sqlite3ext.h"

SQLITE_EXTENSION_INIT1

static const char nonsense[] = "spoiled by an extension";

static int with_file(const char *how, sqlite3_file *file) {
  const sqlite3_io_methods *methods = file->pMethods;
  void volatile *region = 0;
  int code = SQLITE_ERROR;
  if (strcmp(how, "write") == 0) code = methods->xWrite(file, nonsense, sizeof(nonsense), 0);
  if (strcmp(how, "append") == 0) {
    sqlite3_int64 size = 0;
    code = methods->xFileSize(file, &size);
    if (code == SQLITE_OK) code = methods->xWrite(file, nonsense, sizeof(nonsense), size);
  }
  if (strcmp(how, "truncate") == 0) code = methods->xTruncate(file, 0);
  if (strcmp(how, "grow") == 0) code = methods->xTruncate(file, 1 << 20);
  if (strcmp(how, "index") == 0) {
    code = methods->xShmMap(file, 0, 32768, 1, &region);
    if (code == SQLITE_OK && region != 0) memcpy((void *)region, nonsense, sizeof(nonsense));
    methods->xShmUnmap(file, 1);
  }
  if (strcmp(how, "lock") == 0) {
    code = methods->xLock(file, SQLITE_LOCK_SHARED);
    if (code == SQLITE_OK) code = methods->xLock(file, SQLITE_LOCK_RESERVED);
    methods->xUnlock(file, SQLITE_LOCK_NONE);
  }
  if (code == SQLITE_OK) code = methods->xSync(file, SQLITE_SYNC_FULL);
  return code;
}

static const struct {
  const char *name;
  int flags;
} kinds[] = {
    {"database", SQLITE_OPEN_MAIN_DB},
    {"temporary database", SQLITE_OPEN_TEMP_DB},
    {"transient database", SQLITE_OPEN_TRANSIENT_DB},
    {"journal", SQLITE_OPEN_MAIN_JOURNAL},
    {"temporary journal", SQLITE_OPEN_TEMP_JOURNAL},
    {"statement journal", SQLITE_OPEN_SUBJOURNAL},
    {"super-journal", SQLITE_OPEN_SUPER_JOURNAL},
    {"log", SQLITE_OPEN_WAL},
    {"nothing", 0},
};

static int open_flags(const char *kind, const char *mode) {
  int flags = strcmp(mode, "create") == 0 ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READWRITE;
  size_t at;
  if (strcmp(mode, "read") == 0) flags = SQLITE_OPEN_READONLY;
  if (strcmp(mode, "passing") == 0) flags |= SQLITE_OPEN_CREATE | SQLITE_OPEN_DELETEONCLOSE;
  for (at = 0; at < sizeof(kinds) / sizeof(kinds[0]); at++) {
    if (strcmp(kind, kinds[at].name) == 0) flags |= kinds[at].flags;
  }
  return flags;
}

/* A name as SQLite passes it: zeros around it, and before them the pager that a journal's database is found through. */
static char *name_for_vfs(const char *name, sqlite3_file **pager) {
  char *padded = sqlite3_malloc((int)strlen(name) + 32);
  memset(padded, 0, strlen(name) + 32);
  memcpy(padded, &pager, sizeof(pager));
  strcpy(padded + 8, name);
  return padded;
}

/* intrude(how, name, kind, mode): the result code of the last step */
static void intrude(sqlite3_context *context, int count, sqlite3_value **values) {
  static sqlite3_file *pager[64];
  sqlite3_vfs *vfs = sqlite3_vfs_find(0);
  const char *how = (const char *)sqlite3_value_text(values[0]);
  const char *name = (const char *)sqlite3_value_text(values[1]);
  sqlite3_file *file;
  char *padded;
  size_t at;
  int code, flags;
  (void)count;
  if (strcmp(how, "delete") == 0) {
    sqlite3_result_int(context, vfs->xDelete(vfs, name, 0));
    return;
  }
  file = sqlite3_malloc(vfs->szOsFile);
  sqlite3_file_control(sqlite3_context_db_handle(context), "main", SQLITE_FCNTL_FILE_POINTER, &pager[0]);
  for (at = 1; at < sizeof(pager) / sizeof(pager[0]); at++) pager[at] = pager[0];
  padded = name_for_vfs(name, pager);
  flags = open_flags((const char *)sqlite3_value_text(values[2]), (const char *)sqlite3_value_text(values[3]));
  code = vfs->xOpen(vfs, padded + 8, file, flags, &flags);
  if (code == SQLITE_OK) {
    code = with_file(how, file);
    file->pMethods->xClose(file);
  }
  sqlite3_free(file);
  sqlite3_free(padded);
  sqlite3_result_int(context, code);
}

int sqlite3_intruder_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  (void)error;
  SQLITE_EXTENSION_INIT2(api);
  return sqlite3_create_function(db, "intrude", 4, SQLITE_UTF8, 0, intrude, 0, 0);
}
