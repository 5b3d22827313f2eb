// Notifies the address and thread sanitizers about fibers. Does nothing if neither is enabled.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define EMULATOR_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EMULATOR_TSAN 1
#endif
#endif

#if defined(EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
// The emulator itself is sequential; only the accesses of kernels are watched.
#define EMULATOR_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#else
#define EMULATOR_UNWATCHED
#endif

namespace emulator {

// While it exists, the thread sanitizer ignores the accesses of this thread or fiber.
class Unwatched {
 public:
#if defined(EMULATOR_TSAN)
  EMULATOR_UNWATCHED Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  EMULATOR_UNWATCHED ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unwatched() {}
#endif
  Unwatched(const Unwatched&) = delete;
  Unwatched& operator=(const Unwatched&) = delete;
};

// Everything before release(at) happens before everything after acquire(at).
EMULATOR_UNWATCHED inline void release([[maybe_unused]] void* at) {
#if defined(EMULATOR_TSAN)
  __tsan_release(at);
#endif
}
EMULATOR_UNWATCHED inline void acquire([[maybe_unused]] void* at) {
#if defined(EMULATOR_TSAN)
  __tsan_acquire(at);
#endif
}

}  // namespace emulator
