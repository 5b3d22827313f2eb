// The one CUDA include of every kernel. nvcc gets CUDA; a host compiler gets the emulator of tests/cuda/emulator, which runs
// the same source on the CPU.
//
// SMEM_ARRAY(T, name, count) and SMEM_DYNAMIC(T, name) declare shared memory; ld_global and st_global are the accesses to
// global memory, which the emulator counts and checks. cluster_rank, cluster_sync and of_cluster_block are for the blocks of a
// cluster, from compute capability 9.0 on. They are what cooperative groups are made of, whose own header takes each source
// three seconds more to compile.
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

// The compiler may take the store of a struct apart. These intrinsics are one instruction.
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

// A store that later loads may be moved ahead of, unlike those intrinsics: for loops that load while they store. The budgets of
// its kernels say that the compiler leaves it in one piece there.
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

// Hides from the compiler that a number keeps its value: what is loaded from there, or follows from it, is loaded or computed anew
// instead of kept in registers, and nothing that it was computed from is added later.
__device__ __forceinline__ void forget(unsigned& index) { asm volatile("" : "+r"(index)); }
__device__ __forceinline__ void forget(int& count) { asm volatile("" : "+r"(count)); }
template <class T>
__device__ __forceinline__ void forget(T*& address) {
  asm volatile("" : "+l"(address));
  __builtin_assume(__isGlobal(address));
}

// A product of 32 bits in 64, in one instruction also where the compiler has widened a factor before a loop.
__device__ __forceinline__ long long wide_product(int a, int b) {
  long long product;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}

// Adds `value` to `sum` and value * factor to `product` unless z <= bound: a comparison and two instructions that depend on it.
__device__ __forceinline__ void add_unless_below(float z, float bound, float value, float factor, float& sum, float& product) {
  asm("{\n\t.reg .pred above;\n\tsetp.gtu.f32 above, %2, %3;\n\t@above add.f32 %0, %0, %4;\n\t@above fma.rn.f32 %1, %4, %5, %1;\n\t}"
      : "+f"(sum), "+f"(product)
      : "f"(z), "f"(bound), "f"(value), "f"(factor));
}

// Marks code that few warps run, such as that of a map's border. It is an instruction that does nothing but for a profiler, by which
// tools/sass.py tells this code from what every thread executes.
__device__ __forceinline__ void rarely() { asm volatile("pmevent 15;"); }

// Programmatic dependent launch: lets the next kernel of the stream, if it was launched as dependent, start before this one
// ends. That kernel may read what this one writes only after wait_for_previous_launch().
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

// This block's number in its cluster.
__device__ __forceinline__ int cluster_rank() { return static_cast<int>(__clusterRelativeBlockRank()); }

// Waits for all threads of the cluster; then each sees what the others wrote.
__device__ __forceinline__ void cluster_sync() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
// The same in two halves, where nothing that was written has to be seen: cluster_wait() returns once all threads have called
// cluster_arrive().
__device__ __forceinline__ void cluster_arrive() { __cluster_barrier_arrive_relaxed(); }
__device__ __forceinline__ void cluster_wait() { __cluster_barrier_wait(); }

// What lies in the shared memory of block `rank` of the cluster where `mine` lies in this one's.
template <class T>
__device__ __forceinline__ T* of_cluster_block(T* mine, int rank) {
  return static_cast<T*>(__cluster_map_shared_rank(mine, static_cast<unsigned>(rank)));
}

#endif
#endif
