/*
** An extension that takes all memory there is: hog(room) leaves one piece of that many bytes and what is left in smaller
** ones than anybody can ask for; hog(-1) gives everything back. The room is asked for first, so that it lies where
** it does not grow together with anything else.
*/
#include <stdlib.h>

#include "sqlite3ext.h"

SQLITE_EXTENSION_INIT1

static void **newest = 0; /* each piece begins with the address of the one before */

static int take(size_t size) {
  void **piece = malloc(size);
  if (piece == 0) return 0;
  *piece = newest;
  newest = piece;
  return 1;
}

static void give_back(void) {
  while (newest != 0) {
    void **piece = newest;
    newest = *piece;
    free(piece);
  }
}

static void hog(sqlite3_context *context, int count, sqlite3_value **values) {
  int room = sqlite3_value_int(values[0]);
  size_t size;
  void *left;
  (void)context, (void)count;
  give_back();
  if (room < 0) return;
  left = room > 0 ? malloc(room) : 0;
  for (size = 1 << 22; size >= sizeof(void *); size /= 2) {
    while (take(size)) continue;
  }
  free(left);
}

int sqlite3_hog_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  (void)error;
  SQLITE_EXTENSION_INIT2(api);
  return sqlite3_create_function(db, "hog", 1, SQLITE_UTF8, 0, hog, 0, 0);
}
