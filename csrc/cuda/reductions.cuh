// Reductions over the threads of a warp.
#pragma once

#include "cuda/portable.cuh"

namespace fastmunit::cuda {

constexpr int warp_threads = 32;

// Returns the sum over the lanes of a warp in every lane.
template <class Value>
__device__ inline Value warp_sum(Value value) {
#pragma unroll
  for (int offset = warp_threads / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

}  // namespace fastmunit::cuda
