// Device code of instance_norm_stats; instance_norm_stats.h states what it computes. Includes no torch header.
//
// A block processes a segment of pixels: of one plane in NCHW, of 32 adjacent channels in channels_last, so a warp
// reads adjacent addresses. Adjacent values are accessed in chunks of up to 16 bytes.
#pragma once

#include <cstdint>

#include "common/moments.h"
#include "common/types.h"
#include "cuda/convert.cuh"

namespace fastmunit::cuda::stats {

constexpr int threads = 256;
constexpr int values_per_thread = 16;  // in registers at a time
constexpr int columns = 32;            // channels per block in channels_last
// channels_last: number of pixels in a block's registers at a time, and number of such tiles per segment.
constexpr int tile_pixels = threads * values_per_thread / columns;
constexpr int tiles = 4;

constexpr __host__ __device__ int planes_of_block(Layout layout) { return layout == Layout::nchw ? 1 : columns; }
constexpr __host__ __device__ int segment_pixels(Layout layout) {
  return layout == Layout::nchw ? threads * values_per_thread : tile_pixels * tiles;
}
constexpr __host__ __device__ std::int64_t segments_of(Layout layout, std::int64_t pixels) {
  return (pixels + segment_pixels(layout) - 1) / segment_pixels(layout);
}

// The segment of a block: `count` pixels, starting at index `first` of x, of `planes` planes, starting with `plane`.
struct Segment {
  std::int64_t index, first, plane;
  int count;
  int planes;
};

template <Layout layout>
__device__ Segment segment_of_block(std::int64_t channels, std::int64_t pixels, std::int64_t segments) {
  constexpr int together = planes_of_block(layout);
  const std::int64_t groups = (channels + together - 1) / together;
  std::int64_t block = blockIdx.x;
  const std::int64_t channel = block % groups * together;
  block /= groups;
  const std::int64_t segment = block % segments, n = block / segments;
  const std::int64_t begin = segment * segment_pixels(layout);
  const std::int64_t left = pixels - begin, plane = n * channels + channel;
  const std::int64_t first =
      layout == Layout::nchw ? plane * pixels + begin : (n * pixels + begin) * channels + channel;
  return {segment, first, plane, static_cast<int>(left < segment_pixels(layout) ? left : segment_pixels(layout)),
          static_cast<int>(channels - channel < together ? channels - channel : together)};
}

// Replaces `values` with their sums over the threads with the same index modulo `stride`, in an order fixed by the
// thread index, in every thread of the block. `shared` holds the values of all threads.
template <unsigned stride, int count, class Lane>
__device__ void block_sums(Lane (&values)[count], Lane* shared) {
#pragma unroll
  for (int v = 0; v < count; ++v) shared[v * threads + threadIdx.x] = values[v];
  __syncthreads();
  for (unsigned half = threads / 2; half >= stride; half /= 2) {
    if (threadIdx.x < half) {
#pragma unroll
      for (int v = 0; v < count; ++v) shared[v * threads + threadIdx.x] += shared[v * threads + threadIdx.x + half];
    }
    __syncthreads();
  }
#pragma unroll
  for (int v = 0; v < count; ++v) values[v] = shared[v * threads + threadIdx.x % stride];
  __syncthreads();
}

// Returns the sum of one value over all threads.
template <class Lane>
__device__ Lane block_sum(Lane value, Lane* shared) {
  Lane values[] = {value};
  block_sums<1>(values, shared);
  return values[0];
}

// Returns the index of a segment's moments in the partial results. Adjacent planes are adjacent.
__device__ inline std::int64_t partial_at(std::int64_t segment, std::int64_t plane, std::int64_t planes) {
  return segment * planes + plane;
}

__device__ inline void store_moments(double* partials, std::int64_t at, std::int64_t squares_at, Moments moments) {
  st_global(partials + at, moments.mean);
  st_global(partials + squares_at + at, moments.squares);
}

// One block per segment. Writes planes * segments partial means to `partials`, followed by as many partial sums of
// squares.
template <class Storage, int chunk>
__global__ void segment_moments_nchw(const Storage* __restrict__ x, std::int64_t channels, std::int64_t pixels,
                                     std::int64_t planes, std::int64_t segments, double* __restrict__ partials) {
  using Lane = Compute<Storage>;
  SMEM_ARRAY(Lane, shared, threads);
  const Segment segment = segment_of_block<Layout::nchw>(channels, pixels, segments);
  const auto* from = reinterpret_cast<const Chunk<Storage, chunk>*>(x + segment.first);
  const int thread = static_cast<int>(threadIdx.x);
  const int kept = (segment.count / chunk - thread + threads - 1) / threads;  // chunks of this thread
  Lane values[values_per_thread];
  Lane sum = 0;
#pragma unroll
  for (int k = 0; k < values_per_thread / chunk; ++k) {
    Chunk<Storage, chunk> loaded = {};
    if (k < kept) loaded = ld_global(from + thread + k * threads);
#pragma unroll
    for (int v = 0; v < chunk; ++v) {
      values[k * chunk + v] = widen(loaded.values[v]);
      sum += values[k * chunk + v];
    }
  }
  const Lane shift = block_sum(sum, shared) / static_cast<Lane>(segment.count);
  Lane deviations = 0, squares = 0;
#pragma unroll
  for (int k = 0; k < values_per_thread; ++k) {
    const Lane deviation = k / chunk < kept ? values[k] - shift : Lane(0);
    deviations += deviation;
    squares += deviation * deviation;
  }
  deviations = block_sum(deviations, shared);
  squares = block_sum(squares, shared);
  if (threadIdx.x == 0) {
    store_moments(partials, partial_at(segment.index, segment.plane, planes), planes * segments,
                  from_shifted(shift, deviations, squares, segment.count));
  }
}

// The same for channels_last, in chunks of channels. Deviations are taken from the mean of the segment's first tile,
// which is near the mean of the segment.
template <class Storage, int chunk>
__global__ void segment_moments_channels_last(const Storage* __restrict__ x, std::int64_t channels, std::int64_t pixels,
                                              std::int64_t planes, std::int64_t segments, double* __restrict__ partials) {
  using Lane = Compute<Storage>;
  constexpr int across = columns / chunk, rows = threads / across;  // threads per pixel, and per chunk of channels
  SMEM_ARRAY(Lane, shared, chunk * threads);
  const Segment segment = segment_of_block<Layout::channels_last>(channels, pixels, segments);
  const int column = static_cast<int>(threadIdx.x) % across * chunk, row = static_cast<int>(threadIdx.x) / across;
  const bool has_planes = column < segment.planes;
  const Storage* from = x + segment.first + column;
  Lane shift[chunk] = {}, deviations[chunk] = {}, squares[chunk] = {};
  for (int tile = 0; tile * tile_pixels < segment.count; ++tile) {
    const int first = tile * tile_pixels + row;
    const int kept = has_planes ? (segment.count - first + rows - 1) / rows : 0;  // pixels of this thread
    Chunk<Storage, chunk> values[values_per_thread / chunk];
#pragma unroll
    for (int k = 0; k < values_per_thread / chunk; ++k) {
      values[k] = {};
      if (k < kept) values[k] = ld_global(reinterpret_cast<const Chunk<Storage, chunk>*>(from + (first + k * rows) * channels));
    }
    if (tile == 0) {
#pragma unroll
      for (int k = 0; k < values_per_thread / chunk; ++k) {
#pragma unroll
        for (int v = 0; v < chunk; ++v) shift[v] += widen(values[k].values[v]);
      }
      block_sums<across>(shift, shared);
#pragma unroll
      for (int v = 0; v < chunk; ++v) shift[v] /= static_cast<Lane>(segment.count < tile_pixels ? segment.count : tile_pixels);
    }
#pragma unroll
    for (int k = 0; k < values_per_thread / chunk; ++k) {
#pragma unroll
      for (int v = 0; v < chunk; ++v) {
        const Lane deviation = k < kept ? widen(values[k].values[v]) - shift[v] : Lane(0);
        deviations[v] += deviation;
        squares[v] += deviation * deviation;
      }
    }
  }
  block_sums<across>(deviations, shared);
  block_sums<across>(squares, shared);
  if (row == 0) {
#pragma unroll
    for (int v = 0; v < chunk; ++v) {
      shared[column + v] = shift[v];
      shared[columns + column + v] = deviations[v];
      shared[2 * columns + column + v] = squares[v];
    }
  }
  __syncthreads();
  const int plane = static_cast<int>(threadIdx.x);
  if (plane < segment.planes) {  // adjacent threads write adjacent planes
    store_moments(partials, partial_at(segment.index, segment.plane + plane, planes), planes * segments,
                  from_shifted(shared[plane], shared[columns + plane], shared[2 * columns + plane], segment.count));
  }
}

// One thread per plane.
template <class Lane>
__global__ void combine_segments(const double* __restrict__ partials, std::int64_t planes, std::int64_t segments,
                                 std::int64_t segment, std::int64_t pixels, double eps, Lane* __restrict__ mean,
                                 Lane* __restrict__ rstd) {
  const std::int64_t plane = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (plane >= planes) return;
  Moments moments = {0.0, 0.0};
  for (std::int64_t s = 0; s < segments; ++s) {
    const std::int64_t at = partial_at(s, plane, planes);
    const std::int64_t left = pixels - s * segment;
    moments = combine(moments, s * segment, {ld_global(partials + at), ld_global(partials + planes * segments + at)},
                      left < segment ? left : segment);
  }
  st_global(mean + plane, static_cast<Lane>(moments.mean));
  st_global(rstd + plane, static_cast<Lane>(1.0 / sqrt(moments.squares / static_cast<double>(pixels) + eps)));
}

// The coefficients of dx = constant + slope * (x - mean) of a plane.
template <class Lane>
struct PlaneGradient {
  Lane constant, slope, mean;
};

// One block per segment. A chunk consists of pixels in NCHW, of channels in channels_last.
template <class Storage, Layout layout, int chunk>
__global__ void __launch_bounds__(threads)
    gradient(const Compute<Storage>* __restrict__ dmean, const Compute<Storage>* __restrict__ drstd,
             const Storage* __restrict__ x, const Compute<Storage>* __restrict__ mean,
             const Compute<Storage>* __restrict__ rstd, std::int64_t channels, std::int64_t pixels, std::int64_t segments,
             Storage* __restrict__ dx) {
  using Lane = Compute<Storage>;
  constexpr bool nchw = layout == Layout::nchw;
  constexpr int across = planes_of_block(layout) / (nchw ? 1 : chunk);  // threads per pixel
  SMEM_ARRAY(PlaneGradient<Lane>, of_plane, planes_of_block(layout));
  const Segment segment = segment_of_block<layout>(channels, pixels, segments);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < segment.planes) {
    const std::int64_t plane = segment.plane + thread;
    const Lane r = ld_global(rstd + plane), count = static_cast<Lane>(pixels);
    of_plane[thread] = {ld_global(dmean + plane) / count, -ld_global(drstd + plane) * r * r * r / count,
                        ld_global(mean + plane)};
  }
  __syncthreads();
  const int first_plane = nchw ? 0 : thread % across * chunk;
  if (first_plane >= segment.planes) return;
  const std::int64_t pixel_stride = nchw ? 1 : channels;
  constexpr int pixels_at_once = nchw ? chunk : 1;
  const int first_pixel = thread / (nchw ? 1 : across) * pixels_at_once;
  constexpr int pixel_step = threads / (nchw ? 1 : across) * pixels_at_once;
  constexpr int together = 4;  // loads in flight
  for (int pixel = first_pixel; pixel < segment.count; pixel += together * pixel_step) {
    Chunk<Storage, chunk> values[together];
    const std::int64_t at = segment.first + pixel * pixel_stride + first_plane;
    const int kept = (segment.count - pixel + pixel_step - 1) / pixel_step;
#pragma unroll
    for (int k = 0; k < together; ++k) {
      if (k < kept) {
        values[k] = ld_global(reinterpret_cast<const Chunk<Storage, chunk>*>(x + at + k * pixel_step * pixel_stride));
      }
    }
#pragma unroll
    for (int k = 0; k < together; ++k) {
      if (k >= kept) break;
      Chunk<Storage, chunk> results;
#pragma unroll
      for (int v = 0; v < chunk; ++v) {
        const PlaneGradient<Lane> g = of_plane[nchw ? 0 : first_plane + v];
        narrow(g.constant + g.slope * (widen(values[k].values[v]) - g.mean), results.values[v]);
      }
      st_global(reinterpret_cast<Chunk<Storage, chunk>*>(dx + at + k * pixel_step * pixel_stride), results);
    }
  }
}

}  // namespace fastmunit::cuda::stats
