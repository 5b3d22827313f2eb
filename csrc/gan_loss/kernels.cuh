// Device code of gan_loss; gan_loss.h states what it computes. Includes no torch header.
//
// A map has a few hundred to a few thousand outputs, so launches and latencies are what counts, and values are read one
// by one: a warp still reads adjacent ones.
#pragma once

#include <cstdint>

#include "cuda/convert.cuh"
#include "cuda/segments.cuh"
#include "gan_loss/element.h"

namespace fastmunit::cuda::gan {

constexpr int gan_threads = 256;
constexpr int gan_values_per_thread = 4;
constexpr int gan_segment = gan_threads * gan_values_per_thread;

using GanSegments = Segments<gan_loss_maps>;

// Calls function(Storage{}) with the type of a map's outputs.
template <class Function>
__device__ void with_outputs(DataType dtype, const Function& function) {
  switch (dtype) {
    case DataType::float32:
      return function(float{});
    case DataType::bfloat16:
      return function(__nv_bfloat16{});
    case DataType::float16:
      return function(__half{});
    default:
      return function(double{});
  }
}

// The thread's outputs: `of(k)` is the position in the map of the k-th of them, `end` that after the last of the segment.
struct GanPart {
  std::int64_t first, end;
  __device__ std::int64_t of(int k) const { return first + k * gan_threads; }
  __device__ bool has(int k) const { return of(k) < end; }
};

__device__ inline GanPart gan_part(const GanMap& map, const GanSegments& segments, int k, std::int64_t segment) {
  const std::int64_t begin = (segment - segments.first[k]) * gan_segment;
  const std::int64_t end = begin + gan_segment < map.count ? begin + gan_segment : map.count;
  return {begin + threadIdx.x, end};
}

// Loads all outputs of the thread before the first is used.
template <class Storage>
__device__ void gan_load(const GanMap& map, const GanPart& part, Compute<Storage>* x) {
#pragma unroll
  for (int k = 0; k < gan_values_per_thread; ++k) {
    x[k] = part.has(k) ? load(static_cast<const Storage*>(map.x) + part.of(k)) : Compute<Storage>(0);
  }
}

template <class Lane>
__device__ double gan_sum(const GanMap& map, const GanPart& part, const Lane* x) {
  double sum = 0.0;
  with_formula(map.formula, [&](auto formula) {
#pragma unroll
    for (int k = 0; k < gan_values_per_thread; ++k) {
      if (part.has(k)) sum += gan_loss_of<decltype(formula)::value>(x[k], part.of(k) >= map.first_real);
    }
  });
  return sum;
}

// One block per segment. Writes the sum to partials.
__global__ void __launch_bounds__(gan_threads)
    gan_segment_sums(const __grid_constant__ GanLoss a, const __grid_constant__ GanSegments segments) {
  SMEM_ARRAY(double, sums, gan_threads / warp_threads);
  const std::int64_t segment = blockIdx.x;
  const int k = term_of(segments, segment);
  const GanMap& map = a.map[k];
  const GanPart part = gan_part(map, segments, k, segment);
  double sum = 0.0;
  if (is_wide(map.dtype)) {
    double x[gan_values_per_thread];
    gan_load<double>(map, part, x);
    sum = gan_sum(map, part, x);
  } else {
    float x[gan_values_per_thread];
    if (map.dtype == DataType::float32) gan_load<float>(map, part, x);
    if (map.dtype == DataType::bfloat16) gan_load<__nv_bfloat16>(map, part, x);
    if (map.dtype == DataType::float16) gan_load<__half>(map, part, x);
    sum = gan_sum(map, part, x);
  }
  write_block_sum<gan_threads>(sum, sums, a.partials + segment);
}

// One block, with one warp per map.
__global__ void __launch_bounds__(gan_loss_maps* warp_threads)
    gan_values(const __grid_constant__ GanLoss a, const __grid_constant__ GanSegments segments) {
  SMEM_ARRAY(double, values, gan_loss_maps);
  write_values(
      segments, a, a.maps, values, [&](int k) { return a.map[k].averaged; }, [&](int k) { return a.map[k].weight; });
}

// One block per segment.
__global__ void __launch_bounds__(gan_threads)
    gan_gradients(const __grid_constant__ GanLossBackward a, const __grid_constant__ GanSegments segments,
                  const __grid_constant__ Slopes<gan_loss_maps> slopes) {
  const std::int64_t segment = blockIdx.x;
  const int k = term_of(segments, segment);
  const GanMap& map = a.map[k];
  if (map.dx == nullptr) return;
  const GanPart part = gan_part(map, segments, k, segment);
  const double slope = slope_of(slopes, a, k);
  with_outputs(map.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using Lane = Compute<Storage>;
    Lane x[gan_values_per_thread];
    gan_load<Storage>(map, part, x);
    with_formula(map.formula, [&](auto formula) {
#pragma unroll
      for (int k = 0; k < gan_values_per_thread; ++k) {
        if (!part.has(k)) continue;
        const bool real = part.of(k) >= map.first_real;
        store(static_cast<Storage*>(map.dx) + part.of(k),
              gan_gradient_of<decltype(formula)::value>(x[k], real, static_cast<Lane>(slope)));
      }
    });
  });
}

}  // namespace fastmunit::cuda::gan
