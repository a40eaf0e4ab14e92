/* A CUDA driver without a GPU: the calls that the hot tier makes, on shared memory.
 *
 * CUDA_FAKE_DEVICES  how many devices there are (default 1)
 * CUDA_FAKE_BYTES    memory of each, in this process (default 64 MiB)
 * CUDA_FAKE_FAIL     CALL:N  the N-th call of that name fails with CUDA_ERROR_UNKNOWN
 * CUDA_FAKE_WITHOUT  ATTRIBUTE (a number): no device has it; ATTRIBUTE@DEVICE: that one has not
 *
 * Handles are memfds, address ranges are mappings, exporting is dup(2): the life of the memory is the
 * same as on a device. Stricter than a driver where its manual is silent: whatever touches addresses needs
 * a context. What is left is told by fake_cuda_left(). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr, CUhandle;
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_CONTEXT = 201, NOT_FOUND = 500, UNKNOWN = 999 };
enum { GRANULARITY = 2 << 20, ATTRIBUTE_RDMA = 110 };

typedef struct { char bytes[16]; } CUuuid;
typedef struct { int type, id; } Location;
typedef struct { Location location; int flags; } Access;
typedef struct {
    int type, handle_types;
    Location location;
    void *win32;
    unsigned char compression, rdma;
} Properties; /* its beginning */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
enum { DEVICES_MAX = 8, HANDLES_MAX = 65536 };
static size_t used_bytes[DEVICES_MAX];
static signed char owner[HANDLES_MAX]; /* 1 + the device of a handle that was made here; 0: imported */
static int handle_count, range_count, mapped_count, context_count;
enum { CONTEXTS_MAX = 16 };
static __thread void *contexts[CONTEXTS_MAX]; /* of the thread: a stack, never empty */
static __thread int context_depth;
#define current_context contexts[context_depth]

static size_t capacity(void) {
    const char *text = getenv("CUDA_FAKE_BYTES");
    return text ? strtoull(text, NULL, 10) : (size_t)64 << 20;
}

static int device_count(void) {
    const char *text = getenv("CUDA_FAKE_DEVICES");
    return text ? atoi(text) : 1;
}

static int fails(const char *name) {
    static int count;
    const char *text = getenv("CUDA_FAKE_FAIL");
    size_t length = strlen(name);
    if (!text || strncmp(text, name, length) || text[length] != ':') return 0;
    return ++count == atoi(text + length + 1);
}
#define MAY_FAIL if (fails(__func__)) return UNKNOWN
#define IN_CONTEXT if (!current_context) return NO_CONTEXT

static int has(int attribute, CUdevice device) {
    const char *text = getenv("CUDA_FAKE_WITHOUT");
    if (!text || atoi(text) != attribute) return 1;
    const char *only = strchr(text, '@');
    return only && atoi(only + 1) != device;
}

int fake_cuda_left(void) { return handle_count + range_count + mapped_count + context_count; }

CUresult cuInit(unsigned flags) { (void)flags; MAY_FAIL; return device_count() ? OK : NO_DEVICE; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return OK; }
CUresult cuDeviceGetCount(int *count) { *count = device_count(); return OK; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    MAY_FAIL;
    if (ordinal < 0 || ordinal >= device_count()) return INVALID;
    *device = ordinal;
    return OK;
}
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    memset(uuid->bytes, 0xA0 + device, sizeof uuid->bytes);
    return OK;
}
CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    MAY_FAIL;
    *value = has(attribute, device);
    return OK;
}
CUresult cuDevicePrimaryCtxRetain(void **context, CUdevice device) {
    MAY_FAIL;
    *context = (void *)(long)(device + 1);
    context_count++;
    return OK;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { (void)device; context_count--; return OK; }
CUresult cuCtxSetCurrent(void *context) { MAY_FAIL; current_context = context; return OK; }
CUresult cuCtxGetCurrent(void **context) { *context = current_context; return OK; }
CUresult cuCtxPushCurrent_v2(void *context) {
    MAY_FAIL;
    if (context_depth + 1 == CONTEXTS_MAX) return INVALID;
    contexts[++context_depth] = context;
    return OK;
}
CUresult cuCtxPopCurrent_v2(void **context) {
    if (!context_depth) return NO_CONTEXT;
    *context = contexts[context_depth--];
    return OK;
}
CUresult cuCtxSynchronize(void) { MAY_FAIL; IN_CONTEXT; return OK; }
CUresult cuCtxSynchronize_v2(void *context) { (void)context; return cuCtxSynchronize(); }
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    MAY_FAIL;
    IN_CONTEXT;
    *total_bytes = capacity();
    *free_bytes = capacity() - used_bytes[(long)current_context - 1];
    return OK;
}
CUresult cuMemGetAllocationGranularity(size_t *bytes, const Properties *properties, int option) {
    MAY_FAIL;
    (void)properties, (void)option;
    *bytes = GRANULARITY;
    return OK;
}
CUresult cuMemCreate(CUhandle *handle, size_t bytes, const Properties *p, unsigned long long flags) {
    MAY_FAIL;
    (void)flags;
    if (bytes % GRANULARITY || p->handle_types != 1 || p->location.type != 1) return INVALID;
    if (p->location.id < 0 || p->location.id >= DEVICES_MAX) return INVALID;
    if (p->rdma != has(ATTRIBUTE_RDMA, p->location.id)) return INVALID;
    if (used_bytes[p->location.id] + bytes > capacity()) return OUT_OF_MEMORY;
    int fd = memfd_create("fake-cuda", MFD_CLOEXEC);
    if (fd < 0 || fd >= HANDLES_MAX || ftruncate(fd, bytes)) return OUT_OF_MEMORY;
    *handle = fd;
    pthread_mutex_lock(&lock);
    owner[fd] = 1 + p->location.id;
    used_bytes[p->location.id] += bytes;
    handle_count++;
    pthread_mutex_unlock(&lock);
    return OK;
}
CUresult cuMemRelease(CUhandle handle) {
    struct stat status;
    if (fstat(handle, &status)) return INVALID;
    pthread_mutex_lock(&lock);
    if (owner[handle]) used_bytes[owner[handle] - 1] -= status.st_size;
    owner[handle] = 0;
    handle_count--;
    pthread_mutex_unlock(&lock);
    return close(handle) ? INVALID : OK;
}
CUresult cuMemExportToShareableHandle(void *fd, CUhandle handle, int type, unsigned long long flags) {
    MAY_FAIL;
    (void)flags;
    if (type != 1) return INVALID;
    /* Inheritable, as nobody promises that the driver's are not. */
    int copy = dup(handle);
    if (copy < 0) return UNKNOWN;
    *(int *)fd = copy;
    return OK;
}
CUresult cuMemImportFromShareableHandle(CUhandle *handle, void *fd, int type) {
    MAY_FAIL;
    struct stat status;
    int copy = fcntl((int)(long)fd, F_DUPFD_CLOEXEC, 0);
    if (type != 1 || copy < 0 || fstat(copy, &status)) return INVALID;
    *handle = copy;
    pthread_mutex_lock(&lock);
    handle_count++;
    pthread_mutex_unlock(&lock);
    return OK;
}
CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t bytes, size_t alignment, CUdeviceptr hint,
                             unsigned long long flags) {
    MAY_FAIL;
    IN_CONTEXT;
    (void)alignment, (void)hint, (void)flags;
    void *address = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) return OUT_OF_MEMORY;
    *pointer = (CUdeviceptr)address;
    range_count++;
    return OK;
}
CUresult cuMemAddressFree(CUdeviceptr pointer, size_t bytes) {
    range_count--;
    return munmap((void *)pointer, bytes) ? INVALID : OK;
}
CUresult cuMemMap(CUdeviceptr pointer, size_t bytes, size_t offset, CUhandle handle,
                  unsigned long long flags) {
    MAY_FAIL;
    IN_CONTEXT;
    (void)flags;
    struct stat status;
    if (fstat(handle, &status) || (off_t)(offset + bytes) > status.st_size) return INVALID;
    if (mmap((void *)pointer, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, handle, offset) == MAP_FAILED)
        return UNKNOWN;
    mapped_count++;
    return OK;
}
CUresult cuMemUnmap(CUdeviceptr pointer, size_t bytes) {
    IN_CONTEXT;
    void *address = mmap((void *)pointer, bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    mapped_count--;
    return address == MAP_FAILED ? UNKNOWN : OK;
}
CUresult cuMemSetAccess(CUdeviceptr pointer, size_t bytes, const Access *access, size_t count) {
    MAY_FAIL;
    IN_CONTEXT;
    if (count != 1 || access->location.type != 1) return INVALID;
    int protection = access->flags == 3 ? PROT_READ | PROT_WRITE : PROT_READ;
    return mprotect((void *)pointer, bytes, protection) ? UNKNOWN : OK;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t bytes) {
    MAY_FAIL;
    IN_CONTEXT;
    memcpy((void *)target, source, bytes);
    return OK;
}
CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t bytes) {
    MAY_FAIL;
    IN_CONTEXT;
    memcpy(target, (void *)source, bytes);
    return OK;
}
CUresult cuGetErrorName(CUresult error, const char **name) {
    (void)error;
    *name = "FAKE";
    return OK;
}

static void *find(const char *symbol) {
    char versioned[128];
    snprintf(versioned, sizeof versioned, "%s_v2", symbol);
    void *found = dlsym(RTLD_DEFAULT, versioned);
    if (!found) {
        void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
        if (self) {
            found = dlsym(self, versioned);
            if (!found) found = dlsym(self, symbol);
            dlclose(self);
        }
    }
    return found;
}
CUresult cuGetProcAddress_v2(const char *symbol, void **pointer, int version,
                             unsigned long long flags, int *status) {
    (void)version, (void)flags;
    *pointer = !strcmp(symbol, "cuCtxSynchronize") ? (void *)cuCtxSynchronize : find(symbol);
    if (status) *status = *pointer ? 0 : 1;
    return *pointer ? OK : NOT_FOUND;
}
CUresult cuGetProcAddress(const char *symbol, void **pointer, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(symbol, pointer, version, flags, NULL);
}
