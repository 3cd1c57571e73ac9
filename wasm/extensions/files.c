/*
** The functions of files.h. A file is opened as SQLite opens one that it only looks into, without locks.
*/
#include "sqlite3ext.h"
#include "files.h"

SQLITE_EXTENSION_INIT3

struct VfsFile {
  sqlite3_file *file;
  sqlite3_int64 position;
  sqlite3_int64 size;
};

static int open_into(VfsFile *opened, sqlite3_vfs *vfs, const char *name, char *full) {
  int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_SUPER_JOURNAL;
  int code = vfs->xFullPathname(vfs, name, vfs->mxPathname, full);
  if (code != SQLITE_OK && code != SQLITE_OK_SYMLINK) return code;
  code = vfs->xOpen(vfs, full, opened->file, flags, &flags);
  if (code != SQLITE_OK) return code;
  return opened->file->pMethods->xFileSize(opened->file, &opened->size);
}

VfsFile *vfs_open(const char *name) {
  sqlite3_vfs *vfs = sqlite3_vfs_find(0);
  VfsFile *opened;
  char *full;
  if (vfs == 0) return 0;
  opened = sqlite3_malloc64(sizeof(*opened) + vfs->szOsFile);
  full = sqlite3_malloc64(vfs->mxPathname);
  if (opened != 0 && full != 0) {
    opened->file = (sqlite3_file *)&opened[1];
    opened->file->pMethods = 0;
    opened->position = opened->size = 0;
    if (open_into(opened, vfs, name, full) != SQLITE_OK) {
      vfs_close(opened);
      opened = 0;
    }
  } else {
    sqlite3_free(opened);
    opened = 0;
  }
  sqlite3_free(full);
  return opened;
}

int vfs_close(VfsFile *file) {
  if (file->file->pMethods != 0) file->file->pMethods->xClose(file->file);
  sqlite3_free(file);
  return 0;
}

size_t vfs_read(void *buffer, size_t size, size_t count, VfsFile *file) {
  sqlite3_int64 left = file->size - file->position;
  sqlite3_int64 wanted = (sqlite3_int64)size * (sqlite3_int64)count;
  if (wanted > left) wanted = left;
  if (wanted <= 0) return 0;
  if (file->file->pMethods->xRead(file->file, buffer, (int)wanted, file->position) != SQLITE_OK) return 0;
  file->position += wanted;
  return (size_t)wanted / size;
}

int vfs_seek(VfsFile *file, long offset) {
  if (offset < 0) return -1;
  file->position = offset;
  return 0;
}

long vfs_tell(VfsFile *file) { return (long)file->position; }
