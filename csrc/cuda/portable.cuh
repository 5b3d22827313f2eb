// The only CUDA include of the kernels. nvcc gets CUDA; a host compiler gets the emulator in tests/cuda/emulator, which
// runs the same source on the CPU.
//
// SMEM_ARRAY(T, name, count) and SMEM_DYNAMIC(T, name) declare shared memory. ld_global and st_global access global
// memory; the emulator counts and checks these accesses. cluster_rank, cluster_sync and map_shared_rank serve the
// blocks of a cluster (compute capability 9.0 and newer). They use the same intrinsics as cooperative groups, whose
// header would add three seconds to the compilation of each source.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#if defined(__CUDACC__)

#define SMEM_ARRAY(T, name, count) __shared__ T name[count]
#define SMEM_DYNAMIC(T, name)                                       \
  extern __shared__ __align__(16) unsigned char name##_in_bytes[]; \
  T* const name = reinterpret_cast<T*>(name##_in_bytes)

template <class T>
__device__ __forceinline__ T ld_global(const T* from) {
  return *from;
}

// The compiler may split the store of a struct. These intrinsics compile to one instruction.
template <class T>
__device__ __forceinline__ void st_global(T* to, const T& value) {
  if constexpr (sizeof(T) == 16 && alignof(T) == 16) {
    uint4 bits;
    memcpy(&bits, &value, sizeof(T));
    __stwb(reinterpret_cast<uint4*>(to), bits);
  } else if constexpr (sizeof(T) == 8 && alignof(T) == 8) {
    uint2 bits;
    memcpy(&bits, &value, sizeof(T));
    __stwb(reinterpret_cast<uint2*>(to), bits);
  } else {
    *to = value;
  }
}

// A store that the compiler may reorder with later loads, unlike the intrinsics above. It is for loops that load and
// store. The budgets of the kernels check that the compiler does not split it.
template <class T>
__device__ __forceinline__ void st_plain(T* to, const T& value) {
  if constexpr (sizeof(T) == 16 && alignof(T) == 16) {
    uint4 bits;
    memcpy(&bits, &value, sizeof(T));
    *reinterpret_cast<uint4*>(to) = bits;
  } else {
    *to = value;
  }
}

// Hides from the compiler that a number keeps its value. Values that are loaded from or derived from it are then
// reloaded or recomputed instead of being kept in registers, and the compiler cannot defer part of its computation to
// later uses.
__device__ __forceinline__ void forget(unsigned& index) { asm volatile("" : "+r"(index)); }
__device__ __forceinline__ void forget(int& count) { asm volatile("" : "+r"(count)); }
template <class T>
__device__ __forceinline__ void forget(T*& address) {
  asm volatile("" : "+l"(address));
  __builtin_assume(__isGlobal(address));
}

// Multiplies two 32-bit numbers into 64 bits, in one instruction even if the compiler has widened a factor before a
// loop.
__device__ __forceinline__ long long wide_product(int a, int b) {
  long long product;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}

// Adds `value` to `sum` and value * factor to `product` unless z <= bound: one comparison and two predicated
// instructions.
__device__ __forceinline__ void add_unless_below(float z, float bound, float value, float factor, float& sum, float& product) {
  asm("{\n\t.reg .pred above;\n\tsetp.gtu.f32 above, %2, %3;\n\t@above add.f32 %0, %0, %4;\n\t@above fma.rn.f32 %1, %4, %5, %1;\n\t}"
      : "+f"(sum), "+f"(product)
      : "f"(z), "f"(bound), "f"(value), "f"(factor));
}

// Marks code that few warps execute, such as the code for the border of a map. It compiles to an instruction that only
// profilers observe. tools/sass.py uses it to separate this code from what every thread executes.
__device__ __forceinline__ void rarely() { asm volatile("pmevent 15;"); }

// Programmatic dependent launch: allows the next kernel on the stream, if it is a dependent launch, to start before
// this one ends. That kernel may read what this one writes only after wait_for_previous_launch().
__device__ __forceinline__ void start_dependent_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_previous_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// Returns the rank of this block in its cluster.
__device__ __forceinline__ int cluster_rank() { return static_cast<int>(__clusterRelativeBlockRank()); }

// Waits for all threads of the cluster and makes their writes visible to each other.
__device__ __forceinline__ void cluster_sync() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
// The same barrier in two halves and without memory ordering: cluster_wait() returns once all threads have called
// cluster_arrive().
__device__ __forceinline__ void cluster_arrive() { __cluster_barrier_arrive_relaxed(); }
__device__ __forceinline__ void cluster_wait() { __cluster_barrier_wait(); }

// Returns the address in the shared memory of block `rank` of the cluster that corresponds to `mine` in this block's.
template <class T>
__device__ __forceinline__ T* map_shared_rank(T* mine, int rank) {
  return static_cast<T*>(__cluster_map_shared_rank(mine, static_cast<unsigned>(rank)));
}

#endif
#endif
