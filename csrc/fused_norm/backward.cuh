// The backward kernels of fused_norm; fused_norm.h states what they compute. All values of a tile, of x and of the
// gradient, are loaded before the first is used. The thread that holds a pixel adds the gradients of its copies in the
// padding.
#pragma once

#include "fused_norm/tile.cuh"

namespace fastmunit::cuda::norm {

// Σ dz and Σ dz * (x - center).
struct alignas(8) TileSums {
  float dz, product;
};

// The coefficients of dx = scale * dz + slope * (x - center) + constant that a group shares. scale and center are in
// the affine.
struct alignas(8) GroupCoefficients {
  float slope, constant;
};

// An incoming gradient, with strides in bytes. `data` points to pixel (0, 0) of the unpadded map.
struct Upstream {
  const char* data;  // null if it is absent
  std::int64_t sample_stride, channel_stride;
  int row_stride, column_stride;

  __device__ const char* plane(int sample, int channel) const {
    // Products of unsigned numbers take fewer instructions.
    const std::uint64_t n = static_cast<unsigned>(sample), c = static_cast<unsigned>(channel);
    return data + n * static_cast<std::uint64_t>(sample_stride) + c * static_cast<std::uint64_t>(channel_stride);
  }
  template <class Value>
  __device__ const Value* at(const char* plane, int row, int column) const {
    return reinterpret_cast<const Value*>(plane + wide_product(row, row_stride) + wide_product(column, column_stride));
  }
};

// The lanes of kernel `rows` that add a column of the padding to their row: `lanes` of them starting at lane `first`,
// and as many from the last lane backward. In reflect mode a lane adds the mirror image of its own column. In the other
// modes the outermost lane adds the column next to its own, which is `behind` columns further out than the mirror
// image.
struct PadColumnLanes {
  int first, lanes, behind;

  PadColumnLanes(const FusedNormOptions& a, bool folds) {
    const bool reflects = a.pad_mode == PadMode::reflect;
    first = reflects ? 1 : 0;
    lanes = !folds ? 0 : (reflects ? a.pad : 1);
    behind = 1 - first;
  }
};

struct BackwardArguments {
  FusedNormBackward map;
  Upstream first, second;  // dy is their sum; the second may be absent
  PadColumnLanes pad_lanes;
  PadSources rows, columns;         // of the first's padding; with pixel shuffle, kernel `pixels` counts pairs of pixels
  bool split;                       // coefficients are computed by two launches before apply
  bool writes_parameter_gradients;  // by the kernel that has the sums of a plane
  Cover cover;
  float bound;                // relu's gradient is 0 for z <= bound; NaN, so never, without an activation
  double share;               // weight of a value in the mean of its group
  std::int64_t sample_bytes;  // of x
  TileSums* of_planes;        // per tile of each plane; null if nothing needs them
  TileSums* of_groups;        // per tile of each group, weighted for MUNIT's layer norm; null unless split
  GroupCoefficients* coefficients;  // per group, from combine to apply
  int tiles_of_group;
};

// --- Statistics -------------------------------------------------------------------------------------------------------

// A block's arrays in shared memory.
struct BackwardShared {
  float* scratch;   // for lane_sums
  TileSums* sums;   // of the tile, per channel
  TileSums* total;  // weighted sum over all channels
  Doubles* stats;   // mean and rstd per channel
  double* weights;  // per channel
  float *centers, *scales, *shifts, *slopes, *constants;  // per channel
  Tile* tile;       // kept here instead of in registers between loads and stores
};
using FourFloats = Chunk<float, 4>;
#define FASTMUNIT_BACKWARD_SHARED(name)                                   \
  SMEM_ARRAY(float, name##_scratch, block_warps * max_lane_sums);         \
  SMEM_ARRAY(TileSums, name##_sums, max_lane_sums / 2);                   \
  SMEM_ARRAY(TileSums, name##_total, 1);                                  \
  SMEM_ARRAY(Doubles, name##_stats, max_channels);                        \
  SMEM_ARRAY(double, name##_weights, max_channels);                       \
  SMEM_ARRAY(FourFloats, name##_aligned_floats, 5 * max_channels / 4);    \
  SMEM_ARRAY(Tile, name##_tile, 1);                                       \
  float* const name##_floats = name##_aligned_floats[0].values;           \
  const BackwardShared name = {name##_scratch,                            \
                               name##_sums,                               \
                               name##_total,                              \
                               name##_stats,                              \
                               name##_weights,                            \
                               name##_floats,                             \
                               name##_floats + max_channels,              \
                               name##_floats + 2 * max_channels,          \
                               name##_floats + 3 * max_channels,          \
                               name##_floats + 4 * max_channels,          \
                               name##_tile}

__device__ inline NormStats saved_stats(const FusedNormBackward& a, std::int64_t n, std::int64_t c) {
  if (a.statistics == Statistics::none) return {};
  const std::int64_t at = a.statistics == Statistics::layer ? n : n * a.channels + c;
  return {ld_global(a.mean + at), ld_global(a.rstd + at)};
}

// Returns the coefficients of a group; the device version of instance_coefficients and layer_coefficients in
// fused_norm.h.
__device__ inline GroupCoefficients coefficients_of(const BackwardArguments& arguments, const NormStats& stats, double weight,
                                                    const TileSums& tile_sums) {
  const FusedNormBackward& a = arguments.map;
  const GradientSums sums = sums_about_mean<float>(stats, {tile_sums.dz, tile_sums.product});
  const double rounding = rounding_of_mean<float>(stats);
  double gain = stats.rstd * weight, slope = 0.0;
  if (a.statistics == Statistics::layer) {
    gain = stats.rstd;
    const double std = inverse_of(stats.rstd) - a.eps;
    if (!(std <= 1e-12 * a.eps)) {
      slope = -stats.rstd * stats.rstd * sums.product * arguments.cover.share * inverse_of(std);
    }
  } else {
    slope = -gain * stats.rstd * stats.rstd * sums.product * arguments.share;
  }
  const double constant = -gain * sums.dz * arguments.share - slope * rounding;
  return {static_cast<float>(slope), static_cast<float>(constant)};
}

__device__ inline void write_parameter_gradient(const ParameterGradient& to, std::int64_t at, double value) {
  switch (to.dtype) {
    case DataType::float32:
      st_plain(static_cast<float*>(to.data) + at, static_cast<float>(value));
      return;
    case DataType::float64:
      st_plain(static_cast<double*>(to.data) + at, value);
      return;
    case DataType::bfloat16:
      st_plain(static_cast<__nv_bfloat16*>(to.data) + at, narrowed<__nv_bfloat16>(static_cast<float>(value)));
      return;
    case DataType::float16:
      st_plain(static_cast<__half*>(to.data) + at, narrowed<__half>(static_cast<float>(value)));
      return;
  }
}

// Writes the gradient of a channel's weight or bias, of sample n or of all samples, if it is requested.
__device__ inline void write_channel_gradient(const FusedNormBackward& a, const ParameterGradient& to, std::int64_t n,
                                              std::int64_t c, double value) {
  if (to.data != nullptr) write_parameter_gradient(to, to.per_sample ? n * a.channels + c : c, value);
}

// dweight = Σ dz * (x - mean) * rstd and dbias = Σ dz over a plane.
struct PlaneGradients {
  double weight, bias;
};
__device__ inline PlaneGradients plane_gradients(const NormStats& stats, const TileSums& tile_sums) {
  const GradientSums sums = sums_about_mean<float>(stats, {tile_sums.dz, tile_sums.product});
  return {sums.product * stats.rstd, sums.dz};
}
__device__ inline void write_gradients(const FusedNormBackward& a, std::int64_t n, std::int64_t c, const NormStats& stats,
                                       const TileSums& sums) {
  const PlaneGradients gradients = plane_gradients(stats, sums);
  write_channel_gradient(a, a.dweight, n, c, gradients.weight);
  write_channel_gradient(a, a.dbias, n, c, gradients.bias);
}

// Sets the values per channel of the tile while the loads of its values are in flight: affines, and in mode apply the
// coefficients of combine.
template <Mode mode>
__device__ inline void set_channels(const BackwardArguments& arguments, const Tile& tile, const BackwardShared& shared) {
  const FusedNormBackward& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t channel = tile.channel + thread;
  if (thread < tile.channels) {
    rarely();
    if (thread == 0) *shared.tile = tile;
    const NormStats stats = saved_stats(a, tile.sample, channel);
    const double weight = parameter_value(a.weight, tile.sample, channel, 1.0);
    const Affine<float> affine = affine_of<float>(stats, weight, parameter_value(a.bias, tile.sample, channel, 0.0));
    if constexpr (mode != Mode::apply) {
      shared.stats[thread] = {{stats.mean, stats.rstd}};
      shared.weights[thread] = weight;
    }
    shared.centers[thread] = affine.center;
    shared.scales[thread] = affine.scale;
    shared.shifts[thread] = affine.shift;
  }
  if constexpr (mode == Mode::apply) {
    if (arguments.split) {
      wait_for_previous_launch();
      if (thread < tile.channels) {
        rarely();
        const int group = a.statistics == Statistics::layer ? 0 : thread;
        const GroupCoefficients coefficients = ld_global(arguments.coefficients + group_of_tile(a, tile) + group);
        shared.slopes[thread] = coefficients.slope;
        shared.constants[thread] = coefficients.constant;
      }
    }
  }
  __syncthreads();
}

// MUNIT's layer norm: computes the weighted sum over the channels of a tile, in the first warp.
__device__ inline void set_total(const Tile& tile, const BackwardShared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  TileSums sums = {0.0f, 0.0f};
  if (thread < tile.channels) {
    const float weight = static_cast<float>(shared.weights[thread]);
    sums = {weight * shared.sums[thread].dz, weight * shared.sums[thread].product};
  }
  sums = {sum_of_lanes<32>(sums.dz), sum_of_lanes<32>(sums.product)};
  if (thread == 0) *shared.total = sums;
}

// Writes the sums of the tile for combine.
__device__ inline void write_sums(const BackwardArguments& arguments, const Tile& tile, const BackwardShared& shared) {
  const FusedNormBackward& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  if (arguments.of_planes != nullptr && thread < tile.channels) {
    const std::int64_t plane = static_cast<std::int64_t>(tile.sample) * a.channels + tile.channel + thread;
    st_plain(arguments.of_planes + plane * arguments.cover.tiles + tile.index, shared.sums[thread]);
  }
  if (arguments.split && a.statistics == Statistics::layer && thread == 0) {
    st_plain(arguments.of_groups + group_of_tile(a, tile) * arguments.tiles_of_group + number_in_group(a, arguments.cover, tile),
             *shared.total);
  }
}

// Mode whole: computes the coefficients of the tile's channels from the sums of the tiles of a cluster. Blocks::wait
// must follow.
__device__ inline void set_coefficients(const BackwardArguments& arguments, const Tile& tile, const BackwardShared& shared,
                                        const Blocks& blocks) {
  const FusedNormBackward& a = arguments.map;
  const bool layer = a.statistics == Statistics::layer;
  const int thread = static_cast<int>(threadIdx.x);
  blocks.sync();
  if (thread < tile.channels) {
    rarely();
    const TileSums* const mine = layer ? shared.total : shared.sums + thread;
    TileSums sums = {0.0f, 0.0f};
#pragma unroll 1
    for (int rank = 0; rank < blocks.count; ++rank) {
      const TileSums of_block = blocks.of(mine, rank);
      sums.dz += of_block.dz;
      sums.product += of_block.product;
    }
    const Doubles saved = shared.stats[thread];
    const NormStats stats = {saved.values[0], saved.values[1]};
    const GroupCoefficients coefficients = coefficients_of(arguments, stats, shared.weights[thread], sums);
    shared.slopes[thread] = coefficients.slope;
    shared.constants[thread] = coefficients.constant;
    if (arguments.writes_parameter_gradients && tile.index == 0) {
      write_gradients(a, tile.sample, tile.channel + thread, stats, sums);
    }
  }
  blocks.arrive();
  __syncthreads();
}

// Returns the tile of a block, recomputed for each round: there are no registers to keep values derived from it.
__device__ inline Tile recomputed_tile(const FusedNormOptions& a, const Cover& cover, int pixels) {
  unsigned block = blockIdx.x;
  forget(block);
  return tile_of(a, cover, pixels, block);
}

// Computes the coefficients from the sums of each thread, in the order of lane_sums.
template <Mode mode, int max_lanes, int count>
__device__ inline void finish_sums(const BackwardArguments& arguments, float (&sums)[count], int lanes,
                                   const BackwardShared& shared, const Blocks& blocks) {
  const FusedNormBackward& a = arguments.map;
  const Tile& tile = *shared.tile;
  lane_sums<max_lanes>(sums, lanes, shared.scratch, &shared.sums->dz);
  if (threadIdx.x < 32) {
    rarely();
    if (a.statistics == Statistics::layer) set_total(tile, shared);
    write_sums(arguments, tile, shared);
  }
  if constexpr (mode == Mode::whole) {
    if (a.statistics != Statistics::none) set_coefficients(arguments, tile, shared, blocks);
  }
}

// --- Values -----------------------------------------------------------------------------------------------------------

// The options that a kernel supports. `common` excludes leaky relu, statistics none, dinterior together with dpadded,
// dresidual, and replicate padding wider than 1. Most calls use none of these and execute fewer instructions without
// that code.
enum class Features { common, all };

// Replaces the gradient of activation(z) with that of z. At z = 0 it follows torch's convention.
template <Features features, int count>
__device__ inline void activate_gradient(const BackwardArguments& arguments, const float (&z)[count], float (&gradient)[count]) {
  const FusedNormBackward& a = arguments.map;
  if (features == Features::all && a.activation == Activation::leaky_relu) {
    const float slope = static_cast<float>(a.negative_slope);
#pragma unroll
    for (int k = 0; k < count; ++k) gradient[k] = z[k] > 0.0f ? gradient[k] : gradient[k] * slope;
  } else {
#pragma unroll
    for (int k = 0; k < count; ++k) gradient[k] = z[k] <= arguments.bound ? 0.0f : gradient[k];
  }
}

// Adds dz, as computed by activate_gradient, and dz * deviation to their sums.
template <Features features>
__device__ inline void add_activated(const BackwardArguments& arguments, float z, float gradient, float deviation, float& sum,
                                     float& product) {
  if constexpr (features == Features::all) {
    const float of_z[1] = {z};
    float dz[1] = {gradient};
    activate_gradient<features>(arguments, of_z, dz);
    sum += dz[0];
    product += dz[0] * deviation;
  } else {
    add_unless_below(z, arguments.bound, gradient, deviation, sum, product);
  }
}

// --- NCHW, rows of 32 * words columns ---------------------------------------------------------------------------------

// A lane holds columns lane, lane + 32, ... of every block_warps-th row, so loads and stores are coalesced regardless
// of the alignment of the padded gradient's rows.
template <class Storage, int words, Mode mode, Features features>
__global__ void __launch_bounds__(block_threads, resident_blocks(3)) backward_rows(const __grid_constant__ BackwardArguments arguments) {
  constexpr int rows = backward_values / words, width = 32 * words, round = rows * block_warps;
  static_assert(block_warps > max_pad);  // so the padding above, and below, the map copies at most one of a warp's rows
  FASTMUNIT_BACKWARD_SHARED(shared);
  if constexpr (mode != Mode::apply) start_dependent_launch();
  const FusedNormBackward& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int height = static_cast<int>(a.height);
  const int lane = static_cast<int>(threadIdx.x % 32u), warp = static_cast<int>(threadIdx.x / 32u);
  // The first row of the warp, the number of rows of the tile from there on, and the offset of that row in x and dx.
  int row = 0, left = 0;
  std::int64_t at = 0;
  const auto kept = [&](int r) { return left > r * block_warps; };
  const auto first_in = [&](const Upstream& map, const Tile& tile) {
    const char* const first = map.plane(tile.sample, tile.channel) + wide_product(row, map.row_stride);
    return reinterpret_cast<const Storage*>(first) + lane;
  };
  // Returns the row that is `below` rows further down.
  const auto row_below = [](const Upstream& map, const Storage* from, int below) {
    return reinterpret_cast<const Storage*>(reinterpret_cast<const char*>(from) + wide_product(map.row_stride, below));
  };
  const PadColumnLanes& sides = arguments.pad_lanes;
  const bool takes_left = static_cast<unsigned>(lane - sides.first) < static_cast<unsigned>(sides.lanes);
  const bool takes_right = static_cast<unsigned>(31 - lane - sides.first) < static_cast<unsigned>(sides.lanes);
  // Offset from the lane's first column to the column of the padding that it adds.
  const int place = (takes_left ? -sides.behind : 32 * (words - 1) + 62 + sides.behind) - 2 * lane;
  float values[rows][words], dz[rows][words], pad_values[rows];
  constexpr bool loads_pad_columns = rows <= 8;  // with the tile; otherwise there are not enough registers
  const auto load = [&](const Tile& tile, int done) {
    const int first_row = tile.index * cover.steps + done, rows_of_tile = (cover.steps - done) * block_warps;
    row = first_row * block_warps + warp;
    left = (height - row < rows_of_tile - warp ? height - row : rows_of_tile - warp);
    const int plane = tile.sample * cover.slices + tile.slice;  // slices are channels
    at = wide_product(plane, height * width) + (row * width + lane);
    const Storage* from = first_in(arguments.first, tile);
    const Storage* const x = static_cast<const Storage*>(a.x) + at;
#pragma unroll
    for (int r = 0; r < rows; ++r, from = row_below(arguments.first, from, block_warps)) {
      if (!kept(r)) break;
#pragma unroll
      for (int k = 0; k < words; ++k) {
        values[r][k] = widen(ld_global(x + r * block_warps * width + 32 * k));
        dz[r][k] = widen(ld_global(from + 32 * k));
      }
      if (loads_pad_columns && (takes_left || takes_right)) pad_values[r] = widen(ld_global(from + place));
    }
  };
  // Adds the remaining columns of replicate padding that is wider than 1.
  [[maybe_unused]] const auto repeated = [&](const Storage* from, float(&of_row)[words]) {
    if (!takes_left && !takes_right) return;
#pragma unroll
    for (int i = 1; i < max_pad; ++i) {
      const float column = i < a.pad ? widen(ld_global(from + place + (takes_left ? -i : i))) : 0.0f;
      of_row[0] += takes_left ? column : 0.0f;
      of_row[words - 1] += takes_right ? column : 0.0f;
    }
  };
  // Completes dy from the loaded part of dpadded, and writes dresidual.
  const auto complete_gradient = [&] {
    if constexpr (loads_pad_columns) {
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        if (takes_left) dz[r][0] += pad_values[r];
        if (takes_right) dz[r][words - 1] += pad_values[r];
      }
    } else if (takes_left || takes_right) {
      const Storage* from = first_in(arguments.first, *shared.tile) + place;
#pragma unroll
      for (int r = 0; r < rows; ++r, from = row_below(arguments.first, from, block_warps)) {
        if (!kept(r)) break;
        dz[r][0] += widen(ld_global(from));
      }
    }
    // The remaining columns of wider replicate padding.
    const bool repeats = features == Features::all && sides.behind > 0 && a.pad > 1;
    if (repeats) {
      const Storage* from = first_in(arguments.first, *shared.tile);
#pragma unroll
      for (int r = 0; r < rows; ++r, from = row_below(arguments.first, from, block_warps)) {
        if (!kept(r)) break;
        repeated(from, dz[r]);
      }
    }
    // Rows that the padding copies: the first one, or one of the last block_warps rows of the map.
    const unsigned behind = static_cast<unsigned>(height - 1 - row);
    const bool last = behind % block_warps < static_cast<unsigned>(arguments.rows.behind) && behind < round;
    if (row < arguments.rows.first || last) {
      rarely();
#pragma unroll 1
      for (int r = 0; r < rows; ++r) {
        const int y = row + r * block_warps;
        if (!kept(r) || !arguments.rows.contains(y)) continue;
        const Storage* const from = row_below(arguments.first, first_in(arguments.first, *shared.tile), r * block_warps);
        const PadTargets targets(y, height, a.pad, a.pad_mode);
#pragma unroll 1
        for (int i = 1; i < targets.count(); ++i) {
          const Storage* const of_pad = row_below(arguments.first, from, targets[i] - y);
          float added[words];
#pragma unroll
          for (int k = 0; k < words; ++k) added[k] = widen(ld_global(of_pad + 32 * k));
          const float corner = takes_left || takes_right ? widen(ld_global(of_pad + place)) : 0.0f;
          added[0] += takes_left ? corner : 0.0f;
          added[words - 1] += takes_right ? corner : 0.0f;
          if (repeats) repeated(of_pad, added);
#pragma unroll
          for (int held = 0; held < rows; ++held) {
#pragma unroll
            for (int k = 0; k < words; ++k) dz[held][k] += held == r ? added[k] : 0.0f;
          }
        }
      }
    }
    if (features == Features::all && arguments.second.data != nullptr) {
      const Storage* from = first_in(arguments.second, *shared.tile);
#pragma unroll
      for (int r = 0; r < rows; ++r, from = row_below(arguments.second, from, block_warps)) {
        if (!kept(r)) break;
#pragma unroll
        for (int k = 0; k < words; ++k) dz[r][k] += widen(ld_global(from + 32 * k));
      }
    }
    if (features == Features::all && mode != Mode::reduce && a.dresidual != nullptr) {
      Storage* const dresidual = static_cast<Storage*>(a.dresidual) + at;
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        if (!kept(r)) break;
#pragma unroll
        for (int k = 0; k < words; ++k) st_plain(dresidual + r * block_warps * width + 32 * k, narrowed<Storage>(dz[r][k]));
      }
    }
  };
  const auto write = [&] {
    // Without statistics, a slope of 0 times an infinite deviation would give NaN.
    const bool none = features == Features::all && a.statistics == Statistics::none;
    const float scale = shared.scales[0], slope = shared.slopes[0], constant = shared.constants[0];
    Storage* const dx = static_cast<Storage*>(a.dx) + at;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (!kept(r)) break;
#pragma unroll
      for (int k = 0; k < words; ++k) {
        const float correction = none ? 0.0f : slope * values[r][k] + constant;
        st_plain(dx + r * block_warps * width + 32 * k, narrowed<Storage>(scale * dz[r][k] + correction));
      }
    }
  };
  float sums[2] = {0.0f, 0.0f};
#pragma unroll 1
  for (int done = 0;;) {
    const Tile tile = recomputed_tile(a, cover, height * width);
    load(tile, done);
    if (done == 0) set_channels<mode>(arguments, tile, shared);
    complete_gradient();
    const float center = shared.centers[0], scale = shared.scales[0], shift = shared.shifts[0];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (!kept(r)) break;
      float z[words];
#pragma unroll
      for (int k = 0; k < words; ++k) {
        values[r][k] -= center;
        z[k] = values[r][k] * scale + shift;
      }
      if constexpr (mode == Mode::reduce) {
#pragma unroll
        for (int k = 0; k < words; ++k) add_activated<features>(arguments, z[k], dz[r][k], values[r][k], sums[0], sums[1]);
        continue;
      }
      activate_gradient<features>(arguments, z, dz[r]);
      if constexpr (mode == Mode::whole) {
#pragma unroll
        for (int k = 0; k < words; ++k) {
          sums[0] += dz[r][k];
          sums[1] += dz[r][k] * values[r][k];
        }
      }
    }
    if constexpr (mode == Mode::apply) write();
    done += rows;
    if (mode == Mode::whole || done >= cover.steps) break;
  }
  const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
  if constexpr (mode != Mode::apply) finish_sums<mode, 1>(arguments, sums, 1, shared, blocks);
  if constexpr (mode == Mode::whole) {
    write();
    blocks.wait();
  }
}

// --- channels_last, 16 bytes of channels per thread -------------------------------------------------------------------

// The gradient that corresponds to 16 bytes of x: 16 bytes of one pixel. With pixel shuffle, one word of each of 4
// pixels, with a quarter as many channels; the values are in the order of those of x.
template <class Storage, bool pixel_shuffle>
struct GradientPixels {
  static constexpr int count = pixel_shuffle ? 4 : 1, N = vector_values<Storage>;

  // Widens the values of `held`.
  __device__ static void widen(const Vector& held, float (&values)[N]) {
    if constexpr (!pixel_shuffle || sizeof(Storage) == 4) {
      unpack<Storage>(held, values);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) widen_pair(held.words[k], values[k], values[4 + k], Storage{});
    }
  }
  // Adds the values of pixel k, loaded from `from`.
  __device__ static void add(const char* from, int k, float (&values)[N]) {
    Vector read = {};
    if constexpr (pixel_shuffle) {
      const unsigned word = ld_global(reinterpret_cast<const unsigned*>(from));
#pragma unroll
      for (int pixel = 0; pixel < 4; ++pixel) read.words[pixel] = pixel == k ? word : 0u;
    } else {
      read = ld_global(reinterpret_cast<const Vector*>(from));
    }
    float added[N];
    widen(read, added);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] += added[i];
  }
  // Stores the values of pixel k.
  __device__ static void store(char* to, int k, const float (&values)[N]) {
    if constexpr (!pixel_shuffle) {
      st_plain(reinterpret_cast<Vector*>(to), pack<Storage>(values));
    } else if constexpr (sizeof(Storage) == 4) {
      st_plain(reinterpret_cast<float*>(to), values[k]);
    } else {
      st_plain(reinterpret_cast<decltype(narrowed_pair(0.0f, 0.0f, Storage{}))*>(to),
               narrowed_pair(values[k], values[4 + k], Storage{}));
    }
  }
};

// Unpacks values 4 h to 4 h + 3 of a vector.
template <class Storage>
__device__ inline void unpack_four(const Vector& vector, int h, float (&values)[4]) {
  if constexpr (sizeof(Storage) == 4) {
    memcpy(values, vector.words, sizeof(values));
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) widen_pair(vector.words[2 * h + k], values[2 * k], values[2 * k + 1], Storage{});
  }
}

// Adds half h of a vector.
template <class Storage>
__device__ inline void add_half(const char* vector, int h, float (&values)[4]) {
  const auto words = ld_global(reinterpret_cast<const Chunk<unsigned, 2>*>(vector) + h);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    float added[2];
    widen_pair(words.values[k], added[0], added[1], Storage{});
    values[2 * k] += added[0];
    values[2 * k + 1] += added[1];
  }
}
template <class Storage>
__device__ inline void pack_four(const float (&values)[4], int h, Vector& vector) {
  if constexpr (sizeof(Storage) == 4) {
    memcpy(vector.words, values, sizeof(values));
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const auto pair = narrowed_pair(values[2 * k], values[2 * k + 1], Storage{});
      memcpy(&vector.words[2 * h + k], &pair, sizeof(unsigned));
    }
  }
}

template <int count>
__device__ inline Vector* shared_vectors() {
  SMEM_ARRAY(Vector, waiting, count);
  return waiting;
}

// Operations on four values of one channel (pixel shuffle) or of four channels. More at a time would take too many
// registers.
template <int channels, Features features>
struct FourValues {
  static constexpr int of_channel = 4 / channels;
  static_assert(channels == 1 || channels == 4);

  // Loads one number per channel.
  __device__ static void load(const float* from, float (&values)[channels]) {
    const auto read = *reinterpret_cast<const Chunk<float, channels>*>(from);
#pragma unroll
    for (int c = 0; c < channels; ++c) values[c] = read.values[c];
  }
  // Replaces x with x - center.
  __device__ static void center(const BackwardShared& shared, unsigned channel, float (&x)[4]) {
    float centers[channels];
    load(shared.centers + channel, centers);
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] -= centers[k / of_channel];
  }
  __device__ static void activated(const BackwardShared& shared, unsigned channel, const float (&deviations)[4], float (&z)[4]) {
    float scales[channels], shifts[channels];
    load(shared.scales + channel, scales);
    load(shared.shifts + channel, shifts);
#pragma unroll
    for (int k = 0; k < 4; ++k) z[k] = deviations[k] * scales[k / of_channel] + shifts[k / of_channel];
  }
  // Replaces dy with dz.
  __device__ static void activate(const BackwardArguments& arguments, const BackwardShared& shared, unsigned channel,
                                  const float (&deviations)[4], float (&gradient)[4]) {
    float z[4];
    activated(shared, channel, deviations, z);
    activate_gradient<features>(arguments, z, gradient);
  }
  // Adds dz and dz * deviation to the sums of each channel.
  __device__ static void add(const BackwardArguments& arguments, const BackwardShared& shared, unsigned channel,
                             const float (&deviations)[4], const float (&gradient)[4], float* sums) {
    float z[4];
    activated(shared, channel, deviations, z);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float* const channel_sums = sums + 2 * (k / of_channel);
      add_activated<features>(arguments, z[k], gradient[k], deviations[k], channel_sums[0], channel_sums[1]);
    }
  }
  // Replaces dz with dx.
  __device__ static void apply(const FusedNormOptions& a, const BackwardShared& shared, unsigned channel,
                               const float (&deviations)[4], float (&gradient)[4]) {
    float scales[channels];
    load(shared.scales + channel, scales);
    if (features == Features::all && a.statistics == Statistics::none) {  // a slope of 0 times an infinite deviation would give NaN
#pragma unroll
      for (int k = 0; k < 4; ++k) gradient[k] *= scales[k / of_channel];
      return;
    }
    float slopes[channels], constants[channels];
    load(shared.slopes + channel, slopes);
    load(shared.constants + channel, constants);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int c = k / of_channel;
      gradient[k] = scales[c] * gradient[k] + (slopes[c] * deviations[k] + constants[c]);
    }
  }
};

template <class Storage, bool pixel_shuffle, Mode mode, Features features>
__global__ void __launch_bounds__(block_threads, resident_blocks(3 - (features == Features::all ? blocks_spared : 0)))
    backward_pixels(const __grid_constant__ BackwardArguments arguments) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, pixel_shuffle>, of_channel = N / C, fours = N / 4;
  using Gradient = GradientPixels<Storage, pixel_shuffle>;
  using Four = FourValues<C / fours, features>;
  FASTMUNIT_BACKWARD_SHARED(shared);
  if constexpr (mode != Mode::apply) start_dependent_launch();
  const FusedNormBackward& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int result_width = static_cast<int>(a.width), width = pixel_shuffle ? result_width / 2 : result_width;
  const int height = pixel_shuffle ? static_cast<int>(a.height) / 2 : static_cast<int>(a.height);
  const int thread = static_cast<int>(threadIdx.x), lane = cover.lane_of_pixel(thread);
  const int pixel_bytes = static_cast<int>(a.channels) * (of_channel * static_cast<int>(sizeof(Storage)));
  const int step = cover.step_pixels * pixel_bytes;
  int left = 0;                 // pixels of the tile from the thread's first one on
  unsigned padded_vectors = 0;  // a bit for each vector that the padding copies
  std::int64_t at = 0;          // offset of the thread's first vector in x and dx, in bytes
  const auto kept = [&](int u) { return left > u * cover.step_pixels; };
  // Sets row and column of the gradient of a vector; with pixel shuffle, of its first pixel.
  const auto place = [&](int pixel, int& row, int& column) {
    row = cover.by_width.quotient(pixel_shuffle ? 2 * pixel : pixel);
    column = pixel - row * width;
    if constexpr (pixel_shuffle) row *= 2, column *= 2;
  };
  const auto place_again = [&](int u, int& row, int& column) {
    place(shared.tile->end - left + u * cover.step_pixels, row, column);
  };
  // Returns the address of the thread's channels in a gradient. They are contiguous.
  const auto channels_of = [&](const Upstream& map, const Tile& tile) {
    return map.plane(tile.sample, 0) + (tile.channel + lane * C) * static_cast<int>(sizeof(Storage));
  };
  Vector vectors[backward_vectors], gradients[backward_vectors];
  const auto load = [&](const Tile& tile, int done) {
    const int pixel = tile.first + cover.pixels_before(thread) + done * cover.step_pixels;
    left = lane * C < tile.channels ? tile.end - pixel : 0;
    at = wide_product(pixel, pixel_bytes) + (tile.channel + lane * C) * (of_channel * static_cast<int>(sizeof(Storage)));
    at += static_cast<std::int64_t>(static_cast<std::uint64_t>(arguments.sample_bytes) * static_cast<unsigned>(tile.sample));
    const char* const x = static_cast<const char*>(a.x) + at;
    const char* const first = channels_of(arguments.first, tile);
    padded_vectors = 0;
#pragma unroll
    for (int u = 0; u < backward_vectors; ++u) {
      if (!kept(u)) break;
      int row, column;
      place(pixel + u * cover.step_pixels, row, column);
      vectors[u] = ld_global(reinterpret_cast<const Vector*>(x + static_cast<std::int64_t>(u) * step));
      const char* const from = arguments.first.at<char>(first, row, column);
      if constexpr (pixel_shuffle) {
#pragma unroll
        for (int k = 0; k < 4; ++k) gradients[u].words[k] = ld_global(arguments.first.at<unsigned>(from, k / 2, k % 2));
        row /= 2, column /= 2;
      } else {
        gradients[u] = ld_global(reinterpret_cast<const Vector*>(from));
      }
      if (arguments.rows.contains(row) || arguments.columns.contains(column)) padded_vectors |= 1u << u;
    }
  };
  // Adds the gradients of a vector's copies in the padding.
  const auto fold = [&](int u, auto add) {
    if ((padded_vectors >> u & 1u) == 0) return;
    rarely();
    int row, column;
    place_again(u, row, column);
#pragma unroll 1
    for (int k = 0; k < Gradient::count; ++k) {
      for_pad_targets(a, row + k / 2, column + k % 2, [&](int from_row, int from_column) {
        add(arguments.first.at<char>(channels_of(arguments.first, *shared.tile), from_row, from_column), k);
      });
    }
  };
  // Fold in halves where the values of eight channels occupy the registers.
  constexpr bool folds_halves = mode == Mode::apply && features == Features::common && C > 4;
  // Sets `values` to dy, in the order of x. Called once per vector, as it writes dresidual.
  const auto take_gradient = [&](int u, float(&values)[N]) {
    Gradient::widen(gradients[u], values);
    if (features == Features::all && arguments.second.data != nullptr) {
      int row, column;
      place_again(u, row, column);
      const char* const second = channels_of(arguments.second, *shared.tile);
#pragma unroll
      for (int k = 0; k < Gradient::count; ++k) {
        Gradient::add(arguments.second.at<char>(second, row + k / 2, column + k % 2), k, values);
      }
    }
    if constexpr (!folds_halves) fold(u, [&](const char* from, int k) { Gradient::add(from, k, values); });
    if (features == Features::all && mode != Mode::reduce && a.dresidual != nullptr) {
      int row, column;
      place_again(u, row, column);
      const std::int64_t first_row = static_cast<std::int64_t>(shared.tile->sample) * static_cast<int>(a.height) + row;
      const int channel_bytes = (shared.tile->channel + lane * C) * static_cast<int>(sizeof(Storage));
#pragma unroll
      for (int k = 0; k < Gradient::count; ++k) {
        const std::int64_t pixel = (first_row + k / 2) * result_width + (column + k % 2);
        Gradient::store(static_cast<char*>(a.dresidual) + pixel * (pixel_bytes / of_channel) + channel_bytes, k, values);
      }
    }
  };
  const auto write = [&](int u, const Vector& values) {
    char* const dx = static_cast<char*>(a.dx) + at;
    st_plain(reinterpret_cast<Vector*>(dx + static_cast<std::int64_t>(u) * step), values);
  };
  // dz is kept in shared memory: for 16-bit values it occupies twice as many registers as its inputs.
  [[maybe_unused]] Vector* waiting = nullptr;
  if constexpr (mode == Mode::whole) waiting = shared_vectors<fours * backward_vectors * block_threads>() + threadIdx.x;
  // The values per channel are reloaded for each use if there are not enough registers for all of them.
  unsigned first_channel = static_cast<unsigned>(lane * C);
  const auto force_reload = [&] {
    if constexpr (C > 4) forget(first_channel);
  };
  float sums[2 * C] = {};
#pragma unroll 1
  for (int done = 0;;) {
    const Tile tile = recomputed_tile(a, cover, height * width);
    load(tile, done);
    if (done == 0) set_channels<mode>(arguments, tile, shared);
#pragma unroll
    for (int u = 0; u < backward_vectors; ++u) {
      if (!kept(u)) break;
      float gradient[N];
      take_gradient(u, gradient);
      [[maybe_unused]] Vector result;
#pragma unroll
      for (int h = 0; h < fours; ++h) {
        force_reload();
        const unsigned channel = first_channel + static_cast<unsigned>(h * C / fours);
        float x[4], dz[4];
        memcpy(dz, &gradient[4 * h], sizeof(dz));
        if constexpr (folds_halves) fold(u, [&](const char* from, int) { add_half<Storage>(from, h, dz); });
        unpack_four<Storage>(vectors[u], h, x);
        Four::center(shared, channel, x);
        if constexpr (mode == Mode::reduce) {
          Four::add(arguments, shared, channel, x, dz, &sums[2 * (4 * h / of_channel)]);
          continue;
        }
        Four::activate(arguments, shared, channel, x, dz);
        if constexpr (mode == Mode::apply) {
          Four::apply(a, shared, channel, x, dz);
          pack_four<Storage>(dz, h, result);
        } else {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int c = (4 * h + k) / of_channel;
            sums[2 * c] += dz[k];
            sums[2 * c + 1] += dz[k] * x[k];
          }
          memcpy(&waiting[(u * fours + h) * block_threads], dz, sizeof(dz));
        }
      }
      if constexpr (mode == Mode::apply) write(u, result);
    }
    done += backward_vectors;
    if (mode == Mode::whole || done >= cover.steps) break;
  }
  const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
  if constexpr (mode != Mode::apply) finish_sums<mode, 8>(arguments, sums, cover.lanes, shared, blocks);
  if constexpr (mode == Mode::whole) {
#pragma unroll
    for (int u = 0; u < backward_vectors; ++u) {
      if (!kept(u)) break;
      Vector result;
#pragma unroll
      for (int h = 0; h < fours; ++h) {
        force_reload();
        const unsigned channel = first_channel + static_cast<unsigned>(h * C / fours);
        float x[4], dz[4];
        memcpy(dz, &waiting[(u * fours + h) * block_threads], sizeof(dz));
        unpack_four<Storage>(repacked<Storage>(vectors[u], cover.in_order[0]), h, x);
        Four::center(shared, channel, x);
        Four::apply(a, shared, channel, x, dz);
        pack_four<Storage>(dz, h, result);
      }
      write(u, result);
    }
    blocks.wait();
  }
}

// --- Every other map --------------------------------------------------------------------------------------------------

// Value by value, in either layout. Each thread keeps its values in its own part of shared memory.
template <class Storage, Mode mode>
__global__ void __launch_bounds__(block_threads, resident_blocks(3)) backward_any(const __grid_constant__ BackwardArguments arguments) {
  FASTMUNIT_BACKWARD_SHARED(shared);
  SMEM_ARRAY(float, x_shared, block_threads * backward_values);
  SMEM_ARRAY(float, dz_shared, block_threads * backward_values);
  if constexpr (mode != Mode::apply) start_dependent_launch();
  const FusedNormBackward& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int height = static_cast<int>(a.height), width = static_cast<int>(a.width);
  const Tile tile = tile_of(a, cover, height * width);
  const int thread = static_cast<int>(threadIdx.x), lane = cover.lane_of_pixel(thread);
  const int first_pixel = tile.first + cover.pixels_before(thread);
  const bool inside = lane < tile.channels, nchw = a.layout == Layout::nchw;
  const int end = inside ? tile.end : tile.first;
  const std::int64_t pixels = static_cast<std::int64_t>(height) * width, channels = a.channels, c = tile.channel + lane;
  const std::int64_t plane = nchw ? (tile.sample * channels + c) * pixels : tile.sample * channels * pixels + c;
  const std::int64_t pitch = nchw ? 1 : channels, x_pitch = nchw ? 1 : channels * (a.pixel_shuffle ? 4 : 1);
  const std::int64_t x_begin = nchw || !a.pixel_shuffle ? plane : plane + 3 * c;
  const char* const first = arguments.first.plane(tile.sample, c);
  float* const my_x = x_shared + thread;
  float* const my_dz = dz_shared + thread;
  const auto place = [&](int pixel) {
    if (!a.pixel_shuffle) return x_begin + pixel * x_pitch;
    const int row = cover.by_width.quotient(pixel), column = pixel - row * width, phase = 2 * (row & 1) + (column & 1);
    return x_begin + ((row >> 1) * (width >> 1) + (column >> 1)) * x_pitch + (nchw ? phase * (pixels / 4) : phase);
  };
  const auto load = [&](int first_of_round) {
#pragma unroll 4
    for (int u = 0; u < backward_values; ++u) {
      const int pixel = first_of_round + u * cover.step_pixels;
      if (pixel < end) {
        const int row = cover.by_width.quotient(pixel);
        my_x[u * block_threads] = widen(ld_global(static_cast<const Storage*>(a.x) + place(pixel)));
        my_dz[u * block_threads] = widen(ld_global(arguments.first.at<Storage>(first, row, pixel - row * width)));
      }
    }
  };
  float sums[2] = {0.0f, 0.0f}, center = 0.0f, scale = 0.0f, shift = 0.0f;
  // Replaces the loaded value of dpadded with dz, adds to the sums, and writes dresidual.
  const auto complete_gradient = [&](int u, int pixel) {
    const int row = cover.by_width.quotient(pixel), column = pixel - row * width;
    float dy[1] = {my_dz[u * block_threads]};
    if (arguments.second.data != nullptr) {
      dy[0] += widen(ld_global(arguments.second.at<Storage>(arguments.second.plane(tile.sample, c), row, column)));
    }
    if (arguments.rows.contains(row) || arguments.columns.contains(column)) {
      rarely();
      for_pad_targets(a, row, column, [&](int from_row, int from_column) {
        dy[0] += widen(ld_global(arguments.first.at<Storage>(first, from_row, from_column)));
      });
    }
    if (mode != Mode::reduce && a.dresidual != nullptr) {
      st_plain(static_cast<Storage*>(a.dresidual) + plane + pixel * pitch, narrowed<Storage>(dy[0]));
    }
    const float deviation = my_x[u * block_threads] - center, z[1] = {deviation * scale + shift};
    activate_gradient<Features::all>(arguments, z, dy);
    sums[0] += dy[0];
    sums[1] += dy[0] * deviation;
    my_dz[u * block_threads] = dy[0];
  };
  const auto write = [&](int first_of_round) {
    const bool none = a.statistics == Statistics::none;
    const float slope = inside ? shared.slopes[lane] : 0.0f, constant = inside ? shared.constants[lane] : 0.0f;
#pragma unroll 4
    for (int u = 0, pixel = first_of_round; u < backward_values && pixel < end; ++u, pixel += cover.step_pixels) {
      const float correction = none ? 0.0f : slope * (my_x[u * block_threads] - center) + constant;
      st_plain(static_cast<Storage*>(a.dx) + place(pixel), narrowed<Storage>(scale * my_dz[u * block_threads] + correction));
    }
  };
#pragma unroll 1
  for (int done = 0; done < cover.steps; done += backward_values) {
    const int first_of_round = first_pixel + done * cover.step_pixels;
    load(first_of_round);
    if (done == 0) {
      set_channels<mode>(arguments, tile, shared);
      if (inside) {
        center = shared.centers[lane];
        scale = shared.scales[lane];
        shift = shared.shifts[lane];
      }
    }
#pragma unroll 1
    for (int u = 0, pixel = first_of_round; u < backward_values && pixel < end; ++u, pixel += cover.step_pixels) {
      complete_gradient(u, pixel);
    }
    if constexpr (mode == Mode::apply) write(first_of_round);
  }
  const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
  if constexpr (mode != Mode::apply) finish_sums<mode, 32>(arguments, sums, cover.lanes, shared, blocks);
  if constexpr (mode == Mode::whole) {
    write(first_pixel);
    blocks.wait();
  }
}

// --- After reduce or whole --------------------------------------------------------------------------------------------

// Returns the sum of every `step`-th of `count` sums, starting at `first`.
__device__ inline TileSums sum_of_tiles(const TileSums* tiles, int first, int step, int count) {
  TileSums sums = {0.0f, 0.0f};
#pragma unroll 4
  for (int i = first; i < count; i += step) {
    const TileSums tile = ld_global(tiles + i);
    sums.dz += tile.dz;
    sums.product += tile.product;
  }
  return sums;
}
template <int width>
__device__ inline TileSums sum_of_lanes(const TileSums& sums) {
  return {sum_of_lanes<width>(sums.dz), sum_of_lanes<width>(sums.product)};
}

// Computes the coefficients of a plane, in one warp.
__device__ inline void combine_plane(const BackwardArguments& arguments, std::int64_t plane) {
  const FusedNormBackward& a = arguments.map;
  const int lane = static_cast<int>(threadIdx.x) % 32, count = arguments.tiles_of_group;
  const TileSums sums = sum_of_lanes<32>(sum_of_tiles(arguments.of_groups + plane * count, lane, 32, count));
  if (lane != 0) return;
  const std::int64_t n = plane / a.channels, c = plane - n * a.channels;
  const NormStats stats = saved_stats(a, n, c);
  st_plain(arguments.coefficients + plane, coefficients_of(arguments, stats, parameter_value(a.weight, n, c, 1.0), sums));
  if (arguments.writes_parameter_gradients) write_gradients(a, n, c, stats, sums);
}

// Computes the coefficients of a sample for MUNIT's layer norm, in one block.
__device__ inline void combine_sample(const BackwardArguments& arguments, std::int64_t n) {
  SMEM_ARRAY(TileSums, of_warps, block_warps);
  const int thread = static_cast<int>(threadIdx.x), count = arguments.tiles_of_group;
  const TileSums of_warp = sum_of_lanes<32>(sum_of_tiles(arguments.of_groups + n * count, thread, block_threads, count));
  if (thread % 32 == 0) of_warps[thread / 32] = of_warp;
  __syncthreads();
  if (thread >= block_warps) return;
  TileSums sums = {0.0f, 0.0f};
  for (int warp = 0; warp < block_warps; ++warp) {
    sums.dz += of_warps[warp].dz;
    sums.product += of_warps[warp].product;
  }
  if (thread == 0) {
    st_plain(arguments.coefficients + n, coefficients_of(arguments, saved_stats(arguments.map, n, 0), 1.0, sums));
  }
}

// Computes the gradients of a channel's weight and bias, in one warp.
__device__ inline void combine_channel(const BackwardArguments& arguments, std::int64_t c) {
  const FusedNormBackward& a = arguments.map;
  const int lane = static_cast<int>(threadIdx.x) % 32, count = arguments.cover.tiles;
  PlaneGradients all = {0.0, 0.0};
#pragma unroll 1
  for (std::int64_t n = 0; n < a.batch; ++n) {
    const TileSums* const tiles = arguments.of_planes + (n * a.channels + c) * count;
    const TileSums sums = sum_of_lanes<32>(sum_of_tiles(tiles, lane, 32, count));
    if (lane != 0) continue;
    const PlaneGradients of_sample = plane_gradients(saved_stats(a, n, c), sums);
    all.weight += of_sample.weight;
    all.bias += of_sample.bias;
    if (a.dweight.per_sample) write_channel_gradient(a, a.dweight, n, c, of_sample.weight);
    if (a.dbias.per_sample) write_channel_gradient(a, a.dbias, n, c, of_sample.bias);
  }
  if (lane != 0) return;
  if (!a.dweight.per_sample) write_channel_gradient(a, a.dweight, 0, c, all.weight);
  if (!a.dbias.per_sample) write_channel_gradient(a, a.dbias, 0, c, all.bias);
}

// Computes the coefficients of groups in the first `group_blocks` blocks, and the gradients of weight and bias in the
// others, from the sums of tiles.
__global__ void __launch_bounds__(block_threads) backward_combine(const __grid_constant__ BackwardArguments arguments,
                                                                  int group_blocks) {
  start_dependent_launch();
  wait_for_previous_launch();
  const FusedNormBackward& a = arguments.map;
  const int block = static_cast<int>(blockIdx.x), warp = static_cast<int>(threadIdx.x) / 32;
  if (block >= group_blocks) {
    const std::int64_t c = static_cast<std::int64_t>(block - group_blocks) * block_warps + warp;
    if (c < a.channels) combine_channel(arguments, c);
  } else if (a.statistics == Statistics::layer) {
    combine_sample(arguments, block);
  } else {
    const std::int64_t plane = static_cast<std::int64_t>(block) * block_warps + warp;
    if (plane < a.batch * a.channels) combine_plane(arguments, plane);
  }
}

}  // namespace fastmunit::cuda::norm
