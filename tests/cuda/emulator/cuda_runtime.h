// The part of CUDA C++ that the kernels use, implemented on the emulator. Arithmetic is that of the CPU: there is no
// fused multiply-add unless the compiler generates one, and functions that a GPU approximates are exact.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ emulator_needs_SMEM_ARRAY_or_SMEM_DYNAMIC

#define threadIdx (::emulator::running().index)
#define blockIdx (::uint3{::emulator::running().block->index, 0, 0})
#define blockDim (::emulator::machine.block)
#define gridDim (::emulator::machine.grid)
#define warpSize 32

#define SMEM_ARRAY(T, name, count)  \
  static char name##_shared_memory; \
  T(&name)[count] = ::emulator::shared_array<T[count]>(&name##_shared_memory)
#define SMEM_DYNAMIC(T, name) T* const name = ::emulator::dynamic_shared_memory<T>()

#define EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Vector types with elements x to w, aligned to their size, at most 16 bytes.
#define EMULATOR_VECTORS(T, name)                                                                  \
  struct alignas(2 * sizeof(T)) name##2 {                                                          \
    T x, y;                                                                                        \
  };                                                                                               \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 {                                \
    T x, y, z, w;                                                                                  \
  };                                                                                               \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                       \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned, uint)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(double, double)

// --- Global memory ----------------------------------------------------------------------------------------------------

template <class T>
__attribute__((noinline)) T ld_global(const T* from, EMULATOR_CALLER) {
  emulator::global_access(from, sizeof(T), alignof(T), false, __builtin_return_address(0), file, line);
  return *from;
}
template <class T>
__attribute__((noinline)) void st_global(T* to, const T& value, EMULATOR_CALLER) {
  emulator::global_access(to, sizeof(T), alignof(T), true, __builtin_return_address(0), file, line);
  *to = value;
}

template <class T>
__attribute__((noinline)) void st_plain(T* to, const T& value, EMULATOR_CALLER) {
  emulator::global_access(to, sizeof(T), alignof(T), true, __builtin_return_address(0), file, line);
  *to = value;
}

template <class T>
void forget(T&) {}
inline void rarely() {}
inline long long wide_product(int a, int b) { return static_cast<long long>(a) * b; }
inline void add_unless_below(float z, float bound, float value, float factor, float& sum, float& product) {
  if (z <= bound) return;
  sum += value;
  product += value * factor;
}

// --- Barriers, shuffles and votes -------------------------------------------------------------------------------------

inline void __syncthreads(EMULATOR_CALLER) { emulator::barrier(false, file, line); }
inline int __syncthreads_count(int vote, EMULATOR_CALLER) { return emulator::barrier(vote != 0, file, line); }
inline int __syncthreads_or(int vote, EMULATOR_CALLER) { return emulator::barrier(vote != 0, file, line) != 0; }
inline int __syncthreads_and(int vote, EMULATOR_CALLER) { return emulator::barrier(vote == 0, file, line) == 0; }
inline void cluster_arrive() { emulator::cluster_arrive(); }
inline void cluster_wait(EMULATOR_CALLER) { emulator::cluster_wait(file, line); }
inline void cluster_sync(EMULATOR_CALLER) { emulator::cluster_barrier(file, line); }
inline void start_dependent_launch() { emulator::start_dependent_launch(); }
inline void wait_for_previous_launch() { emulator::wait_for_previous_launch(); }
inline int cluster_rank() { return static_cast<int>(emulator::running().block->rank); }
template <class T>
T* map_shared_rank(T* mine, int rank) {
  return emulator::shared_memory_of(static_cast<unsigned>(rank), mine);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_CALLER) { emulator::collective(mask, 0, 0, true, file, line); }

namespace emulator {

template <class T>
T shuffle(unsigned mask, T value, int operation, unsigned source, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle takes at most 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const std::uint64_t* values = collective(mask, bits, operation, false, file, line);
  const unsigned present = running().block->threads - running().warp() * lanes;
  if ((mask >> source & 1) == 0 || source >= present) fail("shuffle from a lane that is not in the mask");
  std::memcpy(&value, &values[source], sizeof(T));
  return value;
}

inline unsigned ballot(unsigned mask, int vote, const char* file, int line) {
  const std::uint64_t* values = collective(mask, vote != 0, 5, false, file, line);
  const unsigned present = running().block->threads - running().warp() * lanes;
  unsigned result = 0;
  for (unsigned lane = 0; lane < lanes && lane < present; ++lane) {
    if ((mask >> lane & 1) != 0 && values[lane] != 0) result |= 1u << lane;
  }
  return result;
}

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_CALLER) {
  const unsigned lane = emulator::running().lane(), within = static_cast<unsigned>(width) - 1;
  return emulator::shuffle(mask, value, 1, (lane & ~within) | (static_cast<unsigned>(source) & within), file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32, EMULATOR_CALLER) {
  const unsigned lane = emulator::running().lane(), source = lane ^ static_cast<unsigned>(other);
  const unsigned end = (lane & ~(static_cast<unsigned>(width) - 1)) + static_cast<unsigned>(width);
  return emulator::shuffle(mask, value, 2, source < end ? source : lane, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, EMULATOR_CALLER) {
  const unsigned lane = emulator::running().lane(), within = static_cast<unsigned>(width) - 1;
  const bool inside = (lane & within) + distance < static_cast<unsigned>(width);
  return emulator::shuffle(mask, value, 3, inside ? lane + distance : lane, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, EMULATOR_CALLER) {
  const unsigned lane = emulator::running().lane(), within = static_cast<unsigned>(width) - 1;
  return emulator::shuffle(mask, value, 4, (lane & within) >= distance ? lane - distance : lane, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int vote, EMULATOR_CALLER) {
  return emulator::ballot(mask, vote, file, line);
}
inline int __any_sync(unsigned mask, int vote, EMULATOR_CALLER) { return emulator::ballot(mask, vote, file, line) != 0; }
inline int __all_sync(unsigned mask, int vote, EMULATOR_CALLER) {
  return emulator::ballot(mask, vote == 0, file, line) == 0;
}

// --- Arithmetic -------------------------------------------------------------------------------------------------------

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (unsigned k = 0; k < 4; ++k) {
    result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * k & 7u) & 0xffu) << 8 * k;
  }
  return result;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
using std::max;
using std::min;
