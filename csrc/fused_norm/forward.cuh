// The forward kernels of fused_norm; fused_norm.h says what they compute. All of a tile's values are loaded before the
// first is used and stay in registers; the thread that has a pixel writes it to the pad too.
#pragma once

#include <type_traits>

#include "fused_norm/tile.cuh"

namespace fastmunit::cuda::norm {

struct ForwardArguments {
  FusedNorm map;
  Cover cover;
  bool split;              // statistics come from two launches before apply
  TileMoments* partials;   // of each group's tiles
  PlaneAffine* affines;  // of each plane, from combine to apply
  int tiles_of_group;
};

// Where the numbers of a block lie in shared memory.
struct Shared {
  float *scratch, *sums;     // of lane_sums
  TileMoments* moments;      // of the tile, for each channel
  Doubles *groups, *coefficients;  // mean and rstd, weight and bias of each channel
  PlaneAffine* affines;
  Tile* tile;  // kept here, not in registers, from loads to stores
};
#define FASTMUNIT_FORWARD_SHARED(name)                                            \
  SMEM_ARRAY(float, name##_scratch, block_warps * most_lane_sums);                \
  SMEM_ARRAY(float, name##_sums, most_lane_sums);                                 \
  SMEM_ARRAY(TileMoments, name##_moments, most_channels);                         \
  SMEM_ARRAY(Doubles, name##_groups, most_channels);                              \
  SMEM_ARRAY(Doubles, name##_coefficients, most_channels);                        \
  SMEM_ARRAY(PlaneAffine, name##_affines, most_channels);                         \
  SMEM_ARRAY(Tile, name##_tile, 1);                                               \
  const Shared name = {name##_scratch,      name##_sums,    name##_moments, name##_groups, \
                       name##_coefficients, name##_affines, name##_tile}

__device__ inline PlaneAffine plane_affine(const Group& group, double weight, double bias) {
  const Affine<float> affine = affine_of<float>(group, weight, bias);
  return {affine.center, affine.scale, affine.shift};
}

__device__ inline void write_group(const FusedNorm& a, std::int64_t group, const Group& of) {
  st_plain(a.mean + group, of.mean);
  st_plain(a.rstd + group, of.rstd);
}

// Mode reduce: keeps the moments of the tile for combine, channel by channel, or in MUNIT's layer norm the one of all.
__device__ inline void keep_moments(const ForwardArguments& arguments, const Tile& tile, const TileMoments* moments) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x), groups = a.statistics == Statistics::layer ? 1 : tile.channels;
  if (thread >= groups) return;
  const std::int64_t group = group_of_tile(a, tile) + thread;
  st_plain(arguments.partials + group * arguments.tiles_of_group + number_in_group(a, arguments.cover, tile), moments[thread]);
}

// weight and bias of the tile's channels, while its values are on their way.
__device__ inline void load_coefficients(const ForwardArguments& arguments, const Tile& tile, const Shared& shared) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  if (arguments.split || thread >= tile.channels) return;
  const std::int64_t channel = tile.channel + thread;
  shared.coefficients[thread] = {{coefficient(a.weight, tile.sample, channel, 1.0), coefficient(a.bias, tile.sample, channel, 0.0)}};
}

// Mode whole: the groups of the tile's channels from the moments of the tiles of a cluster. Blocks::wait has to follow.
__device__ inline void set_groups(const ForwardArguments& arguments, const Tile& tile, const Shared& shared,
                                  const Blocks& blocks) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x), channel = thread / largest_cluster, rank = thread % largest_cluster;
  const bool has_group = channel < (a.statistics == Statistics::layer ? 1 : tile.channels);
  blocks.sync();
  TileMoments mine = {0.0f, 0.0f, 0.0f, 0.0f};
  if (has_group && rank < blocks.count) mine = blocks.of(shared.moments + channel, rank);
  mine = union_of_lanes<largest_cluster>(mine);
  blocks.arrive();
  if (has_group && rank == 0) {
    const Group group = group_of(a, arguments.cover, mine);
    if (number_in_group(a, arguments.cover, tile) == 0) write_group(a, group_of_tile(a, tile) + channel, group);
    shared.groups[channel] = {{group.mean, group.rstd}};
  }
  __syncthreads();
}

// The affines of the tile's channels: combine's, or from their groups and coefficients.
__device__ inline void set_affines(const ForwardArguments& arguments, const Tile& tile, const Shared& shared) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  if (arguments.split) wait_for_previous_launch();
  if (thread < tile.channels) {
    if (arguments.split) {
      shared.affines[thread] = ld_global(arguments.affines + static_cast<std::int64_t>(tile.sample) * a.channels + tile.channel + thread);
    } else {
      Group group;
      if (a.statistics != Statistics::none) {
        const Doubles of = shared.groups[a.statistics == Statistics::layer ? 0 : thread];
        group = {of.values[0], of.values[1]};
      }
      const Doubles coefficients = shared.coefficients[thread];
      shared.affines[thread] = plane_affine(group, coefficients.values[0], coefficients.values[1]);
    }
  }
  __syncthreads();
}

// Between moments and result. Returns whether the block is done.
template <Mode mode>
__device__ inline bool finish_statistics(const ForwardArguments& arguments, const Tile& tile, const Shared& shared,
                                         const Blocks& blocks) {
  if constexpr (mode == Mode::reduce) {
    __syncthreads();
    keep_moments(arguments, *shared.tile, shared.moments);
    return true;
  } else if constexpr (mode == Mode::whole) {
    set_groups(arguments, *shared.tile, shared, blocks);
    set_affines(arguments, *shared.tile, shared);
    return false;
  } else {
    set_affines(arguments, tile, shared);
    return false;
  }
}

// Moments of one group from sums of each thread: calls add(shift, deviations, squares) once the shift is known.
template <class Add>
__device__ inline void set_moments_of_block(float sum, float count, const Shared& shared, Add add) {
  float sums[] = {sum};
  lane_sums(sums, 1, shared.scratch, shared.sums);
  const float center = shared.sums[0] * __fdividef(1.0f, count);
  float both[2] = {0.0f, 0.0f};
  add(center, both[0], both[1]);
  lane_sums(both, 1, shared.scratch, shared.sums);
  if (threadIdx.x == 0) *shared.moments = moments_about(center, shared.sums[0], shared.sums[1], count);
}

// --- NCHW, rows of 32 * words columns ---------------------------------------------------------------------------------

constexpr int waiting_values = 8;

// A lane has columns lane, lane + 32, ... of rows block_warps apart, so that both loads and stores are coalesced wherever the
// rows of the padded map begin.
template <class Storage, int words, Mode mode>
__global__ void __launch_bounds__(block_threads, resident_blocks(words < 4 ? 3 : 4)) forward_rows(const __grid_constant__ ForwardArguments arguments) {
  constexpr int rows = tile_values / words, width = 32 * words;
  FASTMUNIT_FORWARD_SHARED(shared);
  if constexpr (mode == Mode::reduce) start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const int height = static_cast<int>(a.height);
  const Tile tile = tile_of(a, arguments.cover, height * width);
  if (threadIdx.x == 0) *shared.tile = tile;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = tile.index * arguments.cover.steps * block_warps + warp, left = tile.end - tile.first - warp * width;
  const std::int64_t plane = static_cast<std::int64_t>(tile.sample) * a.channels + tile.channel;
  const Storage* const x = static_cast<const Storage*>(a.x) + plane * height * width + first_row * width + lane;
  float values[rows][words];
#pragma unroll
  for (int r = 0; r < rows; ++r) {
#pragma unroll
    for (int k = 0; k < words; ++k) {
      values[r][k] = left > r * block_warps * width ? widen(ld_global(x + r * block_warps * width + 32 * k)) : 0.0f;
    }
  }
  if constexpr (mode != Mode::reduce) load_coefficients(arguments, tile, shared);
  if constexpr (mode != Mode::apply) {
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int k = 0; k < words; ++k) sum += values[r][k];
    }
    set_moments_of_block(sum, static_cast<float>(tile.end - tile.first), shared,
                         [&](float center, float& deviations, float& squares) {
#pragma unroll
                           for (int r = 0; r < rows; ++r) {
                             if (left <= r * block_warps * width) continue;
#pragma unroll
                             for (int k = 0; k < words; ++k) {
                               const float deviation = values[r][k] - center;
                               deviations += deviation;
                               squares += deviation * deviation;
                             }
                           }
                         });
  }
  const Blocks blocks(mode == Mode::whole ? arguments.cover.cluster : 1);
  if constexpr (mode == Mode::reduce) {
    finish_statistics<mode>(arguments, tile, shared, blocks);
  } else {
    // Statistics and rows take registers: the last values wait in shared memory for their row.
    SMEM_ARRAY(float, waiting, waiting_values * block_threads);
    const auto last = [&](int k) -> float& { return values[(tile_values - 1 - k) / words][(tile_values - 1 - k) % words]; };
#pragma unroll
    for (int k = 0; k < waiting_values; ++k) waiting[k * block_threads + static_cast<int>(threadIdx.x)] = last(k);
    finish_statistics<mode>(arguments, tile, shared, blocks);
    const PlaneAffine affine = shared.affines[0];
    const Tile kept = *shared.tile;
    const int row_0 = kept.index * arguments.cover.steps * block_warps + warp, rows_left = kept.end - kept.first - warp * width;
    const std::int64_t plane_kept = static_cast<std::int64_t>(kept.sample) * a.channels + kept.channel;
    const int padded_width = width + 2 * a.pad;
    Storage* const padded =
        static_cast<Storage*>(a.padded) + (plane_kept * (height + 2 * a.pad) + a.pad) * padded_width + a.pad + lane;
    const Storage* const residual =
        a.residual.data == nullptr
            ? nullptr
            : static_cast<const Storage*>(a.residual.data) + kept.sample * a.residual.sample_stride +
                  kept.channel * a.residual.channel_stride + row_0 * a.residual.row_stride + lane;
    // Lanes 1 to pad write the pad's columns on the left, the last ones but one those on the right: what they hold themselves
    // where the pad reflects, else what the outermost lane holds.
    const bool reflects = a.pad_mode == PadMode::reflect, zero = a.pad_mode == PadMode::zero;
    const bool writes_left = lane >= 1 && lane <= a.pad, writes_right = lane <= 30 && lane >= 31 - a.pad;
    const Reach reach(a, height);
    const auto write_row = [&](Storage* to, const float(&row)[words], float left_value, float right_value) {
#pragma unroll
      for (int k = 0; k < words; ++k) st_plain(to + 32 * k, narrowed<Storage>(row[k]));
      if (writes_left) st_plain(to - 2 * lane, narrowed<Storage>(left_value));
      if (writes_right) st_plain(to + 32 * (words - 1) + 2 * (31 - lane), narrowed<Storage>(right_value));
    };
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (rows_left <= r * block_warps * width) break;
      if (r == (tile_values - waiting_values) / words) {
#pragma unroll
        for (int k = 0; k < waiting_values; ++k) last(k) = waiting[k * block_threads + static_cast<int>(threadIdx.x)];
      }
      float(&row)[words] = values[r];
#pragma unroll
      for (int k = 0; k < words; ++k) row[k] = (row[k] - affine.center) * affine.scale + affine.shift;
      activate(a, row);
      if (residual != nullptr) {
#pragma unroll
        for (int k = 0; k < words; ++k) {
          row[k] += widen(ld_global(residual + r * block_warps * a.residual.row_stride + 32 * k));
        }
      }
      float left_value = row[0], right_value = row[words - 1];
      if (!reflects && a.pad > 0) {
        left_value = zero ? 0.0f : __shfl_sync(0xffffffffu, left_value, 0);
        right_value = zero ? 0.0f : __shfl_sync(0xffffffffu, right_value, 31);
      }
      const int y = row_0 + r * block_warps;
      write_row(padded + static_cast<std::int64_t>(y) * padded_width, row, left_value, right_value);
      if (reach.shows(y)) {
        const PadTargets targets(y, height, a.pad, zero ? PadMode::replicate : a.pad_mode);
        if (zero) {
#pragma unroll
          for (int k = 0; k < words; ++k) row[k] = 0.0f;
        }
#pragma unroll 1
        for (int i = 1; i < targets.count(); ++i) {
          write_row(padded + static_cast<std::int64_t>(targets[i]) * padded_width, row, left_value, right_value);
        }
      }
    }
    blocks.wait();
  }
}

// --- channels_last, 16 bytes of channels per thread -------------------------------------------------------------------

// Calls visit(u, k, value) with each value of each vector.
template <class Storage, class Packed, class Visit>
__device__ inline void for_values(Packed packed, Visit visit) {
#pragma unroll
  for (int u = 0; u < tile_vectors; ++u) {
    float values[vector_values<Storage>];
    unpack<Storage>(packed(u), values);
#pragma unroll
    for (int k = 0; k < vector_values<Storage>; ++k) visit(u, k, values[k]);
  }
}

// The moments of the tile: of each channel, or in MUNIT's layer norm of all. `kept` says which vectors are in the tile; the others
// are 0.
template <class Storage, bool phases, class Kept>
__device__ inline void set_moments(const ForwardArguments& arguments, const Tile& tile, const Vector (&vectors)[tile_vectors],
                                   Kept kept, const Shared& shared) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, phases>, of_channel = N / C;
  const int thread = static_cast<int>(threadIdx.x), lanes = arguments.cover.lanes;
  const float count = static_cast<float>((tile.end - tile.first) * of_channel);
  const auto again = [&](int u) { return repacked<Storage>(vectors[u], arguments.cover.in_order[0]); };
  float sums[C] = {};
  for_values<Storage>([&](int u) { return vectors[u]; }, [&](int, int k, float value) { sums[k / of_channel] += value; });
  if (arguments.map.statistics == Statistics::layer) {
    float sum = sums[0];
#pragma unroll
    for (int c = 1; c < C; ++c) sum += sums[c];
    const auto add = [&](float center, float& deviations, float& squares) {
      for_values<Storage>(again, [&](int u, int, float value) {
        const float deviation = kept(u) ? value - center : 0.0f;
        deviations += deviation;
        squares += deviation * deviation;
      });
    };
    set_moments_of_block(sum, count * static_cast<float>(tile.channels), shared, add);
    return;
  }
  lane_sums(sums, lanes, shared.scratch, shared.sums);
  if (thread < lanes * C) shared.moments[thread].center = shared.sums[thread] * __fdividef(1.0f, count);
  // Channels by fours: deviations and squares of all of them would take too many registers.
  constexpr int some = C < 4 ? C : 4;
  __syncthreads();
#pragma unroll
  for (int begin = 0; begin < C; begin += some) {
    float both[2 * some] = {}, center[some];
#pragma unroll
    for (int c = 0; c < some; ++c) center[c] = shared.moments[thread % lanes * C + begin + c].center;
    for_values<Storage>(again, [&](int u, int k, float value) {
      const int c = k / of_channel - begin;
      if (c < 0 || c >= some) return;
      const float deviation = kept(u) ? value - center[c] : 0.0f;
      both[2 * c] += deviation;
      both[2 * c + 1] += deviation * deviation;
    });
    lane_sums(both, lanes, shared.scratch, shared.sums);
    const int lane = thread / C, c = thread % C - begin;
    if (thread < lanes * C && c >= 0 && c < some) {
      const int at = 2 * (lane * some + c);
      shared.moments[thread] =
          moments_about(shared.moments[thread].center, shared.sums[at], shared.sums[at + 1], count);
    }
  }
}

// The result of 4 pixels and a quarter of the channels, from 16 bytes of x with phases: one pixel of 4 lanes' channels, that of
// phase threadIdx.x % 4.
template <class Storage>
__device__ inline Vector exchange_phases(const float (&values)[vector_values<Storage>]) {
  constexpr int C = vector_values<Storage> / 4;
  Vector vector;
#pragma unroll
  for (int phase = 0; phase < 4; ++phase) {
    if constexpr (C == 1) {
      memcpy(&vector.words[phase], &values[phase], sizeof(float));
    } else {
      const auto pair = narrowed_pair(values[phase], values[phase + 4], Storage{});
      memcpy(&vector.words[phase], &pair, sizeof(unsigned));
    }
  }
  transpose(vector.words);
  return vector;
}

constexpr int shown_vectors = tile_vectors / 2;

// Blocks of a multiprocessor. On GPUs from compute capability 10.0 on, float16 takes more registers to unpack.
template <class Storage>
constexpr int pixel_blocks = resident_blocks(std::is_same_v<Storage, __half> ? 2 : 3);

template <class Storage, bool phases, Mode mode>
__global__ void __launch_bounds__(block_threads, pixel_blocks<Storage>) forward_pixels(const __grid_constant__ ForwardArguments arguments) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, phases>, of_channel = N / C;
  FASTMUNIT_FORWARD_SHARED(shared);
  if constexpr (mode == Mode::reduce) start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int halves = phases ? 1 : 0, height = static_cast<int>(a.height) >> halves, width = static_cast<int>(a.width) >> halves;
  const Tile tile = tile_of(a, cover, height * width);
  if (threadIdx.x == 0) *shared.tile = tile;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % cover.lanes;
  const bool inside = lane * C < tile.channels;
  const int first = tile.first + thread / cover.lanes, channels = static_cast<int>(a.channels);
  const auto kept = [&](int u) { return inside && first + u * cover.step_pixels < tile.end; };
  const Storage* const x = static_cast<const Storage*>(a.x) +
                           static_cast<std::int64_t>(tile.sample) * (height * width) * (channels * of_channel) +
                           (tile.channel + lane * C) * of_channel;
  Vector vectors[tile_vectors];
#pragma unroll
  for (int u = 0; u < tile_vectors; ++u) {
    vectors[u] = {};
    if (kept(u)) {
      const std::int64_t at = static_cast<std::int64_t>(first + u * cover.step_pixels) * (channels * of_channel);
      vectors[u] = ld_global(reinterpret_cast<const Vector*>(x + at));
    }
  }
  if constexpr (mode == Mode::reduce) {
    __syncthreads();  // else the compiler adds up the first values before it loads the others
  } else {
    load_coefficients(arguments, tile, shared);
  }
  if constexpr (mode != Mode::apply) set_moments<Storage, phases>(arguments, tile, vectors, kept, shared);
  const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
  if constexpr (mode == Mode::reduce) {
    finish_statistics<mode>(arguments, tile, shared, blocks);
  } else {
    SMEM_ARRAY(Vector, shown_results, shown_vectors * block_threads);
    // The statistics of the group take registers: half of the vectors wait in shared memory.
    if constexpr (mode == Mode::whole) {
#pragma unroll
      for (int u = 0; u < shown_vectors; ++u) shown_results[u * block_threads + thread] = vectors[shown_vectors + u];
    }
    finish_statistics<mode>(arguments, tile, shared, blocks);
    if constexpr (mode == Mode::whole) {
#pragma unroll
      for (int u = 0; u < shown_vectors; ++u) vectors[shown_vectors + u] = shown_results[u * block_threads + thread];
    }
    const Tile again = *shared.tile;
    const int first_pixel = again.first + thread / cover.lanes;
    const auto stays = [&](int u) { return lane * C < again.channels && first_pixel + u * cover.step_pixels < again.end; };
    const int result_height = static_cast<int>(a.height), result_width = static_cast<int>(a.width);
    const int padded_width = result_width + 2 * a.pad, phase = phases ? thread % 4 : 0;
    const int channel = again.channel + (phases ? lane / 4 * N : lane * C);
    Storage* const padded =
        static_cast<Storage*>(a.padded) +
        ((static_cast<std::int64_t>(again.sample) * (result_height + 2 * a.pad) + a.pad) * padded_width + a.pad) * channels + channel;
    const Storage* const residual =
        a.residual.data == nullptr ? nullptr
                                   : static_cast<const Storage*>(a.residual.data) + again.sample * a.residual.sample_stride + channel;
    const Reach of_rows(a, result_height), of_columns(a, result_width);
    const auto at = [&](int row, int column) {
      return reinterpret_cast<Vector*>(padded + static_cast<std::int64_t>(row * padded_width + column) * channels);
    };
    const auto place = [&](int u, int& row, int& column) {
      const int pixel = first_pixel + u * cover.step_pixels;
      row = cover.by_width.quotient(phases ? 2 * pixel : pixel);
      column = pixel - row * width;
      if constexpr (phases) {
        row = 2 * row + phase / 2;
        column = 2 * column + phase % 2;
      }
    };
    // What the pad shows is kept in shared memory of each thread, for a loop of its own: that code is long and seldom runs.
#pragma unroll
    for (int some = 0; some < tile_vectors; some += shown_vectors) {
      if (some >= cover.steps) break;
      unsigned shown = 0;
#pragma unroll
      for (int u = some; u < some + shown_vectors; ++u) {
        int row, column;
        place(u, row, column);
        float values[N];
        unpack<Storage>(repacked<Storage>(vectors[u], cover.in_order[1]), values);
        // From shared memory for each vector: three registers per channel are too many to keep.
        unsigned at_affine = static_cast<unsigned>(lane * C);
        forget(at_affine);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const PlaneAffine affine = shared.affines[at_affine + static_cast<unsigned>(k / of_channel)];
          values[k] = (values[k] - affine.center) * affine.scale + affine.shift;
        }
        activate(a, values);
        if constexpr (!phases) {
          if (residual != nullptr && stays(u)) {
            float added[N];
            const std::int64_t from = row * a.residual.row_stride + column * a.residual.column_stride;
            unpack<Storage>(ld_global(reinterpret_cast<const Vector*>(residual + from)), added);
#pragma unroll
            for (int k = 0; k < N; ++k) values[k] += added[k];
          }
        }
        const Vector result = phases ? exchange_phases<Storage>(values) : pack<Storage>(values);
        if (!stays(u)) continue;
        st_plain(at(row, column), result);
        if (of_rows.shows(row) || of_columns.shows(column)) {
          shown_results[(u - some) * block_threads + thread] = result;
          shown |= 1u << u;
        }
      }
#pragma unroll 1
      for (; shown != 0; shown &= shown - 1) {
        const int u = __ffs(static_cast<int>(shown)) - 1;
        int row, column;
        place(u, row, column);
        const Vector result = a.pad_mode == PadMode::zero ? Vector{} : shown_results[(u - some) * block_threads + thread];
        for_pad_targets(a, row, column, [&](int to_row, int to_column) { st_plain(at(to_row, to_column), result); });
      }
    }
    blocks.wait();
  }
}

// --- Every other map --------------------------------------------------------------------------------------------------

// Value by value, in either layout: a thread keeps its values in shared memory of its own.
template <class Storage, Mode mode>
__global__ void __launch_bounds__(block_threads, resident_blocks(3)) forward_any(const __grid_constant__ ForwardArguments arguments) {
  FASTMUNIT_FORWARD_SHARED(shared);
  SMEM_ARRAY(float, tile_shared, block_threads * tile_values);
  if constexpr (mode == Mode::reduce) start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int height = static_cast<int>(a.height), width = static_cast<int>(a.width);
  const Tile tile = tile_of(a, cover, height * width);
  if (threadIdx.x == 0) *shared.tile = tile;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % cover.lanes, first = tile.first + thread / cover.lanes;
  const bool inside = lane < tile.channels, nchw = a.layout == Layout::nchw;
  const int end = inside ? tile.end : tile.first;
  const std::int64_t pixels = static_cast<std::int64_t>(height) * width, channels = a.channels, c = tile.channel + lane;
  const std::int64_t pixel_pitch = nchw ? 1 : channels * (a.phases ? 4 : 1);
  const Storage* const x = static_cast<const Storage*>(a.x) + tile.sample * channels * pixels +
                           (nchw ? c * pixels : c * (a.phases ? 4 : 1));
  float* const mine = tile_shared + thread;
  const auto place = [&](int pixel) {
    if (!a.phases) return pixel * pixel_pitch;
    const int row = cover.by_width.quotient(pixel), column = pixel - row * width, phase = 2 * (row & 1) + (column & 1);
    return ((row >> 1) * (width >> 1) + (column >> 1)) * pixel_pitch + (nchw ? phase * (pixels / 4) : phase);
  };
  const auto for_values = [&](auto visit) {
#pragma unroll 4
    for (int u = 0, pixel = first; pixel < end; ++u, pixel += cover.step_pixels) visit(mine[u * block_threads], pixel);
  };
  float sums[1] = {0.0f};
#pragma unroll 8
  for (int u = 0; u < cover.steps; ++u) {
    const int pixel = first + u * cover.step_pixels;
    if (pixel < end) mine[u * block_threads] = widen(ld_global(x + place(pixel)));
  }
  if constexpr (mode != Mode::reduce) load_coefficients(arguments, tile, shared);
  if constexpr (mode != Mode::apply) {
    float count = static_cast<float>(tile.end - tile.first);
    for_values([&](float value, int) { sums[0] += value; });
    const auto add = [&](float center, float& deviations, float& squares) {
      for_values([&](float value, int) {
        const float deviation = value - center;
        deviations += deviation;
        squares += deviation * deviation;
      });
    };
    if (a.statistics == Statistics::layer) {
      set_moments_of_block(sums[0], count * static_cast<float>(tile.channels), shared, add);
    } else {
      lane_sums(sums, cover.lanes, shared.scratch, shared.sums);
      const float center = shared.sums[lane] * __fdividef(1.0f, count);
      float both[2] = {0.0f, 0.0f};
      add(center, both[0], both[1]);
      lane_sums(both, cover.lanes, shared.scratch, shared.sums);
      if (thread < cover.lanes) {
        shared.moments[thread] = moments_about(center, shared.sums[2 * thread], shared.sums[2 * thread + 1], count);
      }
    }
  }
  const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
  if (finish_statistics<mode>(arguments, tile, shared, blocks)) return;
  if constexpr (mode != Mode::reduce) {
    const PlaneAffine affine = inside ? shared.affines[lane] : PlaneAffine{0.0f, 1.0f, 0.0f};
    const std::int64_t padded_width = width + 2 * a.pad, padded_pixels = (height + 2 * a.pad) * padded_width;
    const std::int64_t pitch = nchw ? 1 : channels;
    Storage* const padded = static_cast<Storage*>(a.padded) + tile.sample * channels * padded_pixels +
                            (nchw ? c * padded_pixels : c) + (a.pad * padded_width + a.pad) * pitch;
    const Storage* const residual =
        a.residual.data == nullptr ? nullptr
                                   : static_cast<const Storage*>(a.residual.data) + tile.sample * a.residual.sample_stride +
                                         c * a.residual.channel_stride;
    const Reach of_rows(a, height), of_columns(a, width);
    for_values([&](float value, int pixel) {
      const int row = cover.by_width.quotient(pixel), column = pixel - row * width;
      float z[1] = {(value - affine.center) * affine.scale + affine.shift};
      activate(a, z);
      if (residual != nullptr) {
        z[0] += widen(ld_global(residual + row * a.residual.row_stride + column * a.residual.column_stride));
      }
      const Storage result = narrowed<Storage>(z[0]);
      st_plain(padded + (row * padded_width + column) * pitch, result);
      if (of_rows.shows(row) || of_columns.shows(column)) {
        const Storage shown = a.pad_mode == PadMode::zero ? narrowed<Storage>(0.0f) : result;
        for_pad_targets(a, row, column, [&](int to_row, int to_column) {
          st_plain(padded + (to_row * padded_width + to_column) * pitch, shown);
        });
      }
    });
    blocks.wait();
  }
}

// --- Between reduce and apply -----------------------------------------------------------------------------------------

// The moments of every `step`-th tile of a group from `first` on. Sums of differences from the first one's mean keep their
// digits: where that is far from the others, the squares are as large.
__device__ inline TileMoments union_of_tiles(const TileMoments* tiles, int first, int step, int count) {
  if (first >= count) return {0.0f, 0.0f, 0.0f, 0.0f};
  const TileMoments begin = ld_global(tiles + first);
  float total = begin.count, differences = begin.count * begin.offset;
  float squares = begin.squares + begin.count * begin.offset * begin.offset;
#pragma unroll 4
  for (int i = first + step; i < count; i += step) {
    const TileMoments tile = ld_global(tiles + i);
    const float difference = tile.center - begin.center + tile.offset;
    total += tile.count;
    differences += tile.count * difference;
    squares += tile.squares + tile.count * difference * difference;
  }
  return moments_about(begin.center, differences, squares, total);
}

__device__ inline PlaneAffine affine_of_channel(const FusedNorm& a, const Group& group, std::int64_t n, std::int64_t c) {
  return plane_affine(group, coefficient(a.weight, n, c, 1.0), coefficient(a.bias, n, c, 0.0));
}

// The statistics of groups, and the affines of their channels, from the moments of tiles: a warp for each plane, or, in MUNIT's
// layer norm, a block for each sample.
__global__ void __launch_bounds__(block_threads) combine_moments(const __grid_constant__ ForwardArguments arguments) {
  SMEM_ARRAY(TileMoments, of_warps, block_warps);
  SMEM_ARRAY(Doubles, sample, 1);
  start_dependent_launch();
  wait_for_previous_launch();
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, count = arguments.tiles_of_group;
  if (a.statistics != Statistics::layer) {
    const std::int64_t group = static_cast<std::int64_t>(blockIdx.x) * block_warps + warp;
    if (group >= a.batch * a.channels) return;
    const TileMoments all = union_of_lanes<32>(union_of_tiles(arguments.partials + group * count, lane, 32, count));
    if (lane != 0) return;
    const Group of = group_of(a, arguments.cover, all);
    write_group(a, group, of);
    const std::int64_t n = group / a.channels;
    st_plain(arguments.affines + group, affine_of_channel(a, of, n, group - n * a.channels));
    return;
  }
  const std::int64_t n = blockIdx.x;
  const TileMoments of_warp = union_of_lanes<32>(union_of_tiles(arguments.partials + n * count, thread, block_threads, count));
  if (lane == 0) of_warps[warp] = of_warp;
  __syncthreads();
  if (warp == 0) {
    const TileMoments none = {0.0f, 0.0f, 0.0f, 0.0f};
    const TileMoments all = union_of_lanes<block_warps>(lane < block_warps ? of_warps[lane] : none);
    if (lane == 0) {
      const Group of = group_of(a, arguments.cover, all);
      write_group(a, n, of);
      *sample = {{of.mean, of.rstd}};
    }
  }
  __syncthreads();
  const Group of = {sample->values[0], sample->values[1]};
  for (std::int64_t c = thread; c < a.channels; c += block_threads) {
    st_plain(arguments.affines + n * a.channels + c, affine_of_channel(a, of, n, c));
  }
}

}  // namespace fastmunit::cuda::norm
