// The forward kernels of fused_norm; fused_norm.h says what they compute. All of a tile's values are loaded before the
// first is used; the thread that has a pixel writes it to the pad too.
//
// Kernels `rows` and `pixels` take a warp's moments about a pivot, the mean of the first quarter of its values: however these are
// distributed, that is within two standard deviations of the mean of all, so no digits are lost, and it takes a pass less.
#pragma once

#include <type_traits>

#include "fused_norm/tile.cuh"

namespace fastmunit::cuda::norm {

// As Reach, of which it keeps what takes the fewest instructions.
struct Border {
  unsigned offset, size;

  explicit Border(const Reach& reach) : offset(0u - static_cast<unsigned>(reach.first)), size(static_cast<unsigned>(reach.size)) {}
  __device__ bool shows(int at) const { return static_cast<unsigned>(at) + offset >= size; }
};

struct ForwardArguments {
  FusedNorm map;
  Cover cover;
  bool split;             // statistics come from two launches before apply
  TileMoments* partials;  // of each group's tiles
  PlaneAffine* affines;   // of each plane, from combine to apply
  int tiles_of_group;
  Border rows, columns;
  std::int64_t sample_bytes, padded_bytes;  // of a sample, in x and in the result
  float floor = 0.0f, slope = 1.0f;  // of activated()
  int width_bits = 0;                // the width of kernel `rows` is 2 to the power of this
};

// Of `count` values: the sums of their deviations from a pivot, and of the squares of these.
struct alignas(16) PivotSums {
  float pivot, deviations, squares, count;
};

// Where the numbers of a block lie in shared memory.
struct Shared {
  PivotSums* of_warps;   // of each channel, for all warps
  TileMoments* moments;  // of the tile, for each channel
  Doubles* coefficients;  // weight and bias of each channel
  PlaneAffine* affines;
};
#define FASTMUNIT_FORWARD_SHARED(name)                         \
  SMEM_ARRAY(PivotSums, name##_of_warps, block_threads);       \
  SMEM_ARRAY(TileMoments, name##_moments, most_channels);      \
  SMEM_ARRAY(Doubles, name##_coefficients, most_channels);     \
  SMEM_ARRAY(PlaneAffine, name##_affines, most_channels);      \
  const Shared name = {name##_of_warps, name##_moments, name##_coefficients, name##_affines}

// The larger one; NaN stays NaN.
__device__ inline float raised_to(float floor, float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(value), "f"(floor));
  return larger;
#else
  return value <= floor ? floor : value;
#endif
}

// The activation of z without a branch: floor is 0 for relu, else -inf, and slope is 1 but for leaky relu, which kernels without
// `extra` do not know.
template <bool extra>
__device__ inline float activated(const ForwardArguments& arguments, float z) {
  z = raised_to(arguments.floor, z);
  if constexpr (extra) {
    if (!(z > 0.0f)) z *= arguments.slope;
  }
  return z;
}

__device__ inline PlaneAffine plane_affine(const Group& group, double weight, double bias) {
  const Affine<float> affine = affine_of<float>(group, weight, bias);
  return {affine.center, affine.scale, affine.shift};
}

__device__ inline void write_group(const FusedNorm& a, std::int64_t group, const Group& of) {
  st_plain(a.mean + group, of.mean);
  st_plain(a.rstd + group, of.rstd);
}

// --- From moments to affines ------------------------------------------------------------------------------------------

// The moments of the union of `count` sets, of which at(i) gives those of one and the first is not empty. Computed by a lane for
// itself: where a warp has a channel for each lane, that takes fewer instructions than to share the sets of each.
template <class At>
__device__ inline TileMoments union_of_sets(int count, At at) {
  const float center = at(0).center;
  float values = 0.0f, differences = 0.0f, squares = 0.0f;
#pragma unroll 2
  for (int i = 0; i < count; ++i) {
    const TileMoments set = at(i);
    if (set.count > 0.0f) {
      values += set.count;
      differences += set.count * (set.center - center + set.offset);
    }
  }
  const float offset = __fdividef(differences, values);
#pragma unroll 2
  for (int i = 0; i < count; ++i) {
    const TileMoments set = at(i);
    const float deviation = set.center - center + set.offset - offset;
    if (set.count > 0.0f) squares += set.squares + set.count * deviation * deviation;
  }
  return {center, offset, squares, values};
}

// Sets shared.moments, of each channel or, in MUNIT's layer norm, the one of all, from shared.of_warps: each of `sets` sets has sums
// of `channels` channels, of which the last tile of a map may have fewer. One warp's work: only that one sees the result.
__device__ inline void unite_warps(const ForwardArguments& arguments, const Tile& tile, int sets, int channels,
                                   const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (lane >= 32) return;
  rarely();
  TileMoments mine = {0.0f, 0.0f, 0.0f, 0.0f};
  if (lane < tile.channels) {
    mine = union_of_sets(sets, [&](int i) {
      const PivotSums sums = shared.of_warps[i * channels + lane];
      return sums.count > 0.0f ? moments_about(sums.pivot, sums.deviations, sums.squares, sums.count) : TileMoments{};
    });
  }
  if (arguments.map.statistics == Statistics::layer && channels > 1) mine = union_of_lanes<32>(mine);
  if (lane < tile.channels) shared.moments[lane] = mine;
}

// Mode reduce: keeps the moments of the tile for combine, channel by channel, or in MUNIT's layer norm the one of all.
__device__ inline void keep_moments(const ForwardArguments& arguments, const Tile& tile, const TileMoments* moments) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x), groups = a.statistics == Statistics::layer ? 1 : tile.channels;
  if (thread >= groups) return;
  rarely();
  const std::int64_t group = group_of_tile(a, tile) + thread;
  st_plain(arguments.partials + group * arguments.tiles_of_group + number_in_group(a, arguments.cover, tile), moments[thread]);
}

// weight and bias of the tile's channels, while its values are on their way.
__device__ inline void load_coefficients(const ForwardArguments& arguments, const Tile& tile, const Shared& shared) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  if (arguments.split || thread >= tile.channels) return;
  rarely();
  const std::int64_t channel = tile.channel + thread;
  shared.coefficients[thread] = {{coefficient(a.weight, tile.sample, channel, 1.0), coefficient(a.bias, tile.sample, channel, 0.0)}};
}

// Mode whole: puts the moments of each group's tiles, of the blocks of a cluster, together in this block. Blocks::wait has to
// follow.
template <bool one_channel>
__device__ inline void gather_moments(const ForwardArguments& arguments, const Tile& tile, const Shared& shared,
                                      const Blocks& blocks, TileMoments* gathered) {
  const int groups = one_channel || arguments.map.statistics == Statistics::layer ? 1 : tile.channels;
  const int thread = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.x / largest_cluster);
  const int rank = static_cast<int>(threadIdx.x % largest_cluster);
  blocks.sync();
  if (group < groups && rank < blocks.count) {
    if constexpr (one_channel) rarely();
    gathered[thread] = blocks.of(shared.moments + group, rank);
  }
  blocks.arrive();
  __syncthreads();
}

// The affines of the tile's channels: combine's, or from their groups and coefficients. One warp's work, that which has set
// shared.moments. `gathered` has room for the moments of a cluster's blocks, of each channel.
template <Mode mode, bool one_channel>
__device__ inline void set_affines(const ForwardArguments& arguments, const Tile& tile, const Shared& shared,
                                   [[maybe_unused]] const Blocks& blocks, [[maybe_unused]] TileMoments* gathered) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (mode == Mode::whole) {
    if (blocks.count > 1) gather_moments<one_channel>(arguments, tile, shared, blocks, gathered);
  }
  if (mode == Mode::apply && arguments.split) wait_for_previous_launch();
  if (thread < tile.channels) {
    rarely();
    if (mode == Mode::apply && arguments.split) {
      shared.affines[thread] = ld_global(arguments.affines + static_cast<std::int64_t>(tile.sample) * a.channels + tile.channel + thread);
    } else {
      Group group;
      if constexpr (mode == Mode::whole) {
        const bool layer = a.statistics == Statistics::layer;
        TileMoments moments = shared.moments[thread];
        if (blocks.count > 1) {
          const TileMoments* const of_group = gathered + (layer ? 0 : thread * largest_cluster);
          moments = union_of_sets(blocks.count, [&](int i) { return of_group[i]; });
        }
        group = group_of(a, arguments.cover, moments);
        if (number_in_group(a, arguments.cover, tile) == 0 && (!layer || thread == 0)) {
          write_group(a, group_of_tile(a, tile) + thread, group);
        }
      }
      const Doubles coefficients = shared.coefficients[thread];
      shared.affines[thread] = plane_affine(group, coefficients.values[0], coefficients.values[1]);
    }
  }
  __syncthreads();
}

__device__ inline float masked(float value, unsigned mask) {
  unsigned bits;
  memcpy(&bits, &value, sizeof(bits));
  bits &= mask;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// --- NCHW, rows of 32 to 1024 columns ---------------------------------------------------------------------------------

// A unit is what a warp accesses at once: 128 columns of a row, or 2 or 4 rows of 64 or 32. A lane has columns lane, lane + 32,
// ... of units block_warps apart, so that both loads and stores are coalesced wherever the rows of the padded map begin.
// `words` of 32 columns lie in one row.
template <class Storage, int words, Mode mode, bool extra>
__global__ void __launch_bounds__(block_threads, resident_blocks(4)) forward_rows(const __grid_constant__ ForwardArguments arguments) {
  constexpr int units = tile_values / unit_words, sampled = units / 4, unit_rows = unit_words / words;
  constexpr int pitch = block_warps * unit_values;  // between a warp's units, in x
  FASTMUNIT_FORWARD_SHARED(shared);
  if constexpr (mode == Mode::reduce) start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int height = static_cast<int>(a.height), size = height << arguments.width_bits;
  const Tile tile = tile_of(a, cover, size);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / 32), 0);
  const int plane = cover.by_tiles.quotient(static_cast<int>(blockIdx.x));
  const int first = tile.first + warp * unit_values, left = tile.end - first;  // pixels
  const Storage* const x = static_cast<const Storage*>(a.x) + wide_product(plane, size) + (first + lane);
  Storage loaded[units][unit_words];
#pragma unroll
  for (int k = 0; k < tile_values; ++k) loaded[k / unit_words][k % unit_words] = narrowed<Storage>(0.0f);
#pragma unroll
  for (int u = 0; u < units; ++u) {
    if (left <= u * pitch) break;
#pragma unroll
    for (int k = 0; k < unit_words; ++k) loaded[u][k] = ld_global(x + u * pitch + 32 * k);
  }
  if constexpr (mode != Mode::reduce) load_coefficients(arguments, tile, shared);
  float values[units][unit_words];
#pragma unroll
  for (int k = 0; k < tile_values; ++k) values[k / unit_words][k % unit_words] = widen(loaded[k / unit_words][k % unit_words]);
  if constexpr (mode != Mode::apply) {
    const auto count = [&](int of) {
      const int present = left > 0 ? static_cast<int>(static_cast<unsigned>(left + pitch - 1) / pitch) : 0;
      return static_cast<float>((present < of ? present : of) * unit_values);
    };
    float sum = 0.0f, deviations = 0.0f, squares = 0.0f;
#pragma unroll
    for (int u = 0; u < sampled; ++u) {
#pragma unroll
      for (int k = 0; k < unit_words; ++k) sum += values[u][k];
    }
    const float pivot = left > 0 ? __fdividef(sum_of_lanes<32>(sum), count(sampled)) : 0.0f;
#pragma unroll
    for (int u = 0; u < units; ++u) {
      if (left <= u * pitch) break;
#pragma unroll
      for (int k = 0; k < unit_words; ++k) {
        values[u][k] -= pivot;
        deviations += values[u][k];
        squares += values[u][k] * values[u][k];
      }
    }
    deviations = sum_of_lanes<32>(deviations);
    squares = sum_of_lanes<32>(squares);
    if (lane == 0) shared.of_warps[warp] = {pivot, deviations, squares, count(units)};
    unite_warps(arguments, tile, block_warps, 1, shared);
  }
  if constexpr (mode == Mode::reduce) {
    keep_moments(arguments, tile, shared.moments);
  } else {
    const Blocks blocks(mode == Mode::whole ? arguments.cover.cluster : 1);
    set_affines<mode, true>(arguments, tile, shared, blocks, shared.moments + 1);
    const PlaneAffine affine = shared.affines[0];
    float shift = affine.shift;
    if constexpr (mode == Mode::whole) {
      const float moved = shared.of_warps[warp].pivot - affine.center;
      if (std::isinf(affine.scale)) {
        rarely();
#pragma unroll
        for (int k = 0; k < tile_values; ++k) values[k / unit_words][k % unit_words] += moved;
      } else {
        shift += moved * affine.scale;
      }
    }
    const int width = 1 << arguments.width_bits, padded_width = width + 2 * a.pad;
    const int row_0 = first >> arguments.width_bits, column = first & (width - 1), row_step = pitch >> arguments.width_bits;
    const auto place = [&](int row) {
      return static_cast<Storage*>(a.padded) + wide_product(plane, (height + 2 * a.pad) * padded_width) +
             ((row + a.pad) * padded_width + a.pad + column + lane);
    };
    // Lanes 1 to pad write the pad's columns on the left, the last ones but one those on the right: what they hold themselves
    // where the pad reflects, else what the outermost lane holds.
    const bool zero = a.pad_mode == PadMode::zero;
    const bool writes_left = lane >= 1 && lane <= a.pad && column == 0;
    const bool writes_right = lane <= 30 && lane >= 31 - a.pad && column + 32 * words >= width;
    const bool writes = writes_left || writes_right;
    const int to_pad = writes_left ? -2 * lane : 32 * (words - 1) + 2 * (31 - lane);
    const unsigned pad_mask = zero ? 0u : 0xffffffffu;
    const int shown_lane = a.pad_mode == PadMode::reflect ? lane : (lane < 16 ? 0 : 31);
    Storage* to = place(row_0);
    const Storage* residual = nullptr;
    if constexpr (extra) {
      if (a.residual.data != nullptr) {
        residual = static_cast<const Storage*>(a.residual.data) + tile.sample * a.residual.sample_stride +
                   tile.channel * a.residual.channel_stride + row_0 * a.residual.row_stride + column + lane;
      }
    }
#pragma unroll
    for (int u = 0; u < units; ++u) {
      if (left <= u * pitch) break;
      float(&unit)[unit_words] = values[u];
#pragma unroll
      for (int k = 0; k < unit_words; ++k) {
        const float deviation = mode == Mode::whole ? unit[k] : unit[k] - affine.center;
        unit[k] = activated<extra>(arguments, deviation * affine.scale + shift);
      }
      if (extra && residual != nullptr) {
#pragma unroll
        for (int k = 0; k < unit_words; ++k) {
          unit[k] += widen(ld_global(residual + (u * row_step + k / words) * a.residual.row_stride + 32 * (k % words)));
        }
      }
      Storage* row = to;
#pragma unroll
      for (int j = 0; j < unit_rows; ++j) {
#pragma unroll
        for (int k = 0; k < words; ++k) st_plain(row + 32 * k, narrowed<Storage>(unit[j * words + k]));
        const float shown = __shfl_sync(0xffffffffu, lane < 16 ? unit[j * words] : unit[j * words + words - 1], shown_lane);
        if (writes) st_plain(row + to_pad, narrowed<Storage>(masked(shown, pad_mask)));
        row += padded_width;
      }
      to += row_step * padded_width;
    }
    // The rows that the pad shows: each lane reads again what it has written itself.
    const int last_row = (first + left - 1) >> arguments.width_bits;  // of the tile
    if (left > 0 && (arguments.rows.shows(row_0) || arguments.rows.shows(last_row))) {
      rarely();
#pragma unroll 1
      for (int at = 0; row_0 + at / unit_rows * row_step <= last_row; ++at) {
        const int y = row_0 + at / unit_rows * row_step + at % unit_rows;
        if (!arguments.rows.shows(y)) continue;
        const PadTargets targets(y, height, a.pad, zero ? PadMode::replicate : a.pad_mode);
        const Storage* const from = place(y);
        const Storage nothing = narrowed<Storage>(0.0f);
#pragma unroll 1
        for (int i = 1; i < targets.count(); ++i) {
          Storage* const row = place(targets[i]);
#pragma unroll
          for (int k = 0; k < words; ++k) st_plain(row + 32 * k, zero ? nothing : ld_global(from + 32 * k));
          if (writes) st_plain(row + to_pad, zero ? nothing : ld_global(from + to_pad));
        }
      }
    }
    blocks.wait();
  }
}

// --- channels_last, 16 bytes of channels per thread -------------------------------------------------------------------

constexpr int sampled_vectors = tile_vectors / 4;

// The most lanes that share a pixel. Where fewer do, the sums of this many lanes stay apart, until all sums of the block meet.
template <bool phases>
constexpr int lanes_apart = phases ? 8 : 4;

// Sums over the lanes of a warp that hold other pixels of the same channels.
template <bool phases, class Value, int count>
__device__ inline void sum_over_pixels(Value (&values)[count]) {
#pragma unroll
  for (int offset = 16; offset >= lanes_apart<phases>; offset /= 2) {
#pragma unroll
    for (int k = 0; k < count; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], offset);
  }
}

// Where the sums of a lane's channels lie in shared.of_warps.
template <bool phases, int C>
__device__ inline int place_of_sums() {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % lanes_apart<phases>;
  return static_cast<int>((warp * lanes_apart<phases> + lane) * C);
}

// As sum_over_pixels, of each channel's sums, but at each step a lane keeps one half of its channels and gives the other, until it
// has one. Returns this channel's number. Lanes that differ in the bits `same` have the same sums.
template <bool phases, int channels, int offset = 16, int count>
__device__ inline int keep_sums(float (&pivots)[count], float (&sums)[2 * count], int& same) {
  if constexpr (offset < lanes_apart<phases>) {
    return 0;
  } else if constexpr (channels == 1) {
    same |= offset;
    sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], offset);
    sums[1] += __shfl_xor_sync(0xffffffffu, sums[1], offset);
    return keep_sums<phases, 1, offset / 2>(pivots, sums, same);
  } else {
    const bool upper = (threadIdx.x & offset) != 0;
#pragma unroll
    for (int k = 0; k < channels; ++k) {
      const float given = upper ? sums[k] : sums[k + channels];
      sums[k] = (upper ? sums[k + channels] : sums[k]) + __shfl_xor_sync(0xffffffffu, given, offset);
    }
#pragma unroll
    for (int c = 0; c < channels / 2; ++c) pivots[c] = upper ? pivots[c + channels / 2] : pivots[c];
    return (upper ? channels / 2 : 0) + keep_sums<phases, channels / 2, offset / 2>(pivots, sums, same);
  }
}

// The moments of the tile. `first_sums` are the sums of a thread's first vectors, and for_vectors(visit) calls visit(values) with
// each of its `held` vectors and takes what visit makes of them: deviations from a pivot.
template <class Storage, bool phases, class ForVectors>
__device__ inline void set_moments(const ForwardArguments& arguments, const Tile& tile, int held,
                                   float (&first_sums)[lane_channels<Storage, phases>], const Shared& shared,
                                   ForVectors for_vectors) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, phases>, of_channel = N / C;
  int counts[] = {held << 16 | (held < sampled_vectors ? held : sampled_vectors)};
  sum_over_pixels<phases>(counts);
  sum_over_pixels<phases>(first_sums);
  const float inverse = counts[0] > 0 ? __fdividef(1.0f, static_cast<float>(of_channel * (counts[0] & 0xffff))) : 0.0f;
  float pivots[C], sums[2 * C];
#pragma unroll
  for (int c = 0; c < C; ++c) {
    pivots[c] = first_sums[c] * inverse;
    sums[2 * c] = sums[2 * c + 1] = -0.0f;  // to add to it takes no instruction
  }
  for_vectors([&](float(&values)[N]) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const int c = k / of_channel;
      values[k] -= pivots[c];
      sums[2 * c] += values[k];
      sums[2 * c + 1] += values[k] * values[k];
    }
  });
  int same = 0;
  const int channel = keep_sums<phases, C>(pivots, sums, same);
  if ((static_cast<int>(threadIdx.x) & same) == 0) {
    shared.of_warps[place_of_sums<phases, C>() + channel] = {pivots[0], sums[0], sums[1],
                                                                           static_cast<float>(of_channel * (counts[0] >> 16))};
  }
  const Cover& cover = arguments.cover;
  unite_warps(arguments, tile, block_warps * lanes_apart<phases> >> cover.lane_bits, cover.channels, shared);
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

template <class Storage, bool phases, Mode mode, bool extra>
__global__ void __launch_bounds__(block_threads, resident_blocks(4 - (extra ? blocks_spared : 0)))
    forward_pixels(const __grid_constant__ ForwardArguments arguments) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, phases>, of_channel = N / C;
  constexpr bool about_pivot = mode == Mode::whole && sizeof(Storage) == sizeof(float);
  // Vectors of 16-bit values wait in shared memory: unpacked ones, and the affines of their channels, take the registers.
  constexpr bool waits = sizeof(Storage) < sizeof(float);
  constexpr bool ends = mode == Mode::whole || extra;  // loads by branches: predicates would stay in registers, to be used again
  FASTMUNIT_FORWARD_SHARED(shared);
  if constexpr (mode == Mode::reduce) start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int halves = phases ? 1 : 0, height = static_cast<int>(a.height) >> halves, width = static_cast<int>(a.width) >> halves;
  const Tile tile = tile_of(a, cover, height * width);
  const int thread = static_cast<int>(threadIdx.x), lane = cover.lane_of_pixel(thread), channels = static_cast<int>(a.channels);
  const int first = tile.first + cover.pixels_before(thread), step_bits = thread_bits - cover.lane_bits;
  const bool inside = lane * C < tile.channels && first < tile.end;
  int held = inside ? (tile.end - first + cover.step_pixels - 1) >> step_bits : 0;
  // In bytes: the compiler would scale each offset anew.
  const int value_pitch = channels * static_cast<int>(sizeof(Storage)), pixel_pitch = value_pitch * of_channel;
  const char* x = static_cast<const char*>(a.x) + tile.sample * arguments.sample_bytes + wide_product(first, pixel_pitch) +
                        (tile.channel + lane * C) * of_channel * static_cast<int>(sizeof(Storage));
  forget(x);
  Vector vectors[tile_vectors] = {};
#pragma unroll
  for (int u = 0; u < tile_vectors; ++u) {
    if (ends && held <= u) break;
    if (ends || held > u) {
      vectors[u] = ld_global(reinterpret_cast<const Vector*>(x + wide_product(u, pixel_pitch << step_bits)));
    }
  }
  if constexpr (mode == Mode::reduce) {
    __syncthreads();  // else the compiler adds up the first values before it loads the others
  } else {
    load_coefficients(arguments, tile, shared);
  }
  // Of each thread: its vectors, then what the pad shows of its results.
  SMEM_ARRAY(Vector, waiting, tile_vectors * block_threads);
  unsigned waiting_place = static_cast<unsigned>(thread);
  forget(held);
  if constexpr (waits) {
#pragma unroll
    for (int u = 0; u < tile_vectors; ++u) waiting[u * block_threads + thread] = vectors[u];
    forget(waiting_place);
  }
  if constexpr (mode != Mode::apply) {
    float first_sums[C];
#pragma unroll
    for (int c = 0; c < C; ++c) first_sums[c] = -0.0f;
#pragma unroll
    for (int u = 0; u < sampled_vectors; ++u) {
      float values[N];
      unpack<Storage>(vectors[u], values);
#pragma unroll
      for (int k = 0; k < N; ++k) first_sums[k / of_channel] += values[k];
    }
    set_moments<Storage, phases>(arguments, tile, held, first_sums, shared, [&](auto visit) {
#pragma unroll
      for (int u = 0; u < tile_vectors; ++u) {
        if (held <= u) break;
        float values[N];
        unpack<Storage>(waits ? waiting[u * block_threads + waiting_place] : vectors[u], values);
        visit(values);
        if constexpr (!waits) vectors[u] = pack<Storage>(values);
      }
    });
  }
  if constexpr (mode == Mode::reduce) {
    keep_moments(arguments, tile, shared.moments);
  } else {
    const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
    // A place that nothing else uses any more, or not yet.
    TileMoments* const gathered = waits ? reinterpret_cast<TileMoments*>(shared.of_warps) : reinterpret_cast<TileMoments*>(waiting);
    set_affines<mode, false>(arguments, tile, shared, blocks, gathered);
    PlaneAffine affines[C];
#pragma unroll
    for (int c = 0; c < C; ++c) affines[c] = shared.affines[lane * C + c];
    if constexpr (about_pivot) {
      bool infinite = false;
      float moved[C];
#pragma unroll
      for (int c = 0; c < C; ++c) {
        moved[c] = shared.of_warps[place_of_sums<phases, C>() + c].pivot - affines[c].center;
        infinite = infinite || std::isinf(affines[c].scale);
        affines[c].center = 0.0f;
      }
      if (infinite) {
        rarely();
#pragma unroll
        for (int u = 0; u < tile_vectors; ++u) {
          float values[N];
          unpack<Storage>(vectors[u], values);
#pragma unroll
          for (int k = 0; k < N; ++k) values[k] += moved[k / of_channel];
          vectors[u] = pack<Storage>(values);
        }
      } else {
#pragma unroll
        for (int c = 0; c < C; ++c) affines[c].shift += moved[c] * affines[c].scale;
      }
    }
    const int padded_width = static_cast<int>(a.width) + 2 * a.pad, phase = phases ? thread % 4 : 0;
    const int channel = tile.channel + (phases ? lane / 4 * N : lane * C);
    char* padded = static_cast<char*>(a.padded) + tile.sample * arguments.padded_bytes +
                         wide_product(a.pad * (padded_width + 1), value_pitch) + channel * static_cast<int>(sizeof(Storage));
    forget(padded);
    const Storage* residual = nullptr;
    if constexpr (extra && !phases) {
      if (a.residual.data != nullptr) {
        residual = static_cast<const Storage*>(a.residual.data) + tile.sample * a.residual.sample_stride + channel;
      }
    }
    const auto at = [&](int row, int column) {
      return reinterpret_cast<Vector*>(padded + wide_product(row * padded_width + column, value_pitch));
    };
    const auto place = [&](int u, int& row, int& column) {
      const int pixel = first + u * cover.step_pixels;
      row = cover.by_width.quotient(phases ? 2 * pixel : pixel);
      column = pixel - row * width;
      if constexpr (phases) {
        row = 2 * row + phase / 2;
        column = 2 * column + phase % 2;
      }
    };
    unsigned shown = 0;
#pragma unroll
    for (int u = 0; u < tile_vectors; ++u) {
      if (phases ? u >= cover.steps : u >= held) break;
      int row, column;
      place(u, row, column);
      float values[N];
      unpack<Storage>(waits ? waiting[u * block_threads + waiting_place] : vectors[u], values);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const PlaneAffine affine = affines[k / of_channel];
        const float deviation = about_pivot ? values[k] : values[k] - affine.center;
        values[k] = activated<extra>(arguments, deviation * affine.scale + affine.shift);
      }
      if constexpr (extra && !phases) {
        if (residual != nullptr) {
          float added[N];
          const std::int64_t from = row * a.residual.row_stride + column * a.residual.column_stride;
          unpack<Storage>(ld_global(reinterpret_cast<const Vector*>(residual + from)), added);
#pragma unroll
          for (int k = 0; k < N; ++k) values[k] += added[k];
        }
      }
      const Vector result = phases ? exchange_phases<Storage>(values) : pack<Storage>(values);
      if (phases && held <= u) continue;
      st_plain(at(row, column), result);
      if (arguments.rows.shows(row) || arguments.columns.shows(column)) {
        waiting[u * block_threads + thread] = result;
        shown |= 1u << u;
      }
    }
    // What the pad shows has a loop of its own: that code is long and seldom runs.
    if (shown != 0) {
      rarely();
#pragma unroll 1
      for (; shown != 0; shown &= shown - 1) {
        const int u = __ffs(static_cast<int>(shown)) - 1;
        int row, column;
        place(u, row, column);
        const Vector result = a.pad_mode == PadMode::zero ? Vector{} : waiting[u * block_threads + thread];
        for_pad_targets(a, row, column, [&](int to_row, int to_column) { st_plain(at(to_row, to_column), result); });
      }
    }
    blocks.wait();
  }
}

// --- Every other map --------------------------------------------------------------------------------------------------

// A value of a map; `at` counts values.
__device__ inline float load_any(const void* map, std::int64_t at, DataType dtype) {
  if (dtype == DataType::float32) return ld_global(static_cast<const float*>(map) + at);
  if (dtype == DataType::bfloat16) return widen(ld_global(static_cast<const __nv_bfloat16*>(map) + at));
  return widen(ld_global(static_cast<const __half*>(map) + at));
}
__device__ inline void store_any(void* map, std::int64_t at, DataType dtype, float value) {
  if (dtype == DataType::float32) {
    st_plain(static_cast<float*>(map) + at, value);
  } else if (dtype == DataType::bfloat16) {
    st_plain(static_cast<__nv_bfloat16*>(map) + at, narrowed<__nv_bfloat16>(value));
  } else {
    st_plain(static_cast<__half*>(map) + at, narrowed<__half>(value));
  }
}

// The moments of one channel, or of the whole tile, from sums of each thread: add(center, deviations, squares) once their center is
// known.
template <class Add>
__device__ inline void set_moments_of_lanes(float sum, float count, int lanes, float* scratch, float* sums, TileMoments* moments,
                                            Add add) {
  const int thread = static_cast<int>(threadIdx.x);
  float one[] = {sum}, both[2] = {0.0f, 0.0f};
  lane_sums(one, lanes, scratch, sums);
  const float center = sums[thread & (lanes - 1)] * __fdividef(1.0f, count);
  add(center, both[0], both[1]);
  lane_sums(both, lanes, scratch, sums);
  const int at = 2 * (thread & (lanes - 1));
  if (thread < most_channels) moments[thread] = moments_about(center, sums[at], sums[at + 1], count);
}

// Value by value, in either layout: a thread keeps its values in shared memory of its own.
template <Mode mode>
__global__ void __launch_bounds__(block_threads, resident_blocks(3)) forward_any(const __grid_constant__ ForwardArguments arguments) {
  FASTMUNIT_FORWARD_SHARED(shared);
  SMEM_ARRAY(float, scratch, block_warps * most_lane_sums);
  SMEM_ARRAY(float, sums, most_lane_sums);
  SMEM_ARRAY(float, tile_shared, block_threads * tile_values);
  if constexpr (mode == Mode::reduce) start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int height = static_cast<int>(a.height), width = static_cast<int>(a.width);
  const Tile tile = tile_of(a, cover, height * width);
  const int thread = static_cast<int>(threadIdx.x), lane = cover.lane_of_pixel(thread), first = tile.first + cover.pixels_before(thread);
  const bool inside = lane < tile.channels, nchw = a.layout == Layout::nchw;
  const int end = inside ? tile.end : tile.first;
  const std::int64_t pixels = static_cast<std::int64_t>(height) * width, channels = a.channels, c = tile.channel + lane;
  const std::int64_t pixel_pitch = nchw ? 1 : channels * (a.phases ? 4 : 1);
  const std::int64_t x = tile.sample * channels * pixels + (nchw ? c * pixels : c * (a.phases ? 4 : 1));
  float* const mine = tile_shared + thread;
  const auto place = [&](int pixel) {
    if (!a.phases) return pixel * pixel_pitch;
    const int row = cover.by_width.quotient(pixel), column = pixel - row * width, phase = 2 * (row & 1) + (column & 1);
    return ((row >> 1) * (width >> 1) + (column >> 1)) * pixel_pitch + (nchw ? phase * (pixels / 4) : phase);
  };
  const auto for_values = [&](auto visit) {
#pragma unroll 1
    for (int u = 0, pixel = first; pixel < end; ++u, pixel += cover.step_pixels) visit(mine[u * block_threads], pixel);
  };
  float sum = 0.0f;
#pragma unroll 8
  for (int u = 0; u < cover.steps; ++u) {
    const int pixel = first + u * cover.step_pixels;
    if (pixel < end) mine[u * block_threads] = load_any(a.x, x + place(pixel), a.dtype);
  }
  if constexpr (mode != Mode::reduce) load_coefficients(arguments, tile, shared);
  if constexpr (mode != Mode::apply) {
    const bool layer = a.statistics == Statistics::layer;
    const float count = static_cast<float>(tile.end - tile.first) * (layer ? static_cast<float>(tile.channels) : 1.0f);
    for_values([&](float value, int) { sum += value; });
    set_moments_of_lanes(sum, count, layer ? 1 : cover.lanes, scratch, sums, shared.moments,
                         [&](float center, float& deviations, float& squares) {
                           for_values([&](float value, int) {
                             const float deviation = value - center;
                             deviations += deviation;
                             squares += deviation * deviation;
                           });
                         });
  }
  if constexpr (mode == Mode::reduce) {
    keep_moments(arguments, tile, shared.moments);
  } else {
    const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
    set_affines<mode, false>(arguments, tile, shared, blocks, reinterpret_cast<TileMoments*>(shared.of_warps));
    const PlaneAffine affine = inside ? shared.affines[lane] : PlaneAffine{0.0f, 1.0f, 0.0f};
    const std::int64_t padded_width = width + 2 * a.pad, padded_pixels = (height + 2 * a.pad) * padded_width;
    const std::int64_t pitch = nchw ? 1 : channels;
    const std::int64_t padded =
        tile.sample * channels * padded_pixels + (nchw ? c * padded_pixels : c) + (a.pad * padded_width + a.pad) * pitch;
    const std::int64_t residual = tile.sample * a.residual.sample_stride + c * a.residual.channel_stride;
    for_values([&](float value, int pixel) {
      const int row = cover.by_width.quotient(pixel), column = pixel - row * width;
      float z = activated<true>(arguments, (value - affine.center) * affine.scale + affine.shift);
      if (a.residual.data != nullptr) {
        z += load_any(a.residual.data, residual + row * a.residual.row_stride + column * a.residual.column_stride, a.dtype);
      }
      store_any(a.padded, padded + (row * padded_width + column) * pitch, a.dtype, z);
      if (arguments.rows.shows(row) || arguments.columns.shows(column)) {
        rarely();
        const float shown = a.pad_mode == PadMode::zero ? 0.0f : z;
        for_pad_targets(a, row, column, [&](int to_row, int to_column) {
          store_any(a.padded, padded + (to_row * padded_width + to_column) * pitch, a.dtype, shown);
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
