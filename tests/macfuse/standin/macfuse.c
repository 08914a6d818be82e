/* SPDX-License-Identifier: MIT */
/* A stand-in for the library of macFUSE or FUSE-T, which runs on Linux and mounts nothing.
 *
 * It has the functions that the adapter and mfusepy call, and the layouts of macOS on 64-bit machines,
 * written down here once more, from macFUSE's and xnu's headers.  Its loop plays a kernel's part: it calls
 * every operation of the table, in an order as it occurs, and writes to the file $STANDIN_LOG what came
 * of each, a line "name value".  Numbers of errors and of flags of open(2) are Linux's, for the file
 * system below runs on Linux.
 *
 * $STANDIN_REFUSE: what fuse_mount() says on standard error before it fails.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint16_t d_mode_t;
typedef int32_t d_dev_t;
struct d_timespec { int64_t sec, nsec; };

struct d_stat {
	d_dev_t dev; d_mode_t mode; uint16_t nlink; uint64_t ino; uint32_t uid, gid; d_dev_t rdev;
	struct d_timespec atime, mtime, ctime, birthtime;
	int64_t size, blocks; int32_t blksize; uint32_t flags, gen; int32_t lspare; int64_t qspare[2];
};
_Static_assert(sizeof(struct d_stat) == 144, "stat");

struct d_statfs {
	uint32_t bsize; int32_t iosize; uint64_t blocks, bfree, bavail, files, ffree; int32_t fsid[2];
	uint32_t owner, type, flags, fssubtype; char fstypename[16], mntonname[1024], mntfromname[1024];
	uint32_t flags_ext, reserved[7];
};
_Static_assert(sizeof(struct d_statfs) == 2168, "statfs");

struct d_statvfs {
	uint64_t bsize, frsize; uint32_t blocks, bfree, bavail, files, ffree, favail;
	uint64_t fsid, flag, namemax;
};
_Static_assert(sizeof(struct d_statvfs) == 64, "statvfs");

struct d_setattr_x {
	int32_t valid; d_mode_t mode; uint32_t uid, gid; int64_t size;
	struct d_timespec acctime, modtime, crtime, chgtime, bkuptime; uint32_t flags;
};
_Static_assert(sizeof(struct d_setattr_x) == 112, "setattr_x");
enum { X_MODE = 1, X_UID = 2, X_SIZE = 8, X_ACCTIME = 16, X_MODTIME = 32 };
enum { X_ACCTIME_NOW = 1 << 7, X_MODTIME_NOW = 1 << 8 }; /* the kernel's, passed on as they are */
#define X_CRTIME (1u << 28)
#define X_CHGTIME (1u << 29)
#define X_BKUPTIME (1u << 30)
#define X_FLAGS (1u << 31)

struct d_file_info {
	int flags; unsigned long fh_old; int writepage;
	unsigned direct_io : 1, keep_cache : 1, flush : 1, nonseekable : 1, flock_release : 1, padding : 25,
		purge_attr : 1, purge_ubc : 1;
	uint64_t fh, lock_owner;
};
_Static_assert(sizeof(struct d_file_info) == 40, "fuse_file_info");

struct d_conn_info {
	unsigned proto_major, proto_minor, async_read, max_write, max_readahead, enable, capable, want,
		max_background, congestion_threshold, reserved[22];
};
_Static_assert(sizeof(struct d_conn_info) == 128, "fuse_conn_info");

struct d_context {
	void *fuse; uint32_t uid, gid; int32_t pid; void *private_data; d_mode_t umask;
};

typedef const char *path_t;
typedef struct d_file_info *fi_t;
typedef int (*filler_t)(void *, const char *, const struct d_stat *, int64_t);

struct d_operations {
	int (*getattr)(path_t, struct d_stat *);
	int (*readlink)(path_t, char *, size_t);
	void *getdir;
	int (*mknod)(path_t, d_mode_t, d_dev_t);
	int (*mkdir)(path_t, d_mode_t);
	int (*unlink)(path_t);
	int (*rmdir)(path_t);
	int (*symlink)(path_t, path_t);
	int (*rename)(path_t, path_t);
	int (*link)(path_t, path_t);
	int (*chmod)(path_t, d_mode_t);
	int (*chown)(path_t, uint32_t, uint32_t);
	int (*truncate)(path_t, int64_t);
	void *utime;
	int (*open)(path_t, fi_t);
	int (*read)(path_t, char *, size_t, int64_t, fi_t);
	int (*write)(path_t, const char *, size_t, int64_t, fi_t);
	int (*statfs)(path_t, struct d_statvfs *);
	int (*flush)(path_t, fi_t);
	int (*release)(path_t, fi_t);
	int (*fsync)(path_t, int, fi_t);
	int (*setxattr)(path_t, path_t, const char *, size_t, int, uint32_t);
	int (*getxattr)(path_t, path_t, char *, size_t, uint32_t);
	int (*listxattr)(path_t, char *, size_t);
	int (*removexattr)(path_t, path_t);
	int (*opendir)(path_t, fi_t);
	int (*readdir)(path_t, void *, filler_t, int64_t, fi_t);
	int (*releasedir)(path_t, fi_t);
	int (*fsyncdir)(path_t, int, fi_t);
	void *(*init)(struct d_conn_info *);
	void (*destroy)(void *);
	int (*access)(path_t, int);
	int (*create)(path_t, d_mode_t, fi_t);
	int (*ftruncate)(path_t, int64_t, fi_t);
	int (*fgetattr)(path_t, struct d_stat *, fi_t);
	void *lock;
	int (*utimens)(path_t, const struct d_timespec[2]);
	void *bmap;
	unsigned flag_nullpath_ok : 1, flag_nopath : 1, flag_utime_omit_ok : 1, flag_reserved : 29;
	void *ioctl, *poll, *write_buf, *read_buf, *flock;
	int (*fallocate)(path_t, int, int64_t, int64_t, fi_t);
	void *reserved00, *reserved01;
	int (*renamex)(path_t, path_t, unsigned);
	int (*statfs_x)(path_t, struct d_statfs *);
	int (*setvolname)(path_t);
	int (*exchange)(path_t, path_t, unsigned long);
	int (*getxtimes)(path_t, struct d_timespec *, struct d_timespec *);
	int (*setbkuptime)(path_t, const struct d_timespec *);
	int (*setchgtime)(path_t, const struct d_timespec *);
	int (*setcrtime)(path_t, const struct d_timespec *);
	int (*chflags)(path_t, uint32_t);
	int (*setattr_x)(path_t, struct d_setattr_x *);
	int (*fsetattr_x)(path_t, struct d_setattr_x *, fi_t);
};
_Static_assert(sizeof(struct d_operations) == 464, "fuse_operations");
_Static_assert(offsetof(struct d_operations, renamex) == 376, "renamex");

struct args { int argc; char **argv; int allocated; };

static struct d_operations op;
static FILE *log_file;
static __thread struct d_context context = {.uid = 501, .gid = 20, .pid = 4711, .umask = 022};
static volatile int exited;
static int the_channel;

static void say(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	vfprintf(log_file, format, list);
	va_end(list);
	fputc('\n', log_file);
	fflush(log_file);
}

EXPORT int fuse_version(void) { return 29; }
EXPORT struct d_context *fuse_get_context(void) { return &context; }
EXPORT void fuse_exit(void *fuse) { (void)fuse; exited = 1; }

EXPORT void *fuse_mount(const char *mountpoint, struct args *args)
{
	const char *refusal = getenv("STANDIN_REFUSE");
	if (refusal) {
		fprintf(stderr, "%s\n", refusal);
		return NULL;
	}
	log_file = fopen(getenv("STANDIN_LOG"), "w");
	say("mountpoint %s", mountpoint);
	for (int i = 1; i + 1 < args->argc; i += 2)
		say("words %s %s", args->argv[i], args->argv[i + 1]);
	return &the_channel;
}

EXPORT void fuse_unmount(const char *mountpoint, void *channel)
{
	say("unmount %s %d", mountpoint, channel == &the_channel);
}

EXPORT void *fuse_new(void *channel, struct args *args, const void *table, size_t size, void *data)
{
	(void)args, (void)data;
	say("new %d %zu", channel == &the_channel, size);
	memcpy(&op, table, size < sizeof op ? size : sizeof op);
	return &op;
}

EXPORT void fuse_destroy(void *fuse)
{
	if (op.destroy)
		op.destroy(NULL);
	say("destroy %d", fuse == &op);
	fclose(log_file);
}

/* -- the kernel's part ---------------------------------------------------------------------- */

static int room;

static int fill(void *buffer, const char *name, const struct d_stat *st, int64_t offset)
{
	if (!room--)
		return 1;
	*(int64_t *)buffer = offset;
	say("entry %s %u %d", name, st->mode >> 12, st->ino != 0);
	return 0;
}

static void tell(const char *name, path_t path)
{
	struct d_stat found = {0}, *st = &found;
	int result = op.getattr(path, st);
	say("%s %d %o %u %lld %lld.%09lld %lld.%09lld %lld.%09lld %llu %u %u %u", name, result, st->mode, st->nlink,
	    (long long)st->size, (long long)st->mtime.sec, (long long)st->mtime.nsec,
	    (long long)st->atime.sec, (long long)st->atime.nsec, (long long)st->birthtime.sec,
	    (long long)st->birthtime.nsec, (unsigned long long)st->ino, st->uid, st->gid, st->flags);
}

static void *other_thread(void *unused)
{
	struct d_stat st;
	context = (struct d_context){.uid = 502, .gid = 12, .pid = 4712};
	say("getattr_other %d", op.getattr("/old", &st));
	return unused;
}

static void directories(void)
{
	struct d_file_info fi = {0};
	int64_t offset = 0, before = -1;
	int result = op.opendir("/", &fi);
	say("opendir %d %d", result, fi.fh != 0);
	while (offset != before) {
		before = offset;
		room = 2;
		say("readdir %d", op.readdir(NULL, &offset, fill, offset, &fi));
	}
	say("fsyncdir %d", op.fsyncdir(NULL, 0, &fi));
	say("releasedir %d", op.releasedir(NULL, &fi));
}

static void a_file(void)
{
	struct d_file_info fi = {.flags = O_RDWR | O_CREAT | O_EXCL};
	struct d_stat st;
	char buffer[64] = "";

	int result = op.create("/new", 0640, &fi);
	say("create %d %d", result, fi.fh != 0);
	memset(&st, 0, sizeof st);
	result = op.fgetattr(NULL, &st, &fi);
	say("fgetattr %d %o %u %lld", result, st.mode, st.nlink, (long long)st.size);
	say("write %d", op.write(NULL, "hello ", 6, 0, &fi));
	say("write %d", op.write(NULL, "world", 5, 6, &fi));
	say("read %d %s", op.read(NULL, buffer, sizeof buffer, 0, &fi), buffer);
	say("flush %d", op.flush(NULL, &fi));
	say("fsync %d %d", op.fsync(NULL, 0, &fi), op.fsync(NULL, 1, &fi));
	say("ftruncate %d", op.ftruncate(NULL, 5, &fi));
	/* PREALLOCATE, alone and from the end of what the file has */
	say("fallocate %d %d", op.fallocate(NULL, 1, 0, 65536, &fi), op.fallocate(NULL, 0x11, 0, 65536, &fi));
	memset(&st, 0, sizeof st);
	op.fgetattr(NULL, &st, &fi);
	say("allocated %d %lld", st.blocks * 512 >= 65536, (long long)st.size);
	struct d_setattr_x x = {.valid = X_SIZE | X_MODE, .size = 3, .mode = 0100600};
	say("fsetattr_x %d", op.fsetattr_x(NULL, &x, &fi));
	say("release %d", op.release(NULL, &fi));
	say("release_again %d", op.release(NULL, &fi));

	struct d_file_info again = {.flags = O_RDONLY};
	say("open %d", op.open("/new", &again));
	memset(buffer, 0, sizeof buffer);
	say("read %d %s", op.read("/new", buffer, sizeof buffer, 0, &again), buffer);
	say("release %d", op.release("/new", &again));
	say("truncate %d", op.truncate("/new", 2));
	say("open_none %d", op.open("/none", &again));
}

static void attributes(void)
{
	struct d_stat st;
	struct d_timespec times[2] = {{.nsec = -2}, {1000000000, 123456789}};

	tell("getattr", "/old");
	say("getattr_none %d", op.getattr("/none", &st));
	say("access %d %d", op.access("/old", 4), op.access("/none", 4));
	say("chmod %d", op.chmod("/old", 0100604));
	say("chown %d", op.chown("/old", -1, -1));
	say("utimens %d", op.utimens("/old", times));
	tell("getattr_utimens", "/old");

	struct d_setattr_x x = {
		.valid = X_MODTIME | X_MODE, .mode = 0100640, .modtime = {1100000000, 7}, .size = 77,
	};
	say("setattr_x %d", op.setattr_x("/old", &x));
	tell("getattr_setattr_x", "/old");
	x.valid = X_CRTIME | X_FLAGS | X_ACCTIME;
	x.crtime = (struct d_timespec){900000000, 5};
	x.acctime = (struct d_timespec){1200000000, 9};
	x.flags = 0x8000;
	say("setattr_x_more %d", op.setattr_x("/old", &x));
	tell("getattr_more", "/old");
	x.valid = X_MODE | X_CHGTIME;
	x.mode = 0;
	say("setattr_x_chgtime %d", op.setattr_x("/old", &x));
	x.valid = X_MODE | X_BKUPTIME;
	say("setattr_x_bkuptime %d", op.setattr_x("/old", &x));
	tell("getattr_refused", "/old");

	struct d_timespec backup = {1, 1}, birth = {0, 0}, when = {800000000, 6};
	int result = op.getxtimes("/old", &backup, &birth);
	say("getxtimes %d %lld.%lld %lld.%09lld", result, (long long)backup.sec, (long long)backup.nsec,
	    (long long)birth.sec, (long long)birth.nsec);
	say("setcrtime %d", op.setcrtime("/old", &when));
	say("setchgtime %d", op.setchgtime("/old", &when));
	say("setbkuptime %d", op.setbkuptime("/old", &when));
	say("chflags %d", op.chflags("/old", 0x8002));
}

static void names(void)
{
	struct d_stat st;
	char buffer[64] = "";

	say("symlink %d", op.symlink("old", "/symlink"));
	say("readlink %d %s", op.readlink("/symlink", buffer, sizeof buffer), buffer);
	say("readlink_short %d %s", op.readlink("/symlink", buffer, 3), buffer);
	say("link %d", op.link("/old", "/hardlink"));
	memset(&st, 0, sizeof st);
	op.getattr("/hardlink", &st);
	say("nlink %u", st.nlink);
	say("mkdir %d", op.mkdir("/dir", 0750));
	say("mknod %d", op.mknod("/dir/fifo", 0010600, 0));
	say("mknod_file %d", op.mknod("/dir/file", 0600, 0));
	say("rename %d", op.rename("/symlink", "/dir/moved"));
	say("renamex_excl_taken %d", op.renamex("/new", "/old", 4));
	say("renamex_excl %d", op.renamex("/new", "/newer", 4));
	say("renamex_swap %d", op.renamex("/newer", "/old", 2));
	say("renamex_plain %d", op.renamex("/newer", "/new", 0));
	say("renamex_unknown %d", op.renamex("/new", "/old", 8));
	say("exchange %d", op.exchange("/new", "/old", 0));
	say("unlink %d", op.unlink("/hardlink"));
	say("rmdir_full %d", op.rmdir("/dir"));
}

static void extended(void)
{
	char buffer[64];
	int size;

	say("setxattr %d", op.setxattr("/old", "user.a", "value", 5, 0, 0));
	say("setxattr_create %d", op.setxattr("/old", "user.a", "other", 5, 2, 0));
	say("setxattr_replace %d", op.setxattr("/old", "user.b", "other", 5, 4, 0));
	say("setxattr_position %d", op.setxattr("/old", "user.a", "x", 1, 0, 3));
	say("getxattr_size %d", op.getxattr("/old", "user.a", NULL, 0, 0));
	memset(buffer, 0, sizeof buffer);
	say("getxattr %d %s", op.getxattr("/old", "user.a", buffer, sizeof buffer, 0), buffer);
	say("getxattr_small %d", op.getxattr("/old", "user.a", buffer, 2, 0));
	say("getxattr_position %d", op.getxattr("/old", "user.a", buffer, 2, 1));
	say("getxattr_none %d", op.getxattr("/old", "user.none", buffer, 2, 0));
	/* in pieces, with a gap, as copyfile(3) writes it */
	say("fork %d", op.setxattr("/old", "com.apple.ResourceFork", "ABCDEF", 6, 0, 0));
	say("fork %d", op.setxattr("/old", "com.apple.ResourceFork", "xy", 2, 0, 2));
	say("fork %d", op.setxattr("/old", "com.apple.ResourceFork", "tail", 4, 0, 8));
	memset(buffer, 0, sizeof buffer);
	size = op.getxattr("/old", "com.apple.ResourceFork", buffer, sizeof buffer, 0);
	say("fork_read %d %s %d%d %s", size, buffer, buffer[6], buffer[7], buffer + 8);
	memset(buffer, 0, sizeof buffer);
	say("fork_piece %d %s", op.getxattr("/old", "com.apple.ResourceFork", buffer, 3, 1), buffer);
	say("fork_size %d", op.getxattr("/old", "com.apple.ResourceFork", NULL, 0, 0));
	memset(buffer, 0, sizeof buffer);
	size = op.listxattr("/old", buffer, sizeof buffer);
	say("listxattr_size %d", op.listxattr("/old", NULL, 0) == size);
	for (int at = 0; at < size; at += strlen(buffer + at) + 1)
		say("listed %s", buffer + at);
	say("removexattr %d", op.removexattr("/old", "user.a"));
	say("removexattr_none %d", op.removexattr("/old", "user.a"));
}

static void hidden(void)
{
	static const char name[] = "/dir/.fuse_hidden0000002a00000001";
	struct d_file_info fi = {.flags = O_RDWR | O_CREAT | O_EXCL};
	struct d_stat st;
	char buffer[64] = "";

	/* Somebody's own file of such a name, which is not open, is renamed like any other. */
	say("own_hidden %d", op.rename("/dir/file", "/dir/.fuse_hidden0123456789abcdef"));
	say("own_hidden_there %d", op.getattr("/dir/.fuse_hidden0123456789abcdef", &st));
	say("own_hidden_gone %d", op.unlink("/dir/.fuse_hidden0123456789abcdef"));

	/* touch(1): both times, and their values are not to be used */
	struct d_setattr_x x = {.valid = X_ACCTIME | X_MODTIME | X_ACCTIME_NOW | X_MODTIME_NOW};
	say("setattr_x_now %d", op.setattr_x("/dir/fifo", &x));
	memset(&st, 0, sizeof st);
	op.getattr("/dir/fifo", &st);
	say("setattr_x_now_is %d %d", st.mtime.sec > 1600000000, st.atime.sec > 1600000000);

	op.create("/dir/open", 0600, &fi);
	op.write(NULL, "data", 4, 0, &fi);
	say("hide %d", op.rename("/dir/open", name));
	say("hide_gone %d", op.getattr("/dir/open", &st));
	memset(&st, 0, sizeof st);
	int result = op.getattr(name, &st);
	say("hide_getattr %d %u %lld", result, st.nlink, (long long)st.size);
	say("hide_read %d %s", op.read(NULL, buffer, sizeof buffer, 0, &fi), buffer);
	say("hide_rmdir_contents %d", op.unlink("/dir/fifo") | op.unlink("/dir/moved"));
	say("hide_rmdir %d", op.rmdir("/dir"));
	say("hide_release %d", op.release(NULL, &fi));
	say("hide_unlink %d", op.unlink(name));
}

static void the_whole(void)
{
	struct d_statfs fs;
	struct d_statvfs vfs;

	memset(&fs, 0xff, sizeof fs);
	int result = op.statfs_x("/", &fs);
	say("statfs_x %d %u %d %llu %d", result, fs.bsize, fs.iosize, (unsigned long long)fs.blocks,
	    fs.bfree >= fs.bavail);
	memset(&vfs, 0xff, sizeof vfs);
	result = op.statfs("/", &vfs);
	say("statfs %d %llu %llu %llu %llu", result, (unsigned long long)vfs.bsize,
	    (unsigned long long)vfs.frsize, (unsigned long long)vfs.blocks, (unsigned long long)vfs.namemax);
	say("setvolname %d", op.setvolname("renamed"));
}

EXPORT int fuse_loop(void *fuse)
{
	struct d_conn_info conn = {
		.proto_major = 7, .proto_minor = 19, .max_write = 1 << 20,
		.capable = 0xff800001u | 1 << 3 | 1 << 5 | 1 << 6, .want = 1u << 28 | 1 << 6,
	};
	pthread_t thread;

	op.init(&conn);
	say("want %08x", conn.want);
	say("flags %u %u %u", op.flag_nullpath_ok, op.flag_nopath, op.flag_utime_omit_ok);
	say("null %d", !op.lock && !op.flock && !op.ioctl && !op.poll && !op.bmap && !op.getdir &&
	    !op.reserved00 && !op.reserved01);
	the_whole();
	attributes();
	directories();
	a_file();
	names();
	extended();
	hidden();
	pthread_create(&thread, NULL, other_thread, NULL);
	pthread_join(thread, NULL);
	/* As a kernel that waits for the unmount: until the other side has seen the mount. */
	const char *until = getenv("STANDIN_UNTIL");
	while (until && !exited && access(until, F_OK))
		usleep(1000);
	(void)fuse;
	return 0;
}

EXPORT int fuse_loop_mt(void *fuse) { say("threads many"); return fuse_loop(fuse); }

EXPORT int fuse_main_real(int argc, char **argv, const void *table, size_t size, void *data)
{
	struct args args = {argc - 1, argv, 0};
	void *channel = fuse_mount(argv[argc - 1], &args);
	if (!channel)
		return 1;
	void *fuse = fuse_new(channel, &args, table, size, data);
	int status = fuse_loop_mt(fuse);
	fuse_unmount(argv[argc - 1], channel);
	fuse_destroy(fuse);
	return status;
}
