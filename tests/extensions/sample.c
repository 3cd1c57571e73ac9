/*
** An extension as others write them: a function, an aggregate, a virtual table, and static data that holds pointers to
** data and to functions, so that it only works where it was relocated and its constructor was run.
*/
#include <stdlib.h>
#include <string.h>

#include "sqlite3ext.h"

SQLITE_EXTENSION_INIT1

/* Seen from outside, so that the compiler goes through the global offset table for them. */
#define PUBLIC __attribute__((visibility("default")))

PUBLIC int sample_calls = 0;
PUBLIC int sample_double(int value) { return 2 * value; }

static int negate(int value) { return -value; }

static const struct {
  const char *name;
  int (*apply)(int);
} operations[] = {{"double", sample_double}, {"negate", negate}};
static const char *const planets[] = {"mercury", "venus", "earth", "mars"};
static const char *const *last_planet = &planets[3];
static int constructed = 0;
static char *built_by_constructor;

__attribute__((constructor)) static void construct(void) {
  constructed += 1;
  built_by_constructor = malloc(6);
  if (built_by_constructor != 0) memcpy(built_by_constructor, "built", 6);
}

/* apply(operation, integer) */
static void apply(sqlite3_context *context, int count, sqlite3_value **values) {
  const char *name = (const char *)sqlite3_value_text(values[0]);
  size_t at;
  (void)count;
  sample_calls++;
  for (at = 0; at < sizeof(operations) / sizeof(operations[0]); at++) {
    if (name != 0 && strcmp(name, operations[at].name) == 0) {
      sqlite3_result_int(context, operations[at].apply(sqlite3_value_int(values[1])));
      return;
    }
  }
  sqlite3_result_error(context, "no such operation", -1);
}

/* sorted(text): its bytes in order, in memory of the C library's. */
static int by_byte(const void *left, const void *right) { return *(const char *)left - *(const char *)right; }

static void sorted(sqlite3_context *context, int count, sqlite3_value **values) {
  const char *text = (const char *)sqlite3_value_text(values[0]);
  size_t length = text == 0 ? 0 : strlen(text);
  char *copy = malloc(length + 1);
  (void)count;
  if (copy == 0) {
    sqlite3_result_error_nomem(context);
    return;
  }
  memcpy(copy, text, length);
  qsort(copy, length, 1, by_byte);
  sqlite3_result_text(context, copy, (int)length, SQLITE_TRANSIENT);
  free(copy);
}

/* facts(): what the static data has become. */
static void facts(sqlite3_context *context, int count, sqlite3_value **values) {
  const char *built = built_by_constructor == 0 ? "not built" : built_by_constructor;
  char *text = sqlite3_mprintf("%s %d, %s, %d", built, constructed, *last_planet, sample_calls);
  (void)count;
  (void)values;
  sqlite3_result_text(context, text, -1, sqlite3_free);
}

static void trap(sqlite3_context *context, int count, sqlite3_value **values) {
  (void)context;
  (void)count;
  (void)values;
  __builtin_trap();
}

static void spin(sqlite3_context *context, int count, sqlite3_value **values) {
  volatile int turns = 0;
  (void)context;
  (void)count;
  (void)values;
  for (;;) turns++;
}

/* product(integer): an aggregate. */
static void product_step(sqlite3_context *context, int count, sqlite3_value **values) {
  sqlite3_int64 *product = sqlite3_aggregate_context(context, sizeof(*product));
  (void)count;
  if (product == 0) return;
  if (*product == 0) *product = 1;
  *product *= sqlite3_value_int64(values[0]);
}

static void product_final(sqlite3_context *context) {
  sqlite3_int64 *product = sqlite3_aggregate_context(context, sizeof(*product));
  sqlite3_result_int64(context, product == 0 ? 0 : *product);
}

/* The table of planets. */
typedef struct {
  sqlite3_vtab_cursor base;
  int at;
} Cursor;

static int connect_table(sqlite3 *db, void *aux, int count, const char *const *words, sqlite3_vtab **table, char **error) {
  (void)aux;
  (void)count;
  (void)words;
  (void)error;
  *table = sqlite3_malloc(sizeof(**table));
  if (*table == 0) return SQLITE_NOMEM;
  memset(*table, 0, sizeof(**table));
  return sqlite3_declare_vtab(db, "CREATE TABLE x(name)");
}
static int disconnect(sqlite3_vtab *table) {
  sqlite3_free(table);
  return SQLITE_OK;
}
static int best_index(sqlite3_vtab *table, sqlite3_index_info *info) {
  (void)table;
  info->estimatedCost = 4;
  return SQLITE_OK;
}
static int open_cursor(sqlite3_vtab *table, sqlite3_vtab_cursor **cursor) {
  (void)table;
  *cursor = sqlite3_malloc(sizeof(Cursor));
  return *cursor == 0 ? SQLITE_NOMEM : SQLITE_OK;
}
static int close_cursor(sqlite3_vtab_cursor *cursor) {
  sqlite3_free(cursor);
  return SQLITE_OK;
}
static int filter(sqlite3_vtab_cursor *cursor, int number, const char *text, int count, sqlite3_value **values) {
  (void)number;
  (void)text;
  (void)count;
  (void)values;
  ((Cursor *)cursor)->at = 0;
  return SQLITE_OK;
}
static int next(sqlite3_vtab_cursor *cursor) {
  ((Cursor *)cursor)->at++;
  return SQLITE_OK;
}
static int eof(sqlite3_vtab_cursor *cursor) { return ((Cursor *)cursor)->at > 3; }
static int column(sqlite3_vtab_cursor *cursor, sqlite3_context *context, int number) {
  (void)number;
  sqlite3_result_text(context, planets[((Cursor *)cursor)->at], -1, SQLITE_STATIC);
  return SQLITE_OK;
}
static int row_id(sqlite3_vtab_cursor *cursor, sqlite3_int64 *id) {
  *id = ((Cursor *)cursor)->at;
  return SQLITE_OK;
}

static sqlite3_module planets_module = {
    .xConnect = connect_table,
    .xBestIndex = best_index,
    .xDisconnect = disconnect,
    .xOpen = open_cursor,
    .xClose = close_cursor,
    .xFilter = filter,
    .xNext = next,
    .xEof = eof,
    .xColumn = column,
    .xRowid = row_id,
};

int sqlite3_sample_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api);
  (void)error;
  sqlite3_create_function(db, "apply", 2, SQLITE_UTF8, 0, apply, 0, 0);
  sqlite3_create_function(db, "sorted", 1, SQLITE_UTF8, 0, sorted, 0, 0);
  sqlite3_create_function(db, "facts", 0, SQLITE_UTF8, 0, facts, 0, 0);
  sqlite3_create_function(db, "trap", 0, SQLITE_UTF8, 0, trap, 0, 0);
  sqlite3_create_function(db, "spin", 0, SQLITE_UTF8, 0, spin, 0, 0);
  sqlite3_create_function(db, "product", 1, SQLITE_UTF8, 0, 0, product_step, product_final);
  return sqlite3_create_module(db, "planets", &planets_module, 0);
}

int other_entry(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api);
  (void)error;
  return sqlite3_create_function(db, "negated", 1, SQLITE_UTF8, 0, apply, 0, 0);
}
