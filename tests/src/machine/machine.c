/* Stands between a program and the machine: another time, a disk that is slow, hangs or is full, and a list of what is made
 * durable.
 * Preloaded (LD_PRELOAD); LARDER_TEST_MACHINE names a directory with the files `knobs` and `done`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct knobs {
    /* Seconds by which the clock is wrong. */
    volatile int64_t ahead;
    /* Microseconds that a long read takes. */
    volatile int64_t slow;
    /* Seconds that have passed without anybody waiting for them: what counts time is ahead by so much. */
    volatile int64_t passed;
    /* The inode of a file that is not in memory, and of which no read returns. */
    volatile int64_t hangs;
    /* Not 0: nothing below a directory `partial` is removed, and whoever tries waits. */
    volatile int64_t keeps;
    /* What has no room below a directory `layers`: 1 a record, 2 what is to be made durable, 3 a ready file under its
     * name. */
    volatile int64_t refuses;
    /* Not 0: long writes below a directory `layers` wait. */
    volatile int64_t waits;
};

static struct knobs *knobs;
static int done = -1;

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("LARDER_TEST_MACHINE");
    char path[PATH_MAX];
    if (!dir)
        return;
    snprintf(path, sizeof path, "%s/knobs", dir);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file >= 0) {
        void *map = mmap(NULL, sizeof *knobs, PROT_READ, MAP_SHARED, file, 0);
        knobs = map == MAP_FAILED ? NULL : map;
        close(file);
    }
    snprintf(path, sizeof path, "%s/done", dir);
    done = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && knobs)
        now->tv_sec += knobs->ahead;
    if (!failed && clock == CLOCK_MONOTONIC && knobs)
        now->tv_sec += knobs->passed;
    return failed;
}

static int does_hang(int file) {
    struct stat found;
    return knobs && knobs->hangs && !fstat(file, &found) &&
           (int64_t)found.st_ino == knobs->hangs;
}

static ssize_t read_unless_it_waits(int file, const struct iovec *into, int count, off64_t at,
                                    int flags) {
    if ((flags & RWF_NOWAIT) && does_hang(file)) {
        errno = EAGAIN;
        return -1;
    }
    return syscall(SYS_preadv2, file, into, count, at, 0L, flags);
}

ssize_t preadv2(int file, const struct iovec *into, int count, off_t at, int flags) {
    return read_unless_it_waits(file, into, count, at, flags);
}

ssize_t preadv64v2(int file, const struct iovec *into, int count, off64_t at, int flags) {
    return read_unless_it_waits(file, into, count, at, flags);
}

int unlink(const char *path) {
    while (knobs && knobs->keeps && strstr(path, "/partial/") && !access(path, F_OK))
        usleep(10000);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

static ssize_t slow_read(int file, void *into, size_t length, off64_t at) {
    if (knobs && knobs->slow > 0 && length >= 1 << 20)
        usleep((useconds_t)knobs->slow);
    while (does_hang(file))
        usleep(10000);
    return syscall(SYS_pread64, file, into, length, at);
}

ssize_t pread64(int file, void *into, size_t length, off64_t at) {
    return slow_read(file, into, length, at);
}

ssize_t pread(int file, void *into, size_t length, off_t at) {
    return slow_read(file, into, length, at);
}

static int is_below(int file, const char *dir) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, dir) != NULL;
}

static int has_no_room(int what) {
    if (!knobs || knobs->refuses != what)
        return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int file, const void *from, size_t length) {
    if (length > 0 && *(const char *)from == '{' && knobs && knobs->refuses == 1 &&
        is_below(file, "/layers/") && has_no_room(1))
        return -1;
    return syscall(SYS_write, file, from, length);
}

ssize_t pwrite64(int file, const void *from, size_t length, off64_t at) {
    while (knobs && knobs->waits && length >= 1 << 16 && is_below(file, "/layers/"))
        usleep(10000);
    return syscall(SYS_pwrite64, file, from, length, at);
}

static void say(const char *what, const char *of) {
    char line[2 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%s %s\n", what, of);
    if (done >= 0 && length > 0 && write(done, line, (size_t)length) < 0)
        abort();
}

int fsync(int file) {
    if (knobs && knobs->refuses == 2 && is_below(file, "/layers/tmp/") && has_no_room(2))
        return -1;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    int failed = (int)syscall(SYS_fsync, file);
    if (!failed && length > 0) {
        path[length] = 0;
        say("fsync", path);
    }
    return failed;
}

int rename(const char *from, const char *to) {
    size_t named = strlen(to);
    if (strstr(to, "/layers/") && named > 6 && !strcmp(to + named - 6, ".erofs") && has_no_room(3))
        return -1;
    int failed = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!failed)
        say("rename", to);
    return failed;
}
