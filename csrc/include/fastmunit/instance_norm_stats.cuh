// Device code of instance_norm_stats; fastmunit/instance_norm_stats.h says what it computes. No torch header.
#pragma once

#include <cstdint>

#include "fastmunit/convert.cuh"
#include "fastmunit/moments.h"
#include "fastmunit/types.h"

namespace fastmunit::cuda {

// A block of 256 threads keeps a segment of a plane in registers, so x is read once.
constexpr int threads = 256;
constexpr int values_per_thread = 16;
// channels_last: 32 neighbouring channels by 8 rows of threads, so that a warp reads neighbouring addresses.
constexpr int columns = 32;
constexpr int rows = threads / columns;

constexpr __host__ __device__ std::int64_t segment_pixels(Layout layout) {
  return layout == Layout::nchw ? threads * values_per_thread : rows * values_per_thread;
}
constexpr __host__ __device__ std::int64_t segments_of(Layout layout, std::int64_t pixels) {
  return (pixels + segment_pixels(layout) - 1) / segment_pixels(layout);
}

// The sum of `value` over the threads with the same index modulo `stride`, in an order fixed by the thread index. Every
// thread of the block gets it.
template <unsigned stride, class Lane>
__device__ Lane block_sum(Lane value, Lane* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = threads / 2; half >= stride; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  const Lane total = shared[threadIdx.x % stride];
  __syncthreads();
  return total;
}

// One block for each segment: partial means at partials, partial squares behind them, planes * segments doubles each;
// segment s of a plane lies at plane * segments + s. The grid is one-dimensional.
template <class Storage, Layout layout>
__global__ void segment_moments(const Storage* __restrict__ x, std::int64_t channels, std::int64_t pixels,
                                std::int64_t planes, std::int64_t segments, double* __restrict__ partials) {
  using Lane = Compute<Storage>;
  SMEM_ARRAY(Lane, shared, threads);
  constexpr bool nchw = layout == Layout::nchw;
  constexpr int together = nchw ? 1 : columns;  // planes of a block
  constexpr int pixel_step = threads / together;

  const std::int64_t groups = (channels + together - 1) / together;
  std::int64_t block = blockIdx.x;
  const std::int64_t group = block % groups;
  block /= groups;
  const std::int64_t segment = block % segments;
  const std::int64_t n = block / segments;

  const std::int64_t c = group * together + threadIdx.x % together;
  const std::int64_t begin = segment * segment_pixels(layout);
  const std::int64_t left = pixels - begin;
  const int count = static_cast<int>(left < segment_pixels(layout) ? left : segment_pixels(layout));
  const std::int64_t pixel_stride = nchw ? 1 : channels;
  const Storage* from = x + (nchw ? (n * channels + c) * pixels : n * pixels * channels + c) + begin * pixel_stride;

  Lane values[values_per_thread];
  Lane sum = 0;
  const int first = threadIdx.x / together;
#pragma unroll
  for (int k = 0; k < values_per_thread; ++k) {
    const int pixel = first + k * pixel_step;
    values[k] = c < channels && pixel < count ? load(from + pixel * pixel_stride) : Lane(0);
    sum += values[k];
  }
  const Lane shift = block_sum<together>(sum, shared) / static_cast<Lane>(count);
  Lane deviations = 0;
  Lane squares = 0;
#pragma unroll
  for (int k = 0; k < values_per_thread; ++k) {
    if (first + k * pixel_step < count) {
      const Lane deviation = values[k] - shift;
      deviations += deviation;
      squares += deviation * deviation;
    }
  }
  deviations = block_sum<together>(deviations, shared);
  squares = block_sum<together>(squares, shared);
  if (first == 0 && c < channels) {
    const Moments moments = from_shifted(shift, deviations, squares, count);
    const std::int64_t at = (n * channels + c) * segments + segment;
    st_global(partials + at, moments.mean);
    st_global(partials + planes * segments + at, moments.squares);
  }
}

// One thread for each plane.
template <class Lane>
__global__ void combine_segments(const double* __restrict__ partials, std::int64_t planes, std::int64_t segments,
                                 std::int64_t segment, std::int64_t pixels, double eps, Lane* __restrict__ mean,
                                 Lane* __restrict__ rstd) {
  const std::int64_t plane = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (plane >= planes) return;
  Moments moments = {0.0, 0.0};
  for (std::int64_t s = 0; s < segments; ++s) {
    const std::int64_t at = plane * segments + s;
    const std::int64_t left = pixels - s * segment;
    moments = combine(moments, s * segment, {ld_global(partials + at), ld_global(partials + planes * segments + at)},
                      left < segment ? left : segment);
  }
  st_global(mean + plane, static_cast<Lane>(moments.mean));
  st_global(rstd + plane, static_cast<Lane>(1.0 / sqrt(moments.squares / static_cast<double>(pixels) + eps)));
}

// One thread for each value, in memory order.
template <class Storage, Layout layout>
__global__ void gradient(const Compute<Storage>* __restrict__ dmean,
                         const Compute<Storage>* __restrict__ drstd, const Storage* __restrict__ x,
                         const Compute<Storage>* __restrict__ mean,
                         const Compute<Storage>* __restrict__ rstd, std::int64_t channels,
                         std::int64_t pixels, std::int64_t values, Storage* __restrict__ dx) {
  using Lane = Compute<Storage>;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < values; i += stride) {
    const std::int64_t plane =
        layout == Layout::nchw ? i / pixels : i / (pixels * channels) * channels + i % channels;
    const Lane r = ld_global(rstd + plane);
    const Lane slope = -ld_global(drstd + plane) * r * r * r / static_cast<Lane>(pixels);
    const Lane deviation = load(x + i) - ld_global(mean + plane);
    store(dx + i, ld_global(dmean + plane) / static_cast<Lane>(pixels) + slope * deviation);
  }
}

}  // namespace fastmunit::cuda
