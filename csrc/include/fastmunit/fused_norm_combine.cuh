// What comes between the two readings of fused_norm: statistics of groups from those of their tiles.
#pragma once

#include "fastmunit/fused_norm.cuh"

namespace fastmunit::cuda {

constexpr int combine_threads = 512;
constexpr int combine_planes = 32;  // of a block, side by side in memory
constexpr int combine_slices = combine_threads / combine_planes;  // threads that share the tiles of a plane

// Sums over tiles of what their means differ by from the mean of the first one. Where that is far from the others, the squares
// are as large, so nothing is lost in their difference.
struct DifferenceSums {
  double differences, squares;

  __device__ void add(Moments tile, double values, double shift) {
    const double difference = tile.mean - shift;
    differences += values * difference;
    squares += tile.squares + values * difference * difference;
  }
  __device__ Moments moments(double shift, double values) const {
    const double offset = differences / values;
    const double centred = squares - differences * offset;
    return {shift + offset, centred > 0.0 || centred != centred ? centred : 0.0};
  }
};

__device__ inline void write_group(const FusedNorm& a, std::int64_t group, const DifferenceSums& sums, double shift) {
  const double values = values_of_group(a);
  const Group of = group_of(sums.moments(shift, values), values, a.statistics, a.eps);
  st_global(a.mean + group, of.mean);
  st_global(a.rstd + group, of.rstd);
}

// mean and rstd from the moments of `tiles` tiles: a block for combine_planes planes, or, in MUNIT's layer norm, for a sample.
// Each thread reads its moments once.
__global__ void __launch_bounds__(combine_threads) combine_moments(const __grid_constant__ ForwardArguments arguments,
                                                                   int tiles) {
  SMEM_ARRAY(double, shifts, combine_planes);
  SMEM_ARRAY(DifferenceSums, of_slices, combine_threads);  // of a type without a constructor, as shared memory has to be
  const FusedNorm& a = arguments.map;
  const bool layer = a.statistics == Statistics::layer;
  const int thread = static_cast<int>(threadIdx.x);
  const int planes = layer ? 1 : combine_planes, slices = combine_threads / planes;
  const int plane = thread % planes, slice = thread / planes;
  const std::int64_t groups = layer ? a.batch : a.batch * a.channels;
  const std::int64_t group = static_cast<std::int64_t>(blockIdx.x) * planes + plane;
  const bool inside = group < groups;
  Moments first = {0.0, 0.0};
  if (inside && slice < tiles) first = arguments.load_moments(group, slice);
  if (slice == 0) shifts[plane] = first.mean;
  __syncthreads();
  const double shift = shifts[plane];
  DifferenceSums sums = {0.0, 0.0};
  if (inside && slice < tiles) sums.add(first, values_of(a, arguments.tiling, slice), shift);
  for (int tile = slice + slices; inside && tile < tiles; tile += slices) {
    sums.add(arguments.load_moments(group, tile), values_of(a, arguments.tiling, tile), shift);
  }
  if (layer) {
    block_sum(sums.differences, sums.squares, reinterpret_cast<double*>(of_slices));
    if (thread == 0) write_group(a, group, sums, shift);
    return;
  }
  of_slices[thread] = sums;
  __syncthreads();
  if (slice != 0 || !inside) return;
  for (int s = 1; s < slices; ++s) {
    sums.differences += of_slices[s * planes + plane].differences;
    sums.squares += of_slices[s * planes + plane].squares;
  }
  write_group(a, group, sums, shift);
}

}  // namespace fastmunit::cuda
