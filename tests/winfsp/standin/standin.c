/* SPDX-License-Identifier: MIT
 * A library that stands in for winfsp-x64.dll in tests: it calls a file system as WinFsp calls it.
 *
 * Owns the order of calls (start-up, open, create, delete, rename, close), the way names are turned, and which
 * error numbers are understood.  Does not own a driver: there is no volume, and a test makes the requests
 * that Windows would make by the standin_ functions.  Written from the documented interface; nothing of
 * WinFsp is in it, and it is never shipped.
 */
#include <windows.h>
#include <stdlib.h>
#include <string.h>
#include "standin.h"

#define EXPORT __declspec(dllexport)

enum { READDIR_PLUS = 1 << 21, READ_ONLY = 1 << 22, STAT_EX = 1 << 23, CASE_INSENSITIVE = 1 << 29 };
enum { ENOSYS_ = 40, EINVAL_ = 22 };

#define STATUS(number) ((int32_t)(number))
#define INVALID_REQUEST STATUS(0xC0000010)

struct fuse {
    struct operations ops;
    HANDLE over;
    uint32_t want;
    int symlinks, slashdot, attributes;
    struct statvfs64 space;
    char options[4096], mountpoint[1024];
    uint32_t threads;
};

static struct fuse *mounted; /* the last one; a test has one at a time */
static DWORD slot = TLS_OUT_OF_INDEXES;

/* -- what WinFsp does with an error number: those it does not know are "access denied" ---------------- */

static const struct { int number; uint32_t status; } known[] = {
    {1, 0xC0000022}, {2, 0xC0000034}, {3, 0xC000007A}, {4, 0xC0000120}, {5, 0xC0000185}, {6, 0xC0000098},
    {7, 0xC000009A}, {8, 0xC000007B}, {9, 0xC0000008}, {12, 0xC000009A}, {13, 0xC0000022}, {14, 0xC0000005},
    {16, 0x80000011}, {17, 0xC0000035}, {18, 0xC00000D4}, {19, 0xC000000E}, {20, 0xC0000103},
    {21, 0xC00000BA}, {22, 0xC000000D}, {23, 0xC000011F}, {24, 0xC000011F}, {27, 0xC000007F},
    {28, 0xC000007F}, {29, 0xC000000D}, {30, 0xC00000A2}, {31, 0xC0000265}, {32, 0xC000014B},
    {33, 0xC000000D}, {34, 0xC000000D}, {36, 0xC0000194}, {38, 0xC0000106}, {39, 0xC0000055},
    {40, 0xC0000010}, {41, 0xC0000101}, {42, 0xC000000D}, {114, 0xC0000280}, {120, 0xC0000011},
    {138, 0xC0000120},
};

EXPORT int32_t standin_status(int error)
{
    if (error >= 0)
        return 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].number == -error)
            return STATUS(known[i].status);
    return STATUS(0xC0000022);
}

/* -- names: \ becomes /, and what stands for a reserved character becomes that character -------------- */

static void posix_path(const wchar_t *windows, char *posix, int size)
{
    wchar_t turned[1024];
    int at = 0;
    for (; windows[at] && at < 1023; at++) {
        wchar_t c = windows[at];
        if (c == L'\\')
            c = L'/';
        else if (c > 0xF000 && c < 0xF080 && (c < 0xF020 || wcschr(L"\"*:<>?|\\", c & 0x7F)))
            c &= 0x7F;
        turned[at] = c;
    }
    turned[at] = 0;
    WideCharToMultiByte(CP_UTF8, 0, turned, -1, posix, size, NULL, NULL);
}

/* -- contexts: one a thread, known to callbacks only --------------------------------------------------- */

EXPORT struct context *fuse_get_context(void)
{
    struct context *context = TlsGetValue(slot);
    if (!context) {
        context = calloc(1, sizeof *context);
        context->uid = context->gid = (uint32_t)-1;
        context->pid = -1;
        TlsSetValue(slot, context);
    }
    return context;
}

EXPORT int fuse_version(void) { return 28; }

EXPORT void fuse_exit(struct fuse *f)
{
    /* Without a mount the real one crashes. */
    SetEvent(f->over);
}

/* -- start-up ------------------------------------------------------------------------------------------ */

static int start(struct fuse *f)
{
    struct conn_info conn = {7, 12, 1, 0xFFFFFFFF, 0, 0, 0, {0}};
    struct stat_ex st;
    char buffer[1024];

    fuse_get_context()->fuse = f;
    conn.capable = 1 | 1 << 5 | 1 << 6 | READDIR_PLUS | READ_ONLY | STAT_EX | 1 << 24 | CASE_INSENSITIVE;
    if (f->ops.init) {
        fuse_get_context()->private_data = f->ops.init(&conn);
        f->want = conn.want;
    }
    if (f->ops.statfs && f->ops.statfs("/", &f->space))
        return 1;
    memset(&st, 0, sizeof st);
    if (f->ops.getattr && f->ops.getattr("/", &st))
        return 1;
    if (f->ops.readlink) {
        f->symlinks = f->ops.readlink("/", buffer, sizeof buffer) != -ENOSYS_;
        if (f->symlinks) {
            memset(&st, 0, sizeof st);
            f->slashdot = !f->ops.getattr("/.", &st) && (st.mode & 0170000) == 0040000;
        }
    }
    f->attributes = f->ops.listxattr && f->ops.getxattr && f->ops.setxattr && f->ops.removexattr;
    return 0;
}

static int is_drive(const char *point) { return point[0] && point[1] == ':' && !point[2]; }

/* Wine cannot open what DefineDosDevice() makes, and has its own way: this request of its configuration. */
static int wine_drive(char letter, int exists)
{
    struct {
        ULONG size, type, fs_type, serial;
        ULONGLONG device;
        WCHAR letter;
        USHORT mount_point_offset, device_offset, label_offset;
        char path[8];
    } drive = {sizeof drive, exists ? DRIVE_FIXED : DRIVE_NO_ROOT_DIR, 0, 0, 0, letter | 0x20, 0, 0, 0, "/tmp"};
    HANDLE manager = CreateFileW(
        L"\\\\.\\MountPointManager", GENERIC_READ | GENERIC_WRITE, 3, NULL, OPEN_EXISTING, 0, NULL);
    DWORD done;
    int ok;
    if (exists)
        drive.mount_point_offset = (USHORT)((char *)drive.path - (char *)&drive);
    ok = DeviceIoControl(manager, 0x6DC080, &drive, sizeof drive, NULL, 0, &done, NULL);
    CloseHandle(manager);
    return ok;
}

static int under_wine(void)
{
    return GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "wine_get_version") != NULL;
}

static int attach(const char *point)
{
    wchar_t wide[1024];
    MultiByteToWideChar(CP_UTF8, 0, point, -1, wide, 1024);
    if (is_drive(point))
        return under_wine() ? wine_drive(point[0], 1) : DefineDosDeviceW(0, wide, L"C:\\windows");
    return CreateDirectoryW(wide, NULL);
}

static void detach(const char *point)
{
    wchar_t wide[1024];
    MultiByteToWideChar(CP_UTF8, 0, point, -1, wide, 1024);
    if (is_drive(point) && under_wine())
        wine_drive(point[0], 0);
    else if (is_drive(point))
        DefineDosDeviceW(DDD_REMOVE_DEFINITION, wide, NULL);
    else
        RemoveDirectoryW(wide);
}

EXPORT int fuse_main_real(int argc, char **argv, const struct operations *ops, size_t size, void *data)
{
    struct fuse *f = calloc(1, sizeof *f);
    int failed = 1;

    memcpy(&f->ops, ops, size < sizeof f->ops ? size : sizeof f->ops);
    f->over = CreateEventW(NULL, TRUE, FALSE, NULL);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-o") && i + 1 < argc)
            strncpy(f->options, argv[++i], sizeof f->options - 1);
        else
            strncpy(f->mountpoint, argv[i], sizeof f->mountpoint - 1);
    }
    (void)data;
    if (!start(f)) {
        mounted = f; /* before it can be seen: whoever sees it makes requests */
        if (attach(f->mountpoint)) {
            failed = 0;
            WaitForSingleObject(f->over, INFINITE);
            detach(f->mountpoint);
        }
        mounted = NULL;
    }
    if (f->ops.destroy)
        f->ops.destroy(NULL);
    CloseHandle(f->over);
    free(f);
    return failed;
}

EXPORT int standin_mounted(void) { return mounted != NULL; }
EXPORT uint32_t standin_want(void) { return mounted->want; }
EXPORT int standin_symlinks(void) { return mounted->symlinks; }
EXPORT int standin_slashdot(void) { return mounted->slashdot; }
EXPORT int standin_attributes(void) { return mounted->attributes; }
EXPORT const char *standin_options(void) { return mounted->options; }
EXPORT const char *standin_mountpoint(void) { return mounted->mountpoint; }
EXPORT void standin_space(struct statvfs64 *space) { mounted->ops.statfs("/", space); }

/* -- open files ---------------------------------------------------------------------------------------- */

struct file {
    char path[4096];
    char spelled[4096]; /* the normalised name, where one was told */
    int directory, reparse;
    struct file_info info;
};

static int32_t stat_of(struct fuse *f, const char *path, struct file_info *info, struct stat_ex *st)
{
    /* Whoever writes more than was agreed on hits the guard. */
    struct { struct stat_ex st; uint64_t guard; } room;
    int error;
    memset(&room, 0, sizeof room);
    room.guard = 0x5AFE5AFE5AFE5AFEULL;
    error = info && f->ops.fgetattr ? f->ops.fgetattr(path, &room.st, info) : f->ops.getattr(path, &room.st);
    if (room.guard != 0x5AFE5AFE5AFE5AFEULL)
        return STATUS(0xC0000374);
    if (!(f->want & STAT_EX))
        room.st.flags = 0;
    *st = room.st;
    return standin_status(error);
}

static void normalise(struct fuse *f, struct file *file, struct file_info *info)
{
    if ((f->want & CASE_INSENSITIVE) && f->ops.getpath)
        if (f->ops.getpath(file->path, file->spelled, sizeof file->spelled, info))
            file->spelled[0] = 0;
}

static int32_t opened(struct fuse *f, struct file *file, const wchar_t *name, struct file **out)
{
    (void)name;
    normalise(f, file, file->info.fh == (uint64_t)-1 ? NULL : &file->info);
    *out = file;
    return 0;
}

EXPORT int32_t standin_open(const wchar_t *name, int flags, struct file **out, struct stat_ex *st)
{
    struct fuse *f = mounted;
    struct file *file = calloc(1, sizeof *file);
    int32_t status;

    posix_path(name, file->path, sizeof file->path);
    status = stat_of(f, file->path, NULL, st);
    if (!status) {
        file->info.flags = flags;
        file->directory = (st->mode & 0170000) == 0040000;
        file->reparse = (st->mode & 0170000) == 0120000;
        if (file->reparse)
            file->info.fh = (uint64_t)-1;
        else if (!file->directory)
            status = standin_status(f->ops.open(file->path, &file->info));
        else if (f->ops.opendir)
            status = standin_status(f->ops.opendir(file->path, &file->info));
        else
            file->info.fh = (uint64_t)-1;
    }
    if (!status)
        return opened(f, file, name, out);
    free(file);
    return status;
}

EXPORT int32_t standin_create(
    const wchar_t *name, int directory, uint32_t flags, struct file **out, struct stat_ex *st)
{
    struct fuse *f = mounted;
    struct file *file = calloc(1, sizeof *file);
    int32_t status;

    posix_path(name, file->path, sizeof file->path);
    file->directory = directory;
    file->info.flags = 0x100 | 0x400 | 2; /* O_CREAT | O_EXCL | O_RDWR */
    if (directory) {
        status = standin_status(f->ops.mkdir(file->path, 0777));
        if (!status && f->ops.opendir)
            status = standin_status(f->ops.opendir(file->path, &file->info));
        else
            file->info.fh = (uint64_t)-1;
    } else {
        status = standin_status(f->ops.create(file->path, 0777, &file->info));
    }
    if (!status && flags && (f->want & STAT_EX) && f->ops.chflags) {
        status = standin_status(f->ops.chflags(file->path, flags));
        if (status == INVALID_REQUEST)
            status = 0;
    }
    if (!status)
        status = stat_of(f, file->path, directory ? NULL : &file->info, st);
    if (!status)
        return opened(f, file, name, out);
    free(file);
    return status;
}

EXPORT const char *standin_spelled(struct file *file) { return file->spelled; }
EXPORT uint64_t standin_handle(struct file *file) { return file->info.fh; }

static struct file_info *info_of(struct file *file)
{
    return file->directory || file->reparse ? NULL : &file->info;
}

EXPORT int32_t standin_stat(struct file *file, struct stat_ex *st)
{
    return stat_of(mounted, file->path, info_of(file), st);
}

EXPORT int32_t standin_read(struct file *file, char *data, size_t size, int64_t offset, int *done)
{
    struct file_info info = file->info;
    int got = mounted->ops.read(file->path, data, size, offset, &info);
    *done = got > 0 ? got : 0;
    return got < 0 ? standin_status(got) : got ? 0 : STATUS(0xC0000011);
}

/* offset -1: to the end, which WinFsp finds by asking for the size */
EXPORT int32_t standin_write(struct file *file, const char *data, size_t size, int64_t offset, int *done)
{
    struct file_info info = file->info;
    struct stat_ex st;
    int got;
    if (offset < 0) {
        int32_t status = stat_of(mounted, file->path, &info, &st);
        if (status)
            return status;
        offset = st.size;
    }
    got = mounted->ops.write(file->path, data, size, offset, &info);
    *done = got > 0 ? got : 0;
    return standin_status(got);
}

EXPORT int32_t standin_overwrite(struct file *file, uint32_t flags, struct stat_ex *st)
{
    int32_t status = standin_status(mounted->ops.ftruncate(file->path, 0, &file->info));
    if (!status && flags && mounted->ops.chflags)
        status = standin_status(mounted->ops.chflags(file->path, flags));
    return status ? status : stat_of(mounted, file->path, &file->info, st);
}

EXPORT int32_t standin_set_size(struct file *file, int64_t size)
{
    return standin_status(mounted->ops.ftruncate(file->path, size, &file->info));
}

EXPORT int32_t standin_set_times(struct file *file, const struct timespec64 *two, const struct timespec64 *born)
{
    int32_t status = 0;
    if (two)
        status = standin_status(mounted->ops.utimens(file->path, two));
    if (!status && born)
        status = mounted->ops.setcrtime ? standin_status(mounted->ops.setcrtime(file->path, born)) : 0;
    return status;
}

EXPORT int32_t standin_set_flags(struct file *file, uint32_t flags)
{
    if (!(mounted->want & STAT_EX) || !mounted->ops.chflags)
        return INVALID_REQUEST;
    return standin_status(mounted->ops.chflags(file->path, flags));
}

EXPORT int32_t standin_flush(struct file *file)
{
    struct file_info info = file->info;
    return standin_status(mounted->ops.fsync(file->path, 0, &info));
}

/* -- directories --------------------------------------------------------------------------------------- */

typedef void (*listener)(const char *name, const struct stat_ex *st);
struct listing { listener listen; int plus, children; };

static int found(void *buffer, const char *name, const struct stat_ex *st, int64_t offset)
{
    struct listing *listing = buffer;
    (void)offset;
    if (listing->listen) {
        listing->listen(name, listing->plus ? st : NULL);
        return 0;
    }
    if (strcmp(name, ".") && strcmp(name, ".."))
        listing->children++;
    return listing->children != 0;
}

EXPORT int32_t standin_list(struct file *file, listener listen)
{
    struct listing listing = {listen, (mounted->want & READDIR_PLUS) != 0, 0};
    struct file_info info = file->info;
    return standin_status(mounted->ops.readdir(file->path, &listing, found, 0, &info));
}

/* -- names --------------------------------------------------------------------------------------------- */

EXPORT int32_t standin_rename(struct file *file, const wchar_t *name, int replace)
{
    char path[4096];
    struct stat_ex st;
    int32_t status;

    posix_path(name, path, sizeof path);
    status = stat_of(mounted, path, NULL, &st);
    if (!status && _stricmp(path, file->path)) {
        if (!replace)
            return STATUS(0xC0000035);
        if ((st.mode & 0170000) == 0040000)
            return STATUS(0xC0000022);
    }
    status = standin_status(mounted->ops.rename(file->path, path));
    if (!status)
        strcpy(file->path, path);
    return status;
}

EXPORT int32_t standin_can_delete(struct file *file)
{
    struct listing listing = {NULL, 0, 0};
    struct file_info info = file->info;
    if (file->directory && !mounted->ops.readdir(file->path, &listing, found, 0, &info) && listing.children)
        return STATUS(0xC0000101);
    return 0;
}

/* The name goes while the file is open; the file goes at close. */
EXPORT int32_t standin_cleanup(struct file *file)
{
    return standin_status(
        file->directory ? mounted->ops.rmdir(file->path) : mounted->ops.unlink(file->path));
}

EXPORT void standin_close(struct file *file)
{
    struct file_info info = file->info;
    if (file->directory) {
        if (info.fh != (uint64_t)-1)
            mounted->ops.releasedir(file->path, &info);
    } else if (!file->reparse) {
        mounted->ops.flush(file->path, &info);
        mounted->ops.release(file->path, &info);
    }
    free(file);
}

EXPORT int32_t standin_readlink(const wchar_t *name, char *buffer, size_t size)
{
    char path[4096];
    posix_path(name, path, sizeof path);
    return standin_status(mounted->ops.readlink(path, buffer, size));
}

/* A symbolic link: what was created for it as an empty file is replaced by one under a hidden name. */
EXPORT int32_t standin_symlink(struct file *placeholder, const char *target)
{
    char hidden[4096 + 32];
    char *slash;
    int32_t status;

    if (!mounted->symlinks)
        return INVALID_REQUEST;
    strcpy(hidden, placeholder->path);
    slash = strrchr(hidden, '/');
    strcpy(slash + 1, ".fuse_hidden0123456789abcdef");
    status = standin_status(mounted->ops.symlink(target, hidden));
    if (status)
        return status;
    status = standin_status(mounted->ops.rename(hidden, placeholder->path));
    if (status)
        mounted->ops.unlink(hidden);
    return status;
}

/* -- many threads, as WinFsp has them ------------------------------------------------------------------ */

struct work { const wchar_t *name; int rounds; volatile LONG *failures; };

static DWORD WINAPI worker(void *data)
{
    struct work *work = data;
    for (int i = 0; i < work->rounds; i++) {
        struct file *file;
        struct stat_ex st;
        char byte;
        int done;
        if (standin_open(work->name, 0, &file, &st)) {
            InterlockedIncrement(work->failures);
            continue;
        }
        if (standin_read(file, &byte, 1, i % 7, &done) || done != 1 || byte != "abcdefg"[i % 7])
            InterlockedIncrement(work->failures);
        standin_close(file);
    }
    return 0;
}

EXPORT int standin_threads(const wchar_t *name, int count, int rounds)
{
    HANDLE threads[MAXIMUM_WAIT_OBJECTS] = {NULL};
    volatile LONG failures = 0;
    struct work work = {name, rounds, &failures};
    for (int i = 0; i < count; i++)
        threads[i] = CreateThread(NULL, 0, worker, &work, 0, NULL);
    WaitForMultipleObjects(count, threads, TRUE, INFINITE);
    for (int i = 0; i < count; i++)
        CloseHandle(threads[i]);
    return failures;
}

BOOL WINAPI DllMain(HINSTANCE instance, DWORD reason, LPVOID reserved)
{
    (void)instance;
    (void)reserved;
    if (reason == DLL_PROCESS_ATTACH)
        slot = TlsAlloc();
    else if (reason == DLL_THREAD_DETACH)
        free(TlsGetValue(slot));
    return TRUE;
}
