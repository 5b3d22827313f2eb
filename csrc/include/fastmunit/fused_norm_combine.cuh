// What comes between, or after, the two readings of fused_norm: statistics and sums of groups from those of their tiles.
#pragma once

#include "fastmunit/fused_norm.cuh"

namespace fastmunit::cuda {

constexpr int combine_threads = 128;

// One block for each group: mean and rstd from the moments of `tiles` tiles.
__global__ void __launch_bounds__(combine_threads) combine_moments(const __grid_constant__ ForwardArguments arguments,
                                                                   int tiles) {
  SMEM_ARRAY(double, scratch, 2 * combine_threads / warp_threads);
  const FusedNorm& a = arguments.map;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * tiles;
  double sum = 0.0, values = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < tiles; i += combine_threads) {
    const double count = values_of(a, arguments.tiling, i);
    values += count;
    sum += count * arguments.load_moments(first + i).mean;
  }
  block_sum(sum, values, scratch);
  const double mean = sum / values;
  double squares = 0.0, unused = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < tiles; i += combine_threads) {
    const Moments tile = arguments.load_moments(first + i);
    squares += tile.squares + values_of(a, arguments.tiling, i) * (tile.mean - mean) * (tile.mean - mean);
  }
  block_sum(squares, unused, scratch);
  if (threadIdx.x == 0) {
    const Group group = group_of({mean, squares}, values, a.statistics, a.eps);
    st_global(a.mean + blockIdx.x, group.mean);
    st_global(a.rstd + blockIdx.x, group.rstd);
  }
}

}  // namespace fastmunit::cuda
