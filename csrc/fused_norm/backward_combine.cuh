// What comes between the two readings of fused_norm's backward, or after them: the sums of groups, and the gradients of weight
// and bias, from the sums of tiles.
#pragma once

#include "fused_norm/backward_sums.cuh"

namespace fastmunit::cuda {

using DoublePair = Chunk<double, 2>;

constexpr int sums_threads = 512;
constexpr int sums_planes = 32;  // of a block, side by side in memory

// The sums of the plane `first` + threadIdx.x from those of its tiles, in each of the first `planes` threads for which it lies
// before `end`. All threads take part: those of a plane share its tiles. `scratch` has room for a value of each thread.
__device__ inline GradientSums plane_sums(const BackwardArguments& arguments, std::int64_t first, std::int64_t end, int planes,
                                          DoublePair* scratch) {
  const int thread = static_cast<int>(threadIdx.x);
  const int slices = sums_threads / planes;
  const std::int64_t plane = first + thread % planes;
  GradientSums sums = {0.0, 0.0};
  if (plane < end) {
    const TileSums* const of_plane = arguments.sums_of_tiles() + plane;
    for (int tile = thread / planes; tile < arguments.tiling.row_tiles; tile += slices) {
      const TileSums of_tile = ld_global(of_plane + tile * arguments.planes());
      sums.dz += of_tile.dz;
      sums.product += of_tile.product;
    }
  }
  __syncthreads();
  scratch[thread] = {{sums.dz, sums.product}};
  __syncthreads();
  if (thread >= planes || plane >= end) return sums;
  for (int slice = 1; slice < slices; ++slice) {
    sums.dz += scratch[slice * planes + thread].values[0];
    sums.product += scratch[slice * planes + thread].values[1];
  }
  const std::int64_t channels = arguments.map.channels;
  return sums_about_mean<float>(group_at(arguments.map, plane / channels, plane % channels), sums);
}

// What apply needs of each plane: a block for sums_planes planes, or, in MUNIT's layer norm, for a sample, of which it takes
// `planes` at a time.
__global__ void __launch_bounds__(sums_threads, 2) combine_sums(const __grid_constant__ BackwardArguments arguments,
                                                                int planes) {
  SMEM_ARRAY(DoublePair, scratch, sums_threads);
  const FusedNormBackward& a = arguments.map;
  const bool layer = a.statistics == Statistics::layer;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t begin = blockIdx.x * (layer ? a.channels : planes);
  const std::int64_t behind = begin + (layer ? a.channels : planes);
  const std::int64_t end = behind < arguments.planes() ? behind : arguments.planes();
  const auto finish = [&](std::int64_t plane, GradientSums total) {
    const std::int64_t n = plane / a.channels, c = plane % a.channels;
    const Group group = group_at(a, n, c);
    const double weight = coefficient(a.weight, n, c, 1.0), bias = coefficient(a.bias, n, c, 0.0);
    arguments.store(plane, affine_of<float>(group, weight, bias), line_of(a, group, weight, total));
  };
  GradientSums total = {0.0, 0.0};
#pragma unroll 1
  for (std::int64_t first = begin; first < end; first += planes) {
    const std::int64_t plane = first + thread;
    const GradientSums sums = plane_sums(arguments, first, end, planes, scratch);
    if (thread >= planes || plane >= end) continue;
    st_global(arguments.sums_of_planes() + plane, sums);
    if (layer) {
      const double weight = coefficient(a.weight, blockIdx.x, plane - begin, 1.0);
      total.dz += weight * sums.dz;
      total.product += weight * sums.product;
    } else {
      finish(plane, sums);
    }
  }
  if (!layer) return;
  block_sum(total.dz, total.product, reinterpret_cast<double*>(scratch));
#pragma unroll 1
  for (std::int64_t plane = begin + thread; plane < end; plane += sums_threads) finish(plane, total);
}

__device__ inline void write_coefficient(const CoefficientsGradient& to, std::int64_t at, double value) {
  switch (to.dtype) {
    case DataType::float32:
      st_global(static_cast<float*>(to.data) + at, static_cast<float>(value));
      return;
    case DataType::float64:
      st_global(static_cast<double*>(to.data) + at, value);
      return;
    case DataType::bfloat16:
      st_global(static_cast<__nv_bfloat16*>(to.data) + at, narrowed<__nv_bfloat16>(static_cast<float>(value)));
      return;
    case DataType::float16:
      st_global(static_cast<__half*>(to.data) + at, narrowed<__half>(static_cast<float>(value)));
      return;
  }
}

// dbias = Σ dz and dweight = Σ dz * (x - mean) * rstd, of each sample or over all of them. A block for sums_planes channels.
__global__ void __launch_bounds__(sums_threads) coefficient_gradients(const __grid_constant__ BackwardArguments arguments) {
  SMEM_ARRAY(DoublePair, scratch, sums_threads);
  const FusedNormBackward& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * sums_planes, c = first + thread;
  const bool inside = thread < sums_planes && c < a.channels;
  double dweight = 0.0, dbias = 0.0;
#pragma unroll 1
  for (std::int64_t n = 0; n < a.batch; ++n) {
    const std::int64_t plane = n * a.channels + c;
    GradientSums sums = {0.0, 0.0};
    if (arguments.pass == Pass::whole) {
      sums = plane_sums(arguments, n * a.channels + first, (n + 1) * a.channels, sums_planes, scratch);
    } else if (inside) {
      sums = ld_global(arguments.sums_of_planes() + plane);
    }
    if (!inside) continue;
    const double of_weight = a.dweight.data == nullptr ? 0.0 : sums.product * group_at(a, n, c).rstd;
    dweight += of_weight;
    dbias += sums.dz;
    if (a.dweight.data != nullptr && a.dweight.of_each_sample) write_coefficient(a.dweight, plane, of_weight);
    if (a.dbias.data != nullptr && a.dbias.of_each_sample) write_coefficient(a.dbias, plane, sums.dz);
  }
  if (!inside) return;
  if (a.dweight.data != nullptr && !a.dweight.of_each_sample) write_coefficient(a.dweight, c, dweight);
  if (a.dbias.data != nullptr && !a.dbias.of_each_sample) write_coefficient(a.dbias, c, dbias);
}

}  // namespace fastmunit::cuda
