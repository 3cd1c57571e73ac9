/*
** C's files for an extension that reads some, by way of SQLite's VFS: it reaches what the connection may reach, and the
** C library's own, which would reach nothing in this sandbox, is not linked. Include after sqlite3ext.h and <stdio.h>.
*/
#include <stddef.h>

typedef struct VfsFile VfsFile;

VfsFile *vfs_open(const char *name);
int vfs_close(VfsFile *file);
size_t vfs_read(void *buffer, size_t size, size_t count, VfsFile *file);
int vfs_seek(VfsFile *file, long offset);
long vfs_tell(VfsFile *file);

#define FILE VfsFile
#define fopen(name, mode) vfs_open(name)
#define fclose vfs_close
#define fread vfs_read
#define fseek(file, offset, whence) vfs_seek(file, offset)
#define ftell vfs_tell
