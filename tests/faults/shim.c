/* Makes the n-th call of a kind fail, for files below one folder. Loaded with LD_PRELOAD.
 *
 * fault_arm(folder, kind, n, error, forever) begins to count; fault_count(kind) says how many calls
 * of a kind there have been since. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, WRITE, SYNC, RENAME, REMOVE, MKDIR, LOCK, KINDS };

static char folder[PATH_MAX];
static atomic_long counts[KINDS];
static int armed_kind = -1, armed_error, armed_forever;
static long armed_n;

void fault_arm(const char *place, int kind, long n, int error, int forever) {
    snprintf(folder, sizeof folder, "%s", place);
    for (int k = 0; k < KINDS; k++) atomic_store(&counts[k], 0);
    armed_kind = kind, armed_n = n, armed_error = error, armed_forever = forever;
}

long fault_count(int kind) { return atomic_load(&counts[kind]); }

/* Counts a call on a path; returns whether it must fail, with errno set. */
static int fails(int kind, const char *path) {
    char full[PATH_MAX];
    if (!folder[0] || !path) return 0;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(full, sizeof full, "%.2000s/%.2000s", here, path);
        path = full;
    }
    if (strncmp(path, folder, strlen(folder))) return 0;
    long n = atomic_fetch_add(&counts[kind], 1) + 1;
    if (kind != armed_kind || !(n == armed_n || (armed_forever && n > armed_n))) return 0;
    errno = armed_error;
    return 1;
}

static int fails_fd(int kind, int fd) {
    char link[64], path[PATH_MAX];
    int saved = errno;
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (n <= 0) return 0;
    path[n] = 0;
    return fails(kind, path);
}

#define REAL(name) ((__typeof__(&name))real(&cache_##name, #name))
static void *real(void **cache, const char *name) {
    if (!*cache) *cache = dlsym(RTLD_NEXT, name);
    return *cache;
}

#define WRAP(test, type, name, parameters, arguments) \
    static void *cache_##name;                              \
    type name parameters {                                  \
        if (test) return -1;                                \
        return REAL(name) arguments;                        \
    }

#define OPENS(name)                                                               \
    static void *cache_##name;                                                    \
    int name(const char *path, int flags, ...) {                                  \
        va_list rest;                                                             \
        va_start(rest, flags);                                                    \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;   \
        va_end(rest);                                                             \
        if (fails(OPEN, path)) return -1;                                         \
        return REAL(name)(path, flags, mode);                                     \
    }
#define OPENATS(name)                                                             \
    static void *cache_##name;                                                    \
    int name(int at, const char *path, int flags, ...) {                          \
        va_list rest;                                                             \
        va_start(rest, flags);                                                    \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;   \
        va_end(rest);                                                             \
        if (fails(OPEN, path)) return -1;                                         \
        return REAL(name)(at, path, flags, mode);                                 \
    }
OPENS(open)
OPENS(open64)
OPENATS(openat)
OPENATS(openat64)

WRAP(fails_fd(WRITE, fd), ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n))
WRAP(fails_fd(WRITE, fd), ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o),
     (fd, b, n, o))
WRAP(fails_fd(WRITE, fd), ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o),
     (fd, b, n, o))
WRAP(fails_fd(WRITE, fd), ssize_t, writev, (int fd, const struct iovec *v, int n),
     (fd, v, n))
WRAP(fails_fd(WRITE, out), ssize_t, sendfile, (int out, int in, off_t *o, size_t n),
     (out, in, o, n))
WRAP(fails_fd(WRITE, fd), int, ftruncate, (int fd, off_t n), (fd, n))
WRAP(fails_fd(WRITE, fd), int, ftruncate64, (int fd, off64_t n), (fd, n))
WRAP(fails_fd(SYNC, fd), int, fsync, (int fd), (fd))
WRAP(fails_fd(SYNC, fd), int, fdatasync, (int fd), (fd))
WRAP(fails_fd(SYNC, fd), int, syncfs, (int fd), (fd))
WRAP(fails(RENAME, to), int, rename, (const char *from, const char *to), (from, to))
WRAP(fails(RENAME, to), int, renameat, (int a, const char *from, int b, const char *to),
     (a, from, b, to))
WRAP(fails(REMOVE, path), int, unlink, (const char *path), (path))
WRAP(fails(REMOVE, path), int, unlinkat, (int at, const char *path, int f), (at, path, f))
WRAP(fails(MKDIR, path), int, mkdir, (const char *path, mode_t mode), (path, mode))

/* Locks only: other requests to fcntl are passed on. */
static int locks(int command) {
    return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK;
}
#define FCNTLS(name)                                                  \
    static void *cache_##name;                                        \
    int name(int fd, int command, ...) {                              \
        va_list rest;                                                 \
        va_start(rest, command);                                      \
        void *argument = va_arg(rest, void *);                        \
        va_end(rest);                                                 \
        if (locks(command) && fails_fd(LOCK, fd)) return -1;          \
        return REAL(name)(fd, command, argument);                     \
    }
FCNTLS(fcntl)
FCNTLS(fcntl64)
