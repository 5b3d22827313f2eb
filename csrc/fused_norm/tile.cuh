// Shared by the forward and backward CUDA kernels of fused_norm: tiles, 16-byte vectors, parameters, padding, sums over
// a block and the moments of tiles and groups.
#pragma once

#include "common/pad_index.h"
#include "cuda/launch.cuh"
#include "cuda/vectors.cuh"
#include "fused_norm/fused_norm.h"
#include "fused_norm/plan.h"

namespace fastmunit::cuda::norm {

// --- Tiles ------------------------------------------------------------------------------------------------------------

// The parts of a launch plan that kernels use, with precomputed divisions.
struct Cover {
  Division by_tiles, by_slices, by_width;  // width of the result
  int lanes, channels, slices, step_pixels, steps, tiles, cluster;
  unsigned in_order[2] = {0x3210, 0x3210};  // arguments of repacked: separate values for two uses
  int lane_bits = 0;  // lanes == 1 << lane_bits
  double share;  // weight of a squared deviation in the variance of its group

  // The lane of a thread within its pixel, and the number of pixels before that pixel in a step.
  __device__ int lane_of_pixel(int thread) const { return thread & (lanes - 1); }
  __device__ int pixels_before(int thread) const { return thread >> lane_bits; }

  Cover(const Plan& plan, const FusedNormOptions& a)
      : by_tiles(plan.tiles),
        by_slices(plan.slices),
        by_width(static_cast<int>(a.width)),
        lanes(plan.lanes),
        channels(plan.channels),
        slices(plan.slices),
        step_pixels(plan.step_pixels),
        steps(plan.steps),
        tiles(plan.tiles),
        cluster(plan.cluster),
        share(1.0 / (a.statistics == Statistics::layer ? static_cast<double>(a.channels * a.height * a.width) - 1.0
                                                       : static_cast<double>(a.height * a.width))) {
    while (1 << lane_bits < plan.lanes) ++lane_bits;
  }
};

inline LaunchShape shape_of(const Plan& plan, int cluster = 1) {
  LaunchShape shape = {static_cast<unsigned>(plan.blocks), block_threads};
  shape.cluster = static_cast<unsigned>(cluster);
  return shape;
}

constexpr int max_channels = 32;  // per slice

// The number of resident blocks by which the launch bounds of the largest kernels are reduced where the compiler would
// otherwise spill registers.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ == 1200)
constexpr int blocks_spared = 1;
#else
constexpr int blocks_spared = 0;
#endif

// The tile of a block: pixels [first, end) of channels [channel, channel + channels) of a sample.
struct Tile {
  int sample, channel, channels, slice, index, first, end;
};

__device__ inline Tile tile_of(const FusedNormOptions& a, const Cover& cover, int pixels, unsigned block = blockIdx.x) {
  Tile tile;
  const int slices = cover.by_tiles.quotient(static_cast<int>(block));
  tile.index = static_cast<int>(block) - slices * cover.tiles;
  tile.sample = cover.by_slices.quotient(slices);
  tile.slice = slices - tile.sample * cover.slices;
  tile.channel = tile.slice * cover.channels;
  const int left = static_cast<int>(a.channels) - tile.channel, size = cover.steps * cover.step_pixels;
  tile.channels = left < cover.channels ? left : cover.channels;
  tile.first = tile.index * size;
  tile.end = pixels - tile.first < size ? pixels : tile.first + size;
  return tile;
}

// Returns the group of the first channel of a tile. For instance norm, the next channels are the next groups.
__device__ inline std::int64_t group_of_tile(const FusedNormOptions& a, const Tile& tile) {
  const std::int64_t sample = tile.sample;
  return a.statistics == Statistics::layer ? sample : sample * a.channels + tile.channel;
}
// Returns the index of the tile among the tiles of its groups.
__device__ inline int number_in_group(const FusedNormOptions& a, const Cover& cover, const Tile& tile) {
  return a.statistics == Statistics::layer ? tile.slice * cover.tiles + tile.index : tile.index;
}

// --- Values -----------------------------------------------------------------------------------------------------------

// 16 bytes of packed values.
struct alignas(16) Vector {
  unsigned words[4];
};

__device__ inline __nv_bfloat162 narrowed_pair(float first, float second, __nv_bfloat16) {
  return __floats2bfloat162_rn(first, second);
}
__device__ inline __half2 narrowed_pair(float first, float second, __half) { return __floats2half2_rn(first, second); }

// Widens the two values of a word without splitting it: its halves would occupy two registers.
__device__ inline void widen_pair(unsigned word, float& first, float& second, __nv_bfloat16) {
  const unsigned bits[] = {word << 16, word & 0xffff0000u};
  memcpy(&first, &bits[0], sizeof(first));
  memcpy(&second, &bits[1], sizeof(second));
}
__device__ inline void widen_pair(unsigned word, float& first, float& second, __half) {
  __half2 pair;
  memcpy(&pair, &word, sizeof(pair));
  first = __low2float(pair);
  second = __high2float(pair);
}

template <class Storage>
__device__ inline void unpack(const Vector& vector, float (&values)[vector_values<Storage>]) {
  if constexpr (sizeof(Storage) == 4) {
    memcpy(values, vector.words, sizeof(values));
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) widen_pair(vector.words[k], values[2 * k], values[2 * k + 1], Storage{});
  }
}

// Returns the same 16 bytes. `in_order` is 0x3210, which the compiler does not know. It therefore unpacks the result
// again instead of keeping previously unpacked values, which occupy twice as many registers.
template <class Storage>
__device__ inline Vector repacked(const Vector& vector, unsigned in_order) {
  if constexpr (sizeof(Storage) == 4) {
    return vector;
  } else {
    Vector result;
#pragma unroll
    for (int k = 0; k < 4; ++k) result.words[k] = __byte_perm(vector.words[k], 0, in_order);
    return result;
  }
}

template <class Storage>
__device__ inline Vector pack(const float (&values)[vector_values<Storage>]) {
  Vector vector;
  if constexpr (sizeof(Storage) == 4) {
    memcpy(vector.words, values, sizeof(values));
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const auto pair = narrowed_pair(values[2 * k], values[2 * k + 1], Storage{});
      memcpy(&vector.words[k], &pair, sizeof(unsigned));
    }
  }
  return vector;
}

// Transposes words between 4 adjacent lanes: word i of lane j becomes word j of lane i.
__device__ inline void transpose(unsigned (&words)[4]) {
  const int lane = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if ((k & distance) != 0) continue;
      const unsigned given = __shfl_xor_sync(0xffffffffu, upper ? words[k] : words[k + distance], distance);
      if (upper) {
        words[k] = given;
      } else {
        words[k + distance] = given;
      }
    }
  }
}

// Number of channels per thread of kernel `pixels`. With pixel shuffle, a vector of x holds 4 pixels of a quarter as
// many channels.
template <class Storage, bool pixel_shuffle>
constexpr int lane_channels = vector_values<Storage> / (pixel_shuffle ? 4 : 1);

using Doubles = Chunk<double, 2>;

// The storage of an Affine<float> in memory.
struct PlaneAffine {
  float center, scale, shift;
};

// Returns weight or bias of a channel, or `fallback` if it is absent.
__device__ inline double parameter_value(const AffineParameter& parameter, std::int64_t n, std::int64_t c, double fallback) {
  if (parameter.data == nullptr) return fallback;
  const std::int64_t at = n * parameter.sample_stride + c * parameter.channel_stride;
  switch (parameter.dtype) {
    case DataType::float32:
      return ld_global(static_cast<const float*>(parameter.data) + at);
    case DataType::float64:
      return ld_global(static_cast<const double*>(parameter.data) + at);
    case DataType::bfloat16:
      return widen(ld_global(static_cast<const __nv_bfloat16*>(parameter.data) + at));
    case DataType::float16:
      return widen(ld_global(static_cast<const __half*>(parameter.data) + at));
  }
  return fallback;
}

// The pixels along one axis that the padding copies. In a map that is smaller than twice the padding, these are all
// pixels.
struct PadSources {
  int first, size;  // the pixels between, which the padding does not copy
  int behind;       // number of pixels after those

  FASTMUNIT_HOST_DEVICE PadSources(const FusedNormOptions& a, int axis, bool has_pad = true) {
    first = a.pad == 0 || !has_pad ? 0 : (a.pad_mode == PadMode::reflect ? a.pad + 1 : 1);
    size = axis > 2 * first ? axis - 2 * first : 0;
    behind = axis > first + size ? axis - first - size : 0;
  }
  // Returns the same for pairs of pixels.
  PadSources of_pairs() const {
    PadSources pairs = *this;
    pairs.first = (first + 1) / 2;
    pairs.size = (first + size) / 2 > pairs.first ? (first + size) / 2 - pairs.first : 0;
    return pairs;
  }
  __device__ bool contains(int at) const { return static_cast<unsigned>(at - first) >= static_cast<unsigned>(size); }
};

// Calls write(row, column) for each position in the padding that copies a pixel or, for zero padding, is nearest to it.
// Targets are recomputed for each position: stored, they would take ten registers from the tile.
template <class Write>
__device__ inline void for_pad_targets(const FusedNormOptions& a, int row, int column, Write write) {
  const auto targets = [&](int at, std::int64_t size) {
    unsigned index = static_cast<unsigned>(at), pad = static_cast<unsigned>(a.pad);
    unsigned reflects = a.pad_mode == PadMode::reflect ? 1u : 0u;
    forget(index);
    forget(pad);  // otherwise the compiler hoists values derived from it into code that every thread executes
    forget(reflects);
    const PadMode mode = reflects != 0 ? PadMode::reflect : PadMode::replicate;
    return PadTargets(static_cast<int>(index), static_cast<int>(size), static_cast<int>(pad), mode);
  };
#pragma unroll 1
  for (int i = 0; i < targets(row, a.height).count(); ++i) {
#pragma unroll 1
    for (int j = i == 0 ? 1 : 0; j < targets(column, a.width).count(); ++j) {
      write(targets(row, a.height)[i], targets(column, a.width)[j]);
    }
  }
}

// --- Sums over a block ------------------------------------------------------------------------------------------------

template <int width>
__device__ inline float sum_of_lanes(float value) {
#pragma unroll
  for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Largest number of sums that lane_sums computes.
constexpr int max_lane_sums = 128;

// One step of lane_sums. With more than two values, each half of the lanes continues with half of them; with fewer,
// every lane continues with all.
template <int offset, int count, int last_offset>
__device__ inline void halve_sums(float* values, int& first) {
  if constexpr (offset >= last_offset) {
    constexpr bool halves = count > 2;
    if constexpr (halves) {
      const bool upper = (threadIdx.x & offset) != 0;
#pragma unroll
      for (int k = 0; k < count / 2; ++k) {
        const float given = upper ? values[k] : values[k + count / 2];
        values[k] = (upper ? values[k + count / 2] : values[k]) + __shfl_xor_sync(0xffffffffu, given, offset);
      }
      if (upper) first += count / 2;
    } else {
#pragma unroll
      for (int k = 0; k < count; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], offset);
    }
    halve_sums<offset / 2, halves ? count / 2 : count, last_offset>(values, first);
  }
}

// Sums over the threads with equal threadIdx.x % lanes, in an order that depends only on `lanes`, into sums[lane *
// count + k]. `lanes` and `count` are powers of 2, and lanes <= max_lanes. `scratch` holds block_warps * max_lane_sums
// floats.
template <int max_lanes = 32, int count>
__device__ inline void lane_sums(float (&values)[count], int lanes, float* scratch, float* sums) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, columns = lanes * count;
  constexpr int parts = count <= 2 ? 1 : (count / 2 < 32 / max_lanes ? count / 2 : 32 / max_lanes), kept = count / parts;
  int first = 0;
  halve_sums<16, count, max_lanes>(values, first);
#pragma unroll
  for (int offset = max_lanes / 2; offset > 0; offset /= 2) {
    if (offset >= lanes) {
#pragma unroll
      for (int k = 0; k < kept; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], offset);
    }
  }
  const int of_lane = lane % (32 / parts);
  if (of_lane < lanes) {
#pragma unroll
    for (int k = 0; k < kept; ++k) scratch[warp * columns + of_lane * count + first + k] = values[k];
  }
  __syncthreads();
  if (thread < columns) {
    rarely();
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < block_warps; ++w) sum += scratch[w * columns + thread];
    sums[thread] = sum;
  }
  __syncthreads();
}

// --- Moments of tiles and groups --------------------------------------------------------------------------------------

// The moments of a tile. The mean is center + offset: one float has too few digits if the mean is large compared to the
// deviations.
struct alignas(16) TileMoments {
  float center, offset;
  float squares;  // sum of squared deviations from the mean
  float count;
};

// Returns moments, given the sums of deviations from a center near the mean and of their squares.
__device__ inline TileMoments moments_about(float center, float deviations, float squares, float count) {
  const float offset = __fdividef(deviations, count), centered = squares - deviations * offset;
  return {center, offset, centered > 0.0f || centered != centered ? centered : 0.0f, count};
}

// Returns the moments of the union of the sets of `width` adjacent lanes. A count of 0 means an empty set.
template <int width>
__device__ inline TileMoments union_of_lanes(TileMoments mine) {
  const int first = static_cast<int>(threadIdx.x) % 32 / width * width;
  const float center = __shfl_sync(0xffffffffu, mine.center, first);
  const float difference = mine.count > 0.0f ? mine.center - center + mine.offset : 0.0f;
  const float count = sum_of_lanes<width>(mine.count);
  const float offset = __fdividef(sum_of_lanes<width>(mine.count * difference), count), deviation = difference - offset;
  const float squares = mine.count > 0.0f ? mine.squares + mine.count * deviation * deviation : 0.0f;
  return {center, offset, sum_of_lanes<width>(squares), count};
}

// 1 / sqrt(value) and 1 / value, computed in float and refined by one step of Newton's method to a relative error of
// 1e-13. The functions for double are calls, which would take registers from the tile.
__device__ inline double inverse_root(double value) {
  const float seed = rsqrtf(static_cast<float>(value));
  double inverse = seed;
  if (!(seed > 0.0f && seed < INFINITY)) return inverse;
  return inverse * (1.5 - 0.5 * value * inverse * inverse);
}
__device__ inline double inverse_of(double value) {
  const float seed = __fdividef(1.0f, static_cast<float>(value));
  double inverse = seed;
  if (!(seed > 0.0f && seed < INFINITY)) return inverse;
  return inverse * (2.0 - value * inverse);
}

// Returns the statistics of a group; the device version of norm_stats_of in fused_norm.h.
__device__ inline NormStats norm_stats_of(const FusedNormOptions& a, const Cover& cover, const TileMoments& moments) {
  const bool layer = a.statistics == Statistics::layer;
  const double variance = static_cast<double>(moments.squares) * cover.share + (layer ? 0.0 : a.eps);
  double rstd = inverse_root(variance);
  if (layer) rstd = inverse_of((variance > 0.0 ? variance * rstd : variance) + a.eps);
  return {static_cast<double>(moments.center) + static_cast<double>(moments.offset), rstd};
}

// The blocks that share a group: a cluster or only this block.
class Blocks {
 public:
  __device__ explicit Blocks(int blocks) : count(blocks) {}

  // Waits for all threads of these blocks and makes their writes visible to each other.
  __device__ void sync() const {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (count > 1) {
      cluster_sync();
      return;
    }
#endif
    __syncthreads();
  }
  // A block must not end while another reads its shared memory: call arrive() after reading and wait() at the end.
  __device__ void arrive() const {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (count > 1) cluster_arrive();
#endif
  }
  __device__ void wait() const {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (count > 1) cluster_wait();
#endif
  }
  // Reads the value in the shared memory of block `rank` that corresponds to `mine`.
  template <class Value>
  __device__ Value of(const Value* mine, [[maybe_unused]] int rank) const {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (count > 1) return *map_shared_rank(mine, rank);
#endif
    return *mine;
  }

  const int count;
};

}  // namespace fastmunit::cuda::norm
