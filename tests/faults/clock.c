/* A clock of the day that jumps back by an hour, again and again. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

static int (*real_clock)(clockid_t, struct timespec *);

static void jumped(struct timespec *t) {
    struct timespec steady;
    real_clock(CLOCK_MONOTONIC, &steady);
    t->tv_sec -= 3600 * ((steady.tv_sec / 2) % 3); /* every two seconds another time */
}

int clock_gettime(clockid_t which, struct timespec *t) {
    if (!real_clock) real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real_clock(which, t);
    if (!status && which == CLOCK_REALTIME) jumped(t);
    return status;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
