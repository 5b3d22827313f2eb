// Sums over the threads of a block, in an order that the number of threads alone decides.
#pragma once

#include "cuda/portable.cuh"

namespace fastmunit::cuda {

constexpr int warp_threads = 32;

// The sum over the lanes of a warp; every lane gets it.
template <class Value>
__device__ inline Value warp_sum(Value value) {
#pragma unroll
  for (int offset = warp_threads / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Replaces first and second by their sums over the block. `scratch` has room for two values of each warp.
template <class Value>
__device__ inline void block_sum(Value& first, Value& second, Value* scratch) {
  first = warp_sum(first);
  second = warp_sum(second);
  const int warps = static_cast<int>(blockDim.x) / warp_threads, warp = static_cast<int>(threadIdx.x) / warp_threads;
  __syncthreads();
  if (threadIdx.x % warp_threads == 0) {
    scratch[2 * warp] = first;
    scratch[2 * warp + 1] = second;
  }
  __syncthreads();
  first = second = 0;
  for (int w = 0; w < warps; ++w) {
    first += scratch[2 * w];
    second += scratch[2 * w + 1];
  }
}

// Sums of `columns` = vectors * count columns: the lanes of thread t belong to columns t % vectors * count and following.
// vectors is a power of 2, at most 32. columns sums come to `sums`; `scratch` has room for `columns`
// floats of each warp.
template <int count>
__device__ inline void column_sum(float (&lanes)[count], int vectors, float* scratch, float* sums) {
  const int columns = vectors * count;
  const int warps = static_cast<int>(blockDim.x) / warp_threads, warp = static_cast<int>(threadIdx.x) / warp_threads;
  const int lane = static_cast<int>(threadIdx.x) % warp_threads;
  for (int offset = warp_threads / 2; offset >= vectors; offset /= 2) {
#pragma unroll
    for (int k = 0; k < count; ++k) lanes[k] += __shfl_xor_sync(0xffffffffu, lanes[k], offset);
  }
  __syncthreads();
  if (lane < vectors) {
#pragma unroll
    for (int k = 0; k < count; ++k) scratch[warp * columns + lane * count + k] = lanes[k];
  }
  __syncthreads();
#pragma unroll 1
  for (int column = static_cast<int>(threadIdx.x); column < columns; column += static_cast<int>(blockDim.x)) {
    float sum = 0.0f;
    for (int w = 0; w < warps; ++w) sum += scratch[w * columns + column];
    sums[column] = sum;
  }
  __syncthreads();
}

}  // namespace fastmunit::cuda
