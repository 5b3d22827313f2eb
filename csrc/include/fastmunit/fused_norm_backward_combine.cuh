// What comes between the two readings of fused_norm's backward, or after them: the sums of groups, and the gradients of weight
// and bias, from the sums of tiles.
#pragma once

#include "fastmunit/fused_norm_backward_sums.cuh"

namespace fastmunit::cuda {

constexpr int sums_threads = 512;

// The sums of a plane, which the lanes of a warp add up.
__device__ inline GradientSums plane_sums(const BackwardArguments& arguments, std::int64_t plane) {
  const GradientSums* const of_tiles = arguments.sums_of_tiles() + plane * arguments.tiling.row_tiles;
  GradientSums sums = {0.0, 0.0};
  for (int i = static_cast<int>(threadIdx.x) % warp_threads; i < arguments.tiling.row_tiles; i += warp_threads) {
    const GradientSums tile = ld_global(of_tiles + i);
    sums.dz += tile.dz;
    sums.product += tile.product;
  }
  return {warp_sum(sums.dz), warp_sum(sums.product)};
}

// A warp for each plane; in MUNIT's layer norm a block for each sample.
__global__ void __launch_bounds__(sums_threads, 2) combine_sums(const __grid_constant__ BackwardArguments arguments) {
  SMEM_ARRAY(double, scratch, 2 * sums_threads / warp_threads);
  const FusedNormBackward& a = arguments.map;
  const int warp = static_cast<int>(threadIdx.x) / warp_threads, lane = static_cast<int>(threadIdx.x) % warp_threads;
  constexpr int warps = sums_threads / warp_threads;
  if (a.statistics != Statistics::layer) {
    const std::int64_t plane = static_cast<std::int64_t>(blockIdx.x) * warps + warp;
    if (plane >= a.batch * a.channels) return;
    const GradientSums sums = plane_sums(arguments, plane);
    if (lane == 0) st_global(arguments.sums_of_planes() + plane, sums);
    return;
  }
  const std::int64_t n = blockIdx.x;
  double dz = 0.0, product = 0.0;
  for (std::int64_t c = warp; c < a.channels; c += warps) {
    const GradientSums sums = plane_sums(arguments, n * a.channels + c);
    double weight = 0.0;
    if (lane == 0) {
      st_global(arguments.sums_of_planes() + n * a.channels + c, sums);
      weight = coefficient(a.weight, n, c, 1.0);
    }
    dz += weight * sums.dz;
    product += weight * sums.product;
  }
  block_sum(dz, product, scratch);
  if (threadIdx.x == 0) st_global(arguments.sums_of_groups() + n, {dz, product});
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

// dbias = Σ dz and dweight = Σ dz * (x - mean) * rstd, of each sample or over all of them. A warp for each channel.
__global__ void __launch_bounds__(sums_threads) coefficient_gradients(const __grid_constant__ BackwardArguments arguments) {
  const FusedNormBackward& a = arguments.map;
  const int lane = static_cast<int>(threadIdx.x) % warp_threads;
  const std::int64_t c =
      static_cast<std::int64_t>(blockIdx.x) * (sums_threads / warp_threads) + static_cast<int>(threadIdx.x) / warp_threads;
  if (c >= a.channels) return;
  double dweight = 0.0, dbias = 0.0;
  for (std::int64_t n = 0; n < a.batch; ++n) {
    const std::int64_t plane = n * a.channels + c;
    const GradientSums sums = plane_sums(arguments, plane);
    const double of_weight = sums.product * group_at(a, n, c).rstd;
    dweight += of_weight;
    dbias += sums.dz;
    if (lane != 0) continue;
    if (a.dweight.data != nullptr && a.dweight.of_each_sample) write_coefficient(a.dweight, plane, of_weight);
    if (a.dbias.data != nullptr && a.dbias.of_each_sample) write_coefficient(a.dbias, plane, sums.dz);
  }
  if (lane != 0) return;
  if (a.dweight.data != nullptr && !a.dweight.of_each_sample) write_coefficient(a.dweight, c, dweight);
  if (a.dbias.data != nullptr && !a.dbias.of_each_sample) write_coefficient(a.dbias, c, dbias);
}

}  // namespace fastmunit::cuda
