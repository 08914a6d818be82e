/* SPDX-License-Identifier: MIT
 * The FUSE interface of WinFsp on 64-bit Windows, as far as the stand-in plays it.
 *
 * Owns layouts, each held against a literal number.  Does not own behaviour (standin.c).
 */
#ifndef STANDIN_H
#define STANDIN_H

#include <stddef.h>
#include <stdint.h>

struct timespec64 { int64_t sec, nsec; };

struct stat_ex {
    uint32_t dev; uint64_t ino; uint32_t mode; uint16_t nlink; uint32_t uid, gid, rdev; int64_t size;
    struct timespec64 atim, mtim, ctim; int32_t blksize; int64_t blocks; struct timespec64 birthtim;
    uint32_t flags, reserved32[3]; uint64_t reserved64[2];
};

struct statvfs64 {
    uint64_t bsize, frsize, blocks, bfree, bavail, files, ffree, favail, fsid, flag, namemax;
};

struct file_info { int32_t flags; uint32_t fh_old; int32_t writepage; uint32_t bits; uint64_t fh, lock_owner; };

struct conn_info {
    uint32_t proto_major, proto_minor, async_read, max_write, max_readahead, capable, want, reserved[25];
};

struct context { void *fuse; uint32_t uid, gid; int32_t pid; void *private_data; uint32_t umask; };

typedef int (*filler)(void *buffer, const char *name, const struct stat_ex *stat, int64_t offset);
typedef int (*any)(void);

struct operations {
    int (*getattr)(const char *, struct stat_ex *);
    any getdir;
    int (*readlink)(const char *, char *, size_t);
    any mknod;
    int (*mkdir)(const char *, uint32_t);
    int (*unlink)(const char *);
    int (*rmdir)(const char *);
    int (*symlink)(const char *target, const char *path);
    int (*rename)(const char *, const char *);
    any link, chmod, chown;
    int (*truncate)(const char *, int64_t);
    any utime;
    int (*open)(const char *, struct file_info *);
    int (*read)(const char *, char *, size_t, int64_t, struct file_info *);
    int (*write)(const char *, const char *, size_t, int64_t, struct file_info *);
    int (*statfs)(const char *, struct statvfs64 *);
    int (*flush)(const char *, struct file_info *);
    int (*release)(const char *, struct file_info *);
    int (*fsync)(const char *, int, struct file_info *);
    any setxattr;
    int (*getxattr)(const char *, const char *, char *, size_t);
    any listxattr, removexattr;
    int (*opendir)(const char *, struct file_info *);
    int (*readdir)(const char *, void *, filler, int64_t, struct file_info *);
    int (*releasedir)(const char *, struct file_info *);
    int (*fsyncdir)(const char *, int, struct file_info *);
    void *(*init)(struct conn_info *);
    void (*destroy)(void *);
    int (*access)(const char *, int);
    int (*create)(const char *, uint32_t, struct file_info *);
    int (*ftruncate)(const char *, int64_t, struct file_info *);
    int (*fgetattr)(const char *, struct stat_ex *, struct file_info *);
    any lock;
    int (*utimens)(const char *, const struct timespec64[2]);
    any bmap;
    uint32_t flags;
    any ioctl, poll, write_buf, read_buf, flock, fallocate;
    int (*getpath)(const char *, char *, size_t, struct file_info *);
    any reserved01, reserved02, statfs_x, setvolname, exchange, getxtimes, setbkuptime, setchgtime;
    int (*setcrtime)(const char *, const struct timespec64 *);
    int (*chflags)(const char *, uint32_t);
    any setattr_x, fsetattr_x;
};

#define AT(type, field, number) _Static_assert(offsetof(struct type, field) == number, #type "." #field)
#define SIZE(type, number) _Static_assert(sizeof(struct type) == number, #type)

SIZE(stat_ex, 160);
AT(stat_ex, ino, 8); AT(stat_ex, mode, 16); AT(stat_ex, nlink, 20); AT(stat_ex, uid, 24);
AT(stat_ex, gid, 28); AT(stat_ex, rdev, 32); AT(stat_ex, size, 40); AT(stat_ex, atim, 48);
AT(stat_ex, mtim, 64); AT(stat_ex, ctim, 80); AT(stat_ex, blksize, 96); AT(stat_ex, blocks, 104);
AT(stat_ex, birthtim, 112); AT(stat_ex, flags, 128);
SIZE(statvfs64, 88);
SIZE(file_info, 32); AT(file_info, bits, 12); AT(file_info, fh, 16); AT(file_info, lock_owner, 24);
SIZE(conn_info, 128); AT(conn_info, capable, 20); AT(conn_info, want, 24);
SIZE(context, 40); AT(context, private_data, 24); AT(context, umask, 32);
SIZE(operations, 464);
AT(operations, getattr, 0); AT(operations, getdir, 8); AT(operations, readlink, 16);
AT(operations, mkdir, 32); AT(operations, rename, 64); AT(operations, open, 112);
AT(operations, statfs, 136); AT(operations, getxattr, 176); AT(operations, readdir, 208);
AT(operations, init, 232); AT(operations, create, 256); AT(operations, utimens, 288);
AT(operations, flags, 304); AT(operations, ioctl, 312); AT(operations, getpath, 360);
AT(operations, setcrtime, 432); AT(operations, chflags, 440); AT(operations, fsetattr_x, 456);

#endif
