/* An extension that sleeps: doze(milliseconds), and doze_on(), which never stops. */
#include "sqlite3ext.h"

SQLITE_EXTENSION_INIT1

static void doze(sqlite3_context *context, int count, sqlite3_value **values) {
  (void)count;
  sqlite3_result_int(context, sqlite3_sleep(sqlite3_value_int(values[0])));
}

static void doze_on(sqlite3_context *context, int count, sqlite3_value **values) {
  (void)context, (void)count, (void)values;
  for (;;) sqlite3_sleep(1000000);
}

int sqlite3_dozer_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  int code;
  (void)error;
  SQLITE_EXTENSION_INIT2(api);
  code = sqlite3_create_function(db, "doze", 1, SQLITE_UTF8, 0, doze, 0, 0);
  return code != SQLITE_OK ? code : sqlite3_create_function(db, "doze_on", 0, SQLITE_UTF8, 0, doze_on, 0, 0);
}
