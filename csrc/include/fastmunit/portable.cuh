// The one CUDA include of every kernel. nvcc gets CUDA; a host compiler gets the emulator of tests/cuda/emulator, which runs
// the same source on the CPU.
//
// SMEM_ARRAY(T, name, count) and SMEM_DYNAMIC(T, name) declare shared memory; ld_global and st_global are the accesses to
// global memory, which the emulator counts and checks.
#pragma once

#include <cooperative_groups.h>
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

#endif
