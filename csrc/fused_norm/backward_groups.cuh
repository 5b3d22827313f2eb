// Sums of a group from those of the tiles of a cluster, through distributed shared memory.
#pragma once

#include "cuda/portable.cuh"
#include "fused_norm/backward_tiles.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cuda {

// The blocks that hold a group: a cluster of the grid, or this block alone.
class GroupBlocks {
 public:
  __device__ explicit GroupBlocks(int blocks) : count(blocks) {}

  __device__ int rank() const {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (count > 1) return cluster_rank();
#endif
    return 0;
  }

  // Waits for all threads of all of them.
  __device__ void sync() const {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (count > 1) {
      cluster_sync();
      return;
    }
#endif
    __syncthreads();
  }

  // A value in the shared memory of block `rank` that lies where `mine` lies in this one's.
  template <class Value>
  __device__ Value of(Value* mine, [[maybe_unused]] int rank) const {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (count > 1) return *of_cluster_block(mine, rank);
#endif
    return *mine;
  }

  const int count;
};

}  // namespace fastmunit::cuda
