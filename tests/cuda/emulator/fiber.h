// Fibers: each CUDA thread has its own stack, and all run on one CPU thread, which switches between them.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#include "sanitizers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "emulator: %s\n", message);
  std::fflush(stderr);
  std::abort();
}

constexpr std::size_t stack_bytes = 64 * 1024;

#if defined(__x86_64__)
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.weak emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size emulator_switch,.-emulator_switch
)");
#endif

// The saved state of a fiber, or of the host, while another runs.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t registers;
#endif
  const void* stack = nullptr;  // lowest address
  std::size_t bytes = stack_bytes;
  void* fake_stack = nullptr;  // for the address sanitizer
  void* tsan_fiber = nullptr;  // for the thread sanitizer
};

inline char* new_stack(void* at = nullptr) {
  void* stack = mmap(at, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) fail("out of memory for the stack of a thread");
  return static_cast<char*>(stack);
}

// Makes the next switch to `context` call entry(), which must not return.
EMULATOR_UNWATCHED inline void start_at(Context& context, void (*entry)()) {
  context.fake_stack = nullptr;
#if defined(EMULATOR_ASAN)
  __asan_unpoison_memory_region(context.stack, stack_bytes);  // the fiber that ended on it never returned
#endif
#if defined(__x86_64__)
  // Six registers and the return address. entry() starts with the stack aligned as after a call.
  void** top = reinterpret_cast<void**>(const_cast<char*>(static_cast<const char*>(context.stack)) + stack_bytes) - 8;
  for (int i = 0; i < 6; ++i) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(entry);
  context.stack_pointer = top;
#else
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = const_cast<void*>(context.stack);
  context.registers.uc_stack.ss_size = stack_bytes;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
#endif
}

// Must be the first call on a new fiber.
EMULATOR_UNWATCHED inline void arrived() {
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// Switches from one context to another. `last`: `from` never runs again.
EMULATOR_UNWATCHED inline void switch_context(Context& from, Context& to, [[maybe_unused]] bool last = false) {
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack, to.bytes);
#endif
#if defined(EMULATOR_TSAN)
  __tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__x86_64__)
  emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.registers, &to.registers);
#endif
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// Returns the context of the calling thread.
inline Context host_context() {
  Context host;
#if defined(EMULATOR_ASAN)
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &host.bytes);
  pthread_attr_destroy(&attributes);
  host.stack = stack;
#endif
#if defined(EMULATOR_TSAN)
  host.tsan_fiber = __tsan_get_current_fiber();
#endif
  return host;
}

}  // namespace emulator
