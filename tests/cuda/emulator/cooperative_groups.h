// The part of cooperative groups that kernels use: the block, its warps and the cluster.
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

struct thread_block {
  static unsigned thread_rank() { return emulator::running().rank; }
  static unsigned size() { return emulator::running().block->threads; }
  static unsigned num_threads() { return size(); }
  void sync(EMULATOR_CALLER) const { emulator::barrier(false, file, line); }
};
inline thread_block this_thread_block() { return {}; }

template <unsigned width>
struct thread_block_tile {
  static unsigned thread_rank() { return emulator::running().lane() % width; }
  static unsigned meta_group_rank() { return emulator::running().rank / width; }
  static unsigned meta_group_size() { return emulator::running().block->threads / width; }
  static constexpr unsigned size() { return width; }
  static constexpr unsigned num_threads() { return width; }
  void sync(EMULATOR_CALLER) const { __syncwarp(mask(), file, line); }
  template <class T>
  T shfl(T value, int source, EMULATOR_CALLER) const {
    return __shfl_sync(mask(), value, source, width, file, line);
  }
  template <class T>
  T shfl_xor(T value, int other, EMULATOR_CALLER) const {
    return __shfl_xor_sync(mask(), value, other, width, file, line);
  }
  template <class T>
  T shfl_down(T value, unsigned distance, EMULATOR_CALLER) const {
    return __shfl_down_sync(mask(), value, distance, width, file, line);
  }

 private:
  static unsigned mask() {
    return (width == 32 ? 0xffffffffu : (1u << width % 32) - 1) << (emulator::running().lane() / width * width);
  }
};
template <unsigned width>
thread_block_tile<width> tiled_partition(const thread_block&) {
  return {};
}

struct cluster_group {
  void sync(EMULATOR_CALLER) const { emulator::cluster_barrier(file, line); }
  static unsigned block_rank() { return emulator::running().block->rank; }
  static unsigned num_blocks() { return static_cast<unsigned>(emulator::machine.blocks.size()); }
  static dim3 dim_blocks() { return dim3(num_blocks()); }
  template <class T>
  T* map_shared_rank(T* address, int rank) const {
    return emulator::shared_memory_of(static_cast<unsigned>(rank), address);
  }
};
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
