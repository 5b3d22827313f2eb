// The backward kernels of fused_norm; fused_norm.h says what they compute. All of a tile's values, of x and of the
// gradient, are loaded before the first is used. The thread that has a pixel adds what the pad shows of it.
#pragma once

#include "fused_norm/tile.cuh"

namespace fastmunit::cuda::norm {

// Σ dz and Σ dz * (x - center).
struct alignas(8) TileSums {
  float dz, product;
};

// dx = scale * dz + slope * (x - center) + constant, with scale and center of the affine.
struct alignas(8) GroupLine {
  float slope, constant;
};

// A gradient from pixel (0, 0) before the pad on, with strides in bytes.
struct Upstream {
  const char* data;  // null where it is absent
  std::int64_t sample_stride, channel_stride;
  int row_stride, column_stride;

  __device__ const char* plane(std::int64_t sample, std::int64_t channel) const {
    return data + sample * sample_stride + channel * channel_stride;
  }
  template <class Value>
  __device__ const Value* at(const char* plane, int row, int column) const {
    return reinterpret_cast<const Value*>(plane + wide_product(row, row_stride) + wide_product(column, column_stride));
  }
};

struct BackwardArguments {
  FusedNormBackward map;
  Upstream first, second;    // dy is their sum; the second may be absent
  bool folds;                // the first has a pad that shows pixels
  Reach of_rows, of_columns;
  bool split;                // lines come from two launches before apply
  bool writes_coefficients;  // who knows the sums of a plane writes their gradients
  Cover cover;
  float bound;            // z up to which relu's gradient is 0: NaN, which no z is below, where there is no activation
  double share;           // of a value in the mean of its group
  TileSums* of_planes;    // of each plane's tiles; null where nothing needs them
  TileSums* of_groups;    // of each group's tiles, in MUNIT's layer norm weighted; null unless split
  GroupLine* lines;       // of each group, from combine to apply
  int tiles_of_group;
};

// --- Statistics -------------------------------------------------------------------------------------------------------

// Where the numbers of a block lie in shared memory.
struct BackwardShared {
  float* scratch;   // of lane_sums
  TileSums* sums;   // of the tile, for each channel
  TileSums* total;  // weighted, of all channels
  Doubles* groups;  // mean and rstd of each channel
  double* weights;  // of each channel
  float *centers, *scales, *shifts, *slopes, *constants;  // of each channel
  Tile* tile;       // kept here, not in registers, from loads to stores
};
using FourFloats = Chunk<float, 4>;
#define FASTMUNIT_BACKWARD_SHARED(name)                                   \
  SMEM_ARRAY(float, name##_scratch, block_warps * most_lane_sums);        \
  SMEM_ARRAY(TileSums, name##_sums, most_lane_sums / 2);                  \
  SMEM_ARRAY(TileSums, name##_total, 1);                                  \
  SMEM_ARRAY(Doubles, name##_groups, most_channels);                      \
  SMEM_ARRAY(double, name##_weights, most_channels);                      \
  SMEM_ARRAY(FourFloats, name##_lines, 5 * most_channels / 4);            \
  SMEM_ARRAY(Tile, name##_tile, 1);                                       \
  float* const name##_floats = name##_lines[0].values;                    \
  const BackwardShared name = {name##_scratch,                            \
                               name##_sums,                               \
                               name##_total,                              \
                               name##_groups,                             \
                               name##_weights,                            \
                               name##_floats,                             \
                               name##_floats + most_channels,             \
                               name##_floats + 2 * most_channels,         \
                               name##_floats + 3 * most_channels,         \
                               name##_floats + 4 * most_channels,         \
                               name##_tile}

__device__ inline Group saved_group(const FusedNormBackward& a, std::int64_t n, std::int64_t c) {
  if (a.statistics == Statistics::none) return {};
  const std::int64_t at = a.statistics == Statistics::layer ? n : n * a.channels + c;
  return {ld_global(a.mean + at), ld_global(a.rstd + at)};
}

// The line of a group from its sums, as instance_line and layer_line of fused_norm.h give it.
__device__ inline GroupLine line_of(const BackwardArguments& arguments, const Group& group, double weight, const TileSums& of) {
  const FusedNormBackward& a = arguments.map;
  const GradientSums sums = sums_about_mean<float>(group, {of.dz, of.product});
  const double rounding = rounding_of_mean<float>(group);
  double gain = group.rstd * weight, slope = 0.0;
  if (a.statistics == Statistics::layer) {
    gain = group.rstd;
    const double std = inverse_of(group.rstd) - a.eps;
    if (!(std <= 1e-12 * a.eps)) {
      slope = -group.rstd * group.rstd * sums.product * arguments.cover.share * inverse_of(std);
    }
  } else {
    slope = -gain * group.rstd * group.rstd * sums.product * arguments.share;
  }
  const double constant = -gain * sums.dz * arguments.share - slope * rounding;
  return {static_cast<float>(slope), static_cast<float>(constant)};
}

__device__ inline void write_coefficient(const CoefficientsGradient& to, std::int64_t at, double value) {
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

// The gradient of a channel's weight or bias, if it is wanted: of sample n, or of all.
__device__ inline void write_coefficient_of(const FusedNormBackward& a, const CoefficientsGradient& to, std::int64_t n,
                                            std::int64_t c, double value) {
  if (to.data != nullptr) write_coefficient(to, to.of_each_sample ? n * a.channels + c : c, value);
}

// dweight = Σ dz * (x - mean) * rstd and dbias = Σ dz of a plane.
struct PlaneGradients {
  double weight, bias;
};
__device__ inline PlaneGradients plane_gradients(const Group& group, const TileSums& of) {
  const GradientSums sums = sums_about_mean<float>(group, {of.dz, of.product});
  return {sums.product * group.rstd, sums.dz};
}
__device__ inline void write_gradients(const FusedNormBackward& a, std::int64_t n, std::int64_t c, const Group& group,
                                       const TileSums& of) {
  const PlaneGradients gradients = plane_gradients(group, of);
  write_coefficient_of(a, a.dweight, n, c, gradients.weight);
  write_coefficient_of(a, a.dbias, n, c, gradients.bias);
}

// What is known of the tile's channels, while its values are on their way: affines, and in the second reading lines.
template <Mode mode>
__device__ inline void set_channels(const BackwardArguments& arguments, const Tile& tile, const BackwardShared& shared) {
  const FusedNormBackward& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t channel = tile.channel + thread;
  if (thread == 0) *shared.tile = tile;
  if (thread < tile.channels) {
    rarely();
    const Group group = saved_group(a, tile.sample, channel);
    const double weight = coefficient(a.weight, tile.sample, channel, 1.0);
    const Affine<float> affine = affine_of<float>(group, weight, coefficient(a.bias, tile.sample, channel, 0.0));
    if constexpr (mode != Mode::apply) {
      shared.groups[thread] = {{group.mean, group.rstd}};
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
        const GroupLine line = ld_global(arguments.lines + group_of_tile(a, tile) + group);
        shared.slopes[thread] = line.slope;
        shared.constants[thread] = line.constant;
      }
    }
  }
  __syncthreads();
}

// MUNIT's layer norm: the weighted sum over the channels of a tile.
__device__ inline void set_total(const Tile& tile, const BackwardShared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= 32) return;
  rarely();
  TileSums sums = {0.0f, 0.0f};
  if (thread < tile.channels) {
    const float weight = static_cast<float>(shared.weights[thread]);
    sums = {weight * shared.sums[thread].dz, weight * shared.sums[thread].product};
  }
  sums = {sum_of_lanes<32>(sums.dz), sum_of_lanes<32>(sums.product)};
  if (thread == 0) *shared.total = sums;
}

// Keeps the sums of the tile for combine.
__device__ inline void keep_sums(const BackwardArguments& arguments, const Tile& tile, const BackwardShared& shared) {
  const FusedNormBackward& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  if (arguments.of_planes != nullptr && thread < tile.channels) {
    rarely();
    const std::int64_t plane = static_cast<std::int64_t>(tile.sample) * a.channels + tile.channel + thread;
    st_plain(arguments.of_planes + plane * arguments.cover.tiles + tile.index, shared.sums[thread]);
  }
  if (arguments.split && a.statistics == Statistics::layer && thread == 0) {
    rarely();
    st_plain(arguments.of_groups + group_of_tile(a, tile) * arguments.tiles_of_group + number_in_group(a, arguments.cover, tile),
             *shared.total);
  }
}

// Mode whole: the lines of the tile's channels from the sums of the tiles of a cluster. Blocks::wait has to follow.
__device__ inline void set_lines(const BackwardArguments& arguments, const Tile& tile, const BackwardShared& shared,
                                 const Blocks& blocks) {
  const FusedNormBackward& a = arguments.map;
  const bool layer = a.statistics == Statistics::layer;
  const int thread = static_cast<int>(threadIdx.x), channel = thread / largest_cluster, rank = thread % largest_cluster;
  blocks.sync();
  TileSums sums = {0.0f, 0.0f};
  if (channel < tile.channels && rank < blocks.count) sums = blocks.of(layer ? shared.total : shared.sums + channel, rank);
  sums = {sum_of_lanes<largest_cluster>(sums.dz), sum_of_lanes<largest_cluster>(sums.product)};
  blocks.arrive();
  if (channel < tile.channels && rank == 0) {
    rarely();
    const Doubles of = shared.groups[channel];
    const Group group = {of.values[0], of.values[1]};
    const GroupLine line = line_of(arguments, group, shared.weights[channel], sums);
    shared.slopes[channel] = line.slope;
    shared.constants[channel] = line.constant;
    if (arguments.writes_coefficients && tile.index == 0) {
      write_gradients(a, tile.sample, tile.channel + channel, group, sums);
    }
  }
  __syncthreads();
}

// Between sums and dx: from those of each thread, in the order of lane_sums, to lines.
template <Mode mode, int count>
__device__ inline void finish_sums(const BackwardArguments& arguments, float (&sums)[count], int lanes,
                                   const BackwardShared& shared, const Blocks& blocks) {
  const FusedNormBackward& a = arguments.map;
  const Tile& tile = *shared.tile;
  lane_sums(sums, lanes, shared.scratch, &shared.sums->dz);
  if (a.statistics == Statistics::layer) set_total(tile, shared);
  keep_sums(arguments, tile, shared);
  if constexpr (mode == Mode::whole) {
    if (a.statistics != Statistics::none) set_lines(arguments, tile, shared, blocks);
  }
}

// --- Values -----------------------------------------------------------------------------------------------------------

// What a kernel can do. `few` leaves out leaky relu, statistics none, dinterior beside dpadded, and dresidual: most calls have none
// of them, and take fewer instructions without.
enum class Abilities { few, all };

// Replaces the gradient of activation(z) by that of z; where z is 0, torch's convention.
template <Abilities abilities, int count>
__device__ inline void activate_gradient(const BackwardArguments& arguments, const float (&z)[count], float (&gradient)[count]) {
  const FusedNormBackward& a = arguments.map;
  if (abilities == Abilities::all && a.activation == Activation::leaky_relu) {
    const float slope = static_cast<float>(a.negative_slope);
#pragma unroll
    for (int k = 0; k < count; ++k) gradient[k] = z[k] > 0.0f ? gradient[k] : gradient[k] * slope;
  } else {
#pragma unroll
    for (int k = 0; k < count; ++k) gradient[k] = z[k] <= arguments.bound ? 0.0f : gradient[k];
  }
}

// --- NCHW, rows of 32 * words columns ---------------------------------------------------------------------------------

// A lane has columns lane, lane + 32, ... of rows block_warps apart, so that loads and stores are coalesced wherever the rows of
// the padded gradient begin.
template <class Storage, int words, Mode mode, Abilities abilities>
__global__ void __launch_bounds__(block_threads, resident_blocks(3)) backward_rows(const __grid_constant__ BackwardArguments arguments) {
  constexpr int held = backward_values / words, rows = held < most_backward_rows ? held : most_backward_rows, width = 32 * words;
  FASTMUNIT_BACKWARD_SHARED(shared);
  if constexpr (mode != Mode::apply) start_dependent_launch();
  const FusedNormBackward& a = arguments.map;
  const int height = static_cast<int>(a.height);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  // Where the rows of a warp begin in a tile, `done` steps of which lie before: computed anew for each use, for want of registers.
  const auto row_of = [&](const Tile& tile, int done) { return (tile.index * arguments.cover.steps + done) * block_warps + warp; };
  int first_row = 0, left = 0;  // of those that the warp holds: the first, and pixels from it on
  const auto kept = [&](int r) { return left > r * block_warps * width; };
  const auto begin = [&](const Tile& tile, int done) {
    const std::int64_t plane = static_cast<std::int64_t>(tile.sample) * a.channels + tile.channel;
    return plane * height * width + row_of(tile, done) * width + lane;
  };
  const auto begin_in = [&](const Upstream& map, const Tile& tile, int done) {
    unsigned row = static_cast<unsigned>(row_of(tile, done));
    forget(row);
    const char* const begin = map.plane(tile.sample, tile.channel) + wide_product(static_cast<int>(row), map.row_stride);
    return reinterpret_cast<const Storage*>(begin) + lane;
  };
  // The row that lies `rows` rows below.
  const auto row_below = [](const Upstream& map, const Storage* row, int rows) {
    return reinterpret_cast<const Storage*>(reinterpret_cast<const char*>(row) + static_cast<std::int64_t>(map.row_stride) * rows);
  };
  float values[rows][words], dz[rows][words];
  const auto load = [&](const Tile& tile, int done) {
    first_row = row_of(tile, done);
    left = tile.end - tile.first - (done * block_warps + warp) * width;
    const Storage* const x = static_cast<const Storage*>(a.x) + begin(tile, done);
    const Storage* row = begin_in(arguments.first, tile, done);
#pragma unroll
    for (int r = 0; r < rows; ++r, row = row_below(arguments.first, row, block_warps)) {
#pragma unroll
      for (int k = 0; k < words; ++k) {
        values[r][k] = kept(r) ? widen(ld_global(x + r * block_warps * width + 32 * k)) : 0.0f;
        dz[r][k] = kept(r) ? widen(ld_global(row + 32 * k)) : 0.0f;
      }
    }
  };
  // Lanes 1 to pad read the pad's columns on the left, the last ones but one those on the right: they show what these lanes hold
  // where the pad reflects, else what the outermost lane holds.
  const bool reflects = a.pad_mode == PadMode::reflect;
  const bool reads_left = arguments.folds && lane >= 1 && lane <= a.pad;
  const bool reads_right = arguments.folds && lane <= 30 && lane >= 31 - a.pad;
  const int beside = reads_left ? -2 * lane : 32 * (words - 1) + 2 * (31 - lane);
  const bool takes_left = reflects ? reads_left : lane == 0, takes_right = reflects ? reads_right : lane == 31;
  const auto add_columns = [&](const Storage* from, float(&row)[words]) {
    float shown = 0.0f;
    if (reads_left || reads_right) shown = widen(ld_global(from + beside));
    if (!reflects) shown = sum_of_lanes<4>(shown);
    if (takes_left) row[0] += shown;
    if (takes_right) row[words - 1] += shown;
  };
  // From what was loaded of dpadded to dy, and to dresidual.
  const auto complete_gradient = [&](const Tile& tile, int done) {
    if (arguments.folds) {
      const Storage* from = begin_in(arguments.first, tile, done);
#pragma unroll
      for (int r = 0; r < rows; ++r, from = row_below(arguments.first, from, block_warps)) {
        if (!kept(r)) break;
        add_columns(from, dz[r]);
        const int y = first_row + r * block_warps;
        if (arguments.of_rows.shows(y)) {
          rarely();
          const PadTargets targets(y, height, a.pad, a.pad_mode);
#pragma unroll 1
          for (int i = 1; i < targets.count(); ++i) {
            const Storage* const shown = row_below(arguments.first, from, targets[i] - y);
#pragma unroll
            for (int k = 0; k < words; ++k) dz[r][k] += widen(ld_global(shown + 32 * k));
            add_columns(shown, dz[r]);
          }
        }
      }
    }
    if (abilities == Abilities::all && arguments.second.data != nullptr) {
      const Storage* from = begin_in(arguments.second, tile, done);
#pragma unroll
      for (int r = 0; r < rows; ++r, from = row_below(arguments.second, from, block_warps)) {
        if (!kept(r)) break;
#pragma unroll
        for (int k = 0; k < words; ++k) dz[r][k] += widen(ld_global(from + 32 * k));
      }
    }
    if (abilities == Abilities::all && mode != Mode::reduce && a.dresidual != nullptr) {
      Storage* const dresidual = static_cast<Storage*>(a.dresidual) + begin(tile, done);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
#pragma unroll
        for (int k = 0; k < words; ++k) {
          if (kept(r)) st_plain(dresidual + r * block_warps * width + 32 * k, narrowed<Storage>(dz[r][k]));
        }
      }
    }
  };
  const auto write = [&](int done) {
    // Without statistics a slope of 0 would make NaN of an infinite deviation.
    const bool none = abilities == Abilities::all && a.statistics == Statistics::none;
    const float scale = shared.scales[0], slope = shared.slopes[0], constant = shared.constants[0];
    Storage* const dx = static_cast<Storage*>(a.dx) + begin(*shared.tile, done);
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (!kept(r)) break;
#pragma unroll
      for (int k = 0; k < words; ++k) {
        const float line = none ? 0.0f : slope * values[r][k] + constant;
        st_plain(dx + r * block_warps * width + 32 * k, narrowed<Storage>(scale * dz[r][k] + line));
      }
    }
  };
  float sums[2] = {0.0f, 0.0f};
  Tile tile = tile_of(a, arguments.cover, height * width);
#pragma unroll 1
  for (int done = 0;;) {
    load(tile, done);
    if (done == 0) set_channels<mode>(arguments, tile, shared);
    complete_gradient(*shared.tile, done);
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
      activate_gradient<abilities>(arguments, z, dz[r]);
      if constexpr (mode != Mode::apply) {
#pragma unroll
        for (int k = 0; k < words; ++k) {
          sums[0] += dz[r][k];
          sums[1] += dz[r][k] * values[r][k];
        }
      }
    }
    if constexpr (mode == Mode::apply) write(done);
    done += rows;
    if (mode == Mode::whole || done >= arguments.cover.steps) break;
    tile = *shared.tile;
  }
  const Blocks blocks(mode == Mode::whole ? arguments.cover.cluster : 1);
  if constexpr (mode != Mode::apply) finish_sums<mode>(arguments, sums, 1, shared, blocks);
  if constexpr (mode == Mode::whole) {
    write(0);
    blocks.wait();
  }
}

// --- channels_last, 16 bytes of channels per thread -------------------------------------------------------------------

template <class Storage>
__device__ inline void add_vector(const Vector* from, float (&values)[vector_values<Storage>]) {
  float added[vector_values<Storage>];
  unpack<Storage>(ld_global(from), added);
#pragma unroll
  for (int k = 0; k < vector_values<Storage>; ++k) values[k] += added[k];
}

// From 16 bytes of channels of one of 4 pixels, that of phase threadIdx.x % 4, to the values of all 4 for a quarter of the
// channels, as x with phases has them.
template <int count>
__device__ inline void exchange_gradients(float (&values)[count]) {
  constexpr int C = count / 4;
  float exchanged[count];
#pragma unroll
  for (int c = 0; c < C; ++c) {
    unsigned words[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) memcpy(&words[k], &values[C * k + c], sizeof(float));
    transpose(words);
#pragma unroll
    for (int k = 0; k < 4; ++k) memcpy(&exchanged[4 * c + k], &words[k], sizeof(float));
  }
  memcpy(values, exchanged, sizeof(values));
}

// Values 4 h to 4 h + 3 of a vector.
template <class Storage>
__device__ inline void unpack_four(const Vector& vector, int h, float (&values)[4]) {
  if constexpr (sizeof(Storage) == 4) {
    memcpy(values, vector.words, sizeof(values));
  } else {
#pragma unroll
    for (int k = 0; k < 2; ++k) widen_pair(vector.words[2 * h + k], values[2 * k], values[2 * k + 1], Storage{});
  }
}

template <int count>
__device__ inline Vector* waiting_room() {
  SMEM_ARRAY(Vector, waiting, count);
  return waiting;
}

// Four values of one channel of x with phases, or of four channels: more at a time would take too many registers.
template <int channels, Abilities abilities>
struct Four {
  static constexpr int of_channel = 4 / channels;
  static_assert(channels == 1 || channels == 4);

  // A number of each channel.
  __device__ static void load(const float* from, float (&values)[channels]) {
    const auto read = *reinterpret_cast<const Chunk<float, channels>*>(from);
#pragma unroll
    for (int c = 0; c < channels; ++c) values[c] = read.values[c];
  }
  // Replaces x by x - center.
  __device__ static void center(const BackwardShared& shared, unsigned channel, float (&x)[4]) {
    float centers[channels];
    load(shared.centers + channel, centers);
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] -= centers[k / of_channel];
  }
  // Replaces dy by dz.
  __device__ static void activate(const BackwardArguments& arguments, const BackwardShared& shared, unsigned channel,
                                  const float (&deviations)[4], float (&gradient)[4]) {
    float scales[channels], shifts[channels], z[4];
    load(shared.scales + channel, scales);
    load(shared.shifts + channel, shifts);
#pragma unroll
    for (int k = 0; k < 4; ++k) z[k] = deviations[k] * scales[k / of_channel] + shifts[k / of_channel];
    activate_gradient<abilities>(arguments, z, gradient);
  }
  // Replaces dz by dx.
  __device__ static void apply(const FusedNormOptions& a, const BackwardShared& shared, unsigned channel,
                               const float (&deviations)[4], float (&gradient)[4]) {
    float scales[channels];
    load(shared.scales + channel, scales);
    if (abilities == Abilities::all && a.statistics == Statistics::none) {  // a slope of 0 would make NaN of an infinite deviation
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

template <class Storage, bool phases, Mode mode, Abilities abilities>
__global__ void __launch_bounds__(block_threads, resident_blocks(3)) backward_pixels(const __grid_constant__ BackwardArguments arguments) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, phases>, of_channel = N / C, fours = N / 4;
  using OfFour = Four<C / fours, abilities>;
  FASTMUNIT_BACKWARD_SHARED(shared);
  if constexpr (mode != Mode::apply) start_dependent_launch();
  const FusedNormBackward& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int result_height = static_cast<int>(a.height), result_width = static_cast<int>(a.width);
  const int height = phases ? result_height / 2 : result_height, width = phases ? result_width / 2 : result_width;
  const int phase = phases ? static_cast<int>(threadIdx.x) % 4 : 0, channels = static_cast<int>(a.channels);
  // For want of registers, what follows from the thread's number is computed anew for each use.
  const auto thread_again = [] {
    unsigned number = threadIdx.x;
    forget(number);
    return static_cast<int>(number);
  };
  // The first pixel of the thread in a tile, `done` steps of which lie before.
  const auto first_pixel = [&](const Tile& of, int done) {
    return of.first + cover.pixels_before(thread_again()) + done * cover.step_pixels;
  };
  int left = 0;  // pixels of the tile from the first one on that the thread holds
  unsigned shown = 0;  // by the pad: a bit for each vector
  const auto kept = [&](int u) { return left > u * cover.step_pixels; };
  // Where the gradient of a vector lies: with phases it is that of one pixel of four lanes' channels.
  const auto place = [&](int pixel, int& row, int& column) {
    row = cover.by_width.quotient(phases ? 2 * pixel : pixel);
    column = pixel - row * width;
    if constexpr (phases) {
      row = 2 * row + phase / 2;
      column = 2 * column + phase % 2;
    }
  };
  const auto first_vector = [&](const Tile& of, int done) {
    const std::int64_t pixel = static_cast<std::int64_t>(of.sample) * (height * width) + first_pixel(of, done);
    return pixel * (channels * of_channel) + (of.channel + cover.lane_of_pixel(thread_again()) * C) * of_channel;
  };
  const int step = cover.step_pixels * (channels * of_channel);
  const auto channel_of = [&](const Tile& of) {
    const int lane = cover.lane_of_pixel(thread_again());
    return of.channel + (phases ? lane / 4 * N : lane * C);
  };
  Vector vectors[backward_vectors], gradients[backward_vectors];
  const auto load = [&](const Tile& tile, int done) {
    const int first_of_these = first_pixel(tile, done);
    left = cover.lane_of_pixel(thread_again()) * C < tile.channels ? tile.end - first_of_these : 0;
    const Storage* const x = static_cast<const Storage*>(a.x) + first_vector(tile, done);
    const char* const first = arguments.first.plane(tile.sample, channel_of(tile));
    shown = 0;
#pragma unroll
    for (int u = 0; u < backward_vectors; ++u) {
      vectors[u] = gradients[u] = {};
      if (kept(u)) {
        int row, column;
        place(first_of_these + u * cover.step_pixels, row, column);
        vectors[u] = ld_global(reinterpret_cast<const Vector*>(x + static_cast<std::int64_t>(u) * step));
        gradients[u] = ld_global(arguments.first.at<Vector>(first, row, column));
        if (arguments.of_rows.shows(row) || arguments.of_columns.shows(column)) shown |= 1u << u;
      }
    }
  };
  // dy as x has its values, once: it writes dresidual.
  const auto take_gradient = [&](int done, int u, float(&values)[N]) {
    unpack<Storage>(gradients[u], values);
    const auto add = [&](const Upstream& map, int from_row, int from_column) {
      const Tile& of = *shared.tile;
      add_vector<Storage>(map.at<Vector>(map.plane(of.sample, channel_of(of)), from_row, from_column), values);
    };
    if (abilities == Abilities::all && arguments.second.data != nullptr && kept(u)) {
      int row, column;
      place(first_pixel(*shared.tile, done) + u * cover.step_pixels, row, column);
      add(arguments.second, row, column);
    }
    if (arguments.folds && (shown >> u & 1u) != 0) {
      rarely();
      int row, column;
      place(first_pixel(*shared.tile, done) + u * cover.step_pixels, row, column);
      for_pad_targets(a, row, column, [&](int from_row, int from_column) { add(arguments.first, from_row, from_column); });
    }
    if (abilities == Abilities::all && mode != Mode::reduce && a.dresidual != nullptr && kept(u)) {
      int row, column;
      place(first_pixel(*shared.tile, done) + u * cover.step_pixels, row, column);
      const Tile& of = *shared.tile;
      const std::int64_t plane = static_cast<std::int64_t>(of.sample) * result_height * result_width;
      Storage* const to = static_cast<Storage*>(a.dresidual) + (plane + row * result_width + column) * channels + channel_of(of);
      st_plain(reinterpret_cast<Vector*>(to), pack<Storage>(values));
    }
    if constexpr (phases) exchange_gradients(values);
  };
  const auto write = [&](Storage* dx, int u, const float(&values)[N]) {
    if (kept(u)) st_plain(reinterpret_cast<Vector*>(dx + static_cast<std::int64_t>(u) * step), pack<Storage>(values));
  };
  // dz waits in shared memory: of 16-bit values it takes twice the registers of what it comes from.
  [[maybe_unused]] Vector* waiting = nullptr;
  if constexpr (mode == Mode::whole) waiting = waiting_room<fours * backward_vectors * block_threads>() + threadIdx.x;
  float sums[2 * C] = {};
  Tile tile = tile_of(a, cover, height * width);
#pragma unroll 1
  for (int done = 0;;) {
    load(tile, done);
    if (done == 0) set_channels<mode>(arguments, tile, shared);
    [[maybe_unused]] Storage* const dx = static_cast<Storage*>(a.dx) + first_vector(*shared.tile, done);
#pragma unroll
    for (int u = 0; u < backward_vectors; ++u) {
      if (done + u >= cover.steps) break;
      const unsigned at = static_cast<unsigned>(cover.lane_of_pixel(thread_again()) * C);
      float gradient[N];
      take_gradient(done, u, gradient);
#pragma unroll
      for (int h = 0; h < fours; ++h) {
        const unsigned channel = at + static_cast<unsigned>(h * C / fours);
        float x[4], dz[4];
        memcpy(dz, &gradient[4 * h], sizeof(dz));
        unpack_four<Storage>(vectors[u], h, x);
        // Else the compiler loads the numbers of all channels at once, for which there are no registers.
        if (mode == Mode::apply && h > 0) __syncwarp();
        OfFour::center(shared, channel, x);
        OfFour::activate(arguments, shared, channel, x, dz);
        if constexpr (mode == Mode::apply) {
          OfFour::apply(a, shared, channel, x, dz);
          memcpy(&gradient[4 * h], dz, sizeof(dz));
        } else {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int c = (4 * h + k) / of_channel;
            sums[2 * c] += dz[k];
            sums[2 * c + 1] += dz[k] * x[k];
          }
        }
        if constexpr (mode == Mode::whole) memcpy(&waiting[(u * fours + h) * block_threads], dz, sizeof(dz));
      }
      if constexpr (mode == Mode::apply) write(dx, u, gradient);
    }
    done += backward_vectors;
    if (mode == Mode::whole || done >= cover.steps) break;
    tile = *shared.tile;
  }
  const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
  if constexpr (mode != Mode::apply) finish_sums<mode>(arguments, sums, cover.lanes, shared, blocks);
  if constexpr (mode == Mode::whole) {
    Storage* const dx = static_cast<Storage*>(a.dx) + first_vector(*shared.tile, 0);
#pragma unroll
    for (int u = 0; u < backward_vectors; ++u) {
      if (u >= cover.steps) break;
      const unsigned at = static_cast<unsigned>(cover.lane_of_pixel(thread_again()) * C);
      float gradient[N];
#pragma unroll
      for (int h = 0; h < fours; ++h) {
        const unsigned channel = at + static_cast<unsigned>(h * C / fours);
        float x[4], dz[4];
        memcpy(dz, &waiting[(u * fours + h) * block_threads], sizeof(dz));
        unpack_four<Storage>(repacked<Storage>(vectors[u], cover.in_order[0]), h, x);
        OfFour::center(shared, channel, x);
        OfFour::apply(a, shared, channel, x, dz);
        memcpy(&gradient[4 * h], dz, sizeof(dz));
      }
      write(dx, u, gradient);
    }
    blocks.wait();
  }
}

// --- Every other map --------------------------------------------------------------------------------------------------

// Value by value, in either layout: a thread keeps its values in shared memory of its own.
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
  const std::int64_t pitch = nchw ? 1 : channels, x_pitch = nchw ? 1 : channels * (a.phases ? 4 : 1);
  const std::int64_t x_begin = nchw || !a.phases ? plane : plane + 3 * c;
  const char* const first = arguments.first.plane(tile.sample, c);
  float* const my_x = x_shared + thread;
  float* const my_dz = dz_shared + thread;
  const auto place = [&](int pixel) {
    if (!a.phases) return x_begin + pixel * x_pitch;
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
  // dz in place of what was loaded of dpadded, and dresidual.
  float sums[2] = {0.0f, 0.0f}, center = 0.0f, scale = 0.0f, shift = 0.0f;
  const auto complete_gradient = [&](int u, int pixel) {
    const int row = cover.by_width.quotient(pixel), column = pixel - row * width;
    float dy[1] = {my_dz[u * block_threads]};
    if (arguments.second.data != nullptr) {
      dy[0] += widen(ld_global(arguments.second.at<Storage>(arguments.second.plane(tile.sample, c), row, column)));
    }
    if (arguments.folds && (arguments.of_rows.shows(row) || arguments.of_columns.shows(column))) {
      rarely();
      for_pad_targets(a, row, column, [&](int from_row, int from_column) {
        dy[0] += widen(ld_global(arguments.first.at<Storage>(first, from_row, from_column)));
      });
    }
    if (mode != Mode::reduce && a.dresidual != nullptr) {
      st_plain(static_cast<Storage*>(a.dresidual) + plane + pixel * pitch, narrowed<Storage>(dy[0]));
    }
    const float deviation = my_x[u * block_threads] - center, z[1] = {deviation * scale + shift};
    activate_gradient<Abilities::all>(arguments, z, dy);
    sums[0] += dy[0];
    sums[1] += dy[0] * deviation;
    my_dz[u * block_threads] = dy[0];
  };
  const auto write = [&](int first_of_round) {
    const bool none = a.statistics == Statistics::none;
    const float slope = inside ? shared.slopes[lane] : 0.0f, constant = inside ? shared.constants[lane] : 0.0f;
#pragma unroll 4
    for (int u = 0, pixel = first_of_round; u < backward_values && pixel < end; ++u, pixel += cover.step_pixels) {
      const float line = none ? 0.0f : slope * (my_x[u * block_threads] - center) + constant;
      st_plain(static_cast<Storage*>(a.dx) + place(pixel), narrowed<Storage>(scale * my_dz[u * block_threads] + line));
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
  if constexpr (mode != Mode::apply) finish_sums<mode>(arguments, sums, cover.lanes, shared, blocks);
  if constexpr (mode == Mode::whole) {
    write(first_pixel);
    blocks.wait();
  }
}

// --- Between reduce and apply, or behind ------------------------------------------------------------------------------

// The sum of every `step`-th of `count` sums from `first` on.
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

// A warp for the line of a plane.
__device__ inline void combine_plane(const BackwardArguments& arguments, std::int64_t plane) {
  const FusedNormBackward& a = arguments.map;
  const int lane = static_cast<int>(threadIdx.x) % 32, count = arguments.tiles_of_group;
  const TileSums sums = sum_of_lanes<32>(sum_of_tiles(arguments.of_groups + plane * count, lane, 32, count));
  if (lane != 0) return;
  const std::int64_t n = plane / a.channels, c = plane - n * a.channels;
  const Group group = saved_group(a, n, c);
  st_plain(arguments.lines + plane, line_of(arguments, group, coefficient(a.weight, n, c, 1.0), sums));
  if (arguments.writes_coefficients) write_gradients(a, n, c, group, sums);
}

// A block for the line of a sample, in MUNIT's layer norm.
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
  if (thread == 0) st_plain(arguments.lines + n, line_of(arguments, saved_group(arguments.map, n, 0), 1.0, sums));
}

// A warp for the gradients of a channel's weight and bias.
__device__ inline void combine_channel(const BackwardArguments& arguments, std::int64_t c) {
  const FusedNormBackward& a = arguments.map;
  const int lane = static_cast<int>(threadIdx.x) % 32, count = arguments.cover.tiles;
  PlaneGradients all = {0.0, 0.0};
#pragma unroll 1
  for (std::int64_t n = 0; n < a.batch; ++n) {
    const TileSums* const tiles = arguments.of_planes + (n * a.channels + c) * count;
    const TileSums sums = sum_of_lanes<32>(sum_of_tiles(tiles, lane, 32, count));
    if (lane != 0) continue;
    const PlaneGradients of_sample = plane_gradients(saved_group(a, n, c), sums);
    all.weight += of_sample.weight;
    all.bias += of_sample.bias;
    if (a.dweight.of_each_sample) write_coefficient_of(a, a.dweight, n, c, of_sample.weight);
    if (a.dbias.of_each_sample) write_coefficient_of(a, a.dbias, n, c, of_sample.bias);
  }
  if (lane != 0) return;
  if (!a.dweight.of_each_sample) write_coefficient_of(a, a.dweight, 0, c, all.weight);
  if (!a.dbias.of_each_sample) write_coefficient_of(a, a.dbias, 0, c, all.bias);
}

// From the sums of tiles to the lines of groups, in the first `group_blocks` blocks, and to the gradients of weight and bias.
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
