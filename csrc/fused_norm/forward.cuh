// The forward kernels of fused_norm; fused_norm.h states what they compute. All values of a tile are loaded before the
// first is used. The thread that holds a pixel also writes it to the padding.
//
// Kernels `rows` and `pixels` compute the moments of a warp about a pivot, the mean of the first quarter of its values.
// For any distribution, the pivot is within two standard deviations of the mean of all values, so no digits are lost,
// and this saves a pass.
#pragma once

#include <type_traits>

#include "fused_norm/tile.cuh"

namespace fastmunit::cuda::norm {

// PadSources in a form whose test takes the fewest instructions.
struct CompactPadSources {
  unsigned offset, size;

  explicit CompactPadSources(const PadSources& sources)
      : offset(0u - static_cast<unsigned>(sources.first)), size(static_cast<unsigned>(sources.size)) {}
  __device__ bool contains(int at) const { return static_cast<unsigned>(at) + offset >= size; }
};

struct ForwardArguments {
  FusedNorm map;
  Cover cover;
  bool split;             // statistics are computed by two launches before apply
  TileMoments* partials;  // per tile of each group
  PlaneAffine* affines;   // per plane, from combine to apply
  int tiles_of_group;
  CompactPadSources rows, columns;
  std::int64_t sample_bytes, padded_bytes;  // size of a sample of x and of the result
  float floor = 0.0f, slope = 1.0f;  // see activated()
  int width_bits = 0;                // in kernel `rows`, width == 1 << width_bits
};

// The sums of the deviations of `count` values from a pivot, and of their squares.
struct alignas(16) PivotSums {
  float pivot, deviations, squares, count;
};

// A block's arrays in shared memory.
struct ForwardShared {
  PivotSums* of_warps;   // per warp and channel
  TileMoments* moments;  // of the tile, per channel
  Doubles* parameters;   // weight and bias per channel
  PlaneAffine* affines;  // per channel
};
#define FASTMUNIT_FORWARD_SHARED(name)                         \
  SMEM_ARRAY(PivotSums, name##_of_warps, block_threads);       \
  SMEM_ARRAY(TileMoments, name##_moments, max_channels);       \
  SMEM_ARRAY(Doubles, name##_parameters, max_channels);        \
  SMEM_ARRAY(PlaneAffine, name##_affines, max_channels);       \
  const ForwardShared name = {name##_of_warps, name##_moments, name##_parameters, name##_affines}

// Returns the larger of the two; propagates NaN.
__device__ inline float raised_to(float floor, float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(value), "f"(floor));
  return larger;
#else
  return value <= floor ? floor : value;
#endif
}

// Applies the activation without a branch. floor is 0 for relu, else -inf. slope is the negative slope of leaky relu,
// which only kernels with `extra` support.
template <bool extra>
__device__ inline float activated(const ForwardArguments& arguments, float z) {
  z = raised_to(arguments.floor, z);
  if constexpr (extra) {
    if (!(z > 0.0f)) z *= arguments.slope;
  }
  return z;
}

__device__ inline PlaneAffine plane_affine(const NormStats& stats, double weight, double bias) {
  const Affine<float> affine = affine_of<float>(stats, weight, bias);
  return {affine.center, affine.scale, affine.shift};
}

__device__ inline void write_stats(const FusedNorm& a, std::int64_t group, const NormStats& stats) {
  st_plain(a.mean + group, stats.mean);
  st_plain(a.rstd + group, stats.rstd);
}

// --- From moments to affines ------------------------------------------------------------------------------------------

// Returns the moments of the union of `count` sets, where at(i) returns the moments of one set and the first set is not
// empty. Each lane does this for its own channel, which takes fewer instructions than sharing the sets of each channel
// among lanes.
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

// Computes shared.moments, per channel or, for MUNIT's layer norm, for all channels together, from shared.of_warps:
// `sets` sets with the sums of `channels` channels each. The last tile of a map may have fewer channels. Done by one
// warp; only it sees the result.
__device__ inline void unite_warps(const ForwardArguments& arguments, const Tile& tile, int sets, int channels,
                                   const ForwardShared& shared) {
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

// Mode reduce: writes the moments of the tile for combine, per channel or, for MUNIT's layer norm, for all channels
// together.
__device__ inline void write_moments(const ForwardArguments& arguments, const Tile& tile, const TileMoments* moments) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x), groups = a.statistics == Statistics::layer ? 1 : tile.channels;
  if (thread >= groups) return;
  rarely();
  const std::int64_t group = group_of_tile(a, tile) + thread;
  st_plain(arguments.partials + group * arguments.tiles_of_group + number_in_group(a, arguments.cover, tile), moments[thread]);
}

// Loads weight and bias of the tile's channels while the loads of its values are in flight.
__device__ inline void load_parameters(const ForwardArguments& arguments, const Tile& tile, const ForwardShared& shared) {
  const FusedNorm& a = arguments.map;
  const int thread = static_cast<int>(threadIdx.x);
  if (arguments.split || thread >= tile.channels) return;
  rarely();
  const std::int64_t channel = tile.channel + thread;
  shared.parameters[thread] = {{parameter_value(a.weight, tile.sample, channel, 1.0),
                                parameter_value(a.bias, tile.sample, channel, 0.0)}};
}

// Mode whole: copies the moments that the blocks of a cluster have computed for each group to this block. Blocks::wait
// must follow.
template <bool one_channel>
__device__ inline void gather_moments(const ForwardArguments& arguments, const Tile& tile, const ForwardShared& shared,
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

// Sets the affines of the tile's channels: those of combine, or computed from moments and parameters. Done by the warp
// that has computed shared.moments. `gathered` holds the moments per channel and block of the cluster.
template <Mode mode, bool one_channel>
__device__ inline void set_affines(const ForwardArguments& arguments, const Tile& tile, const ForwardShared& shared,
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
      NormStats stats;
      if constexpr (mode == Mode::whole) {
        const bool layer = a.statistics == Statistics::layer;
        TileMoments moments = shared.moments[thread];
        if (blocks.count > 1) {
          const TileMoments* const of_group = gathered + (layer ? 0 : thread * largest_cluster);
          moments = union_of_sets(blocks.count, [&](int i) { return of_group[i]; });
        }
        stats = norm_stats_of(a, arguments.cover, moments);
        if (number_in_group(a, arguments.cover, tile) == 0 && (!layer || thread == 0)) {
          write_stats(a, group_of_tile(a, tile) + thread, stats);
        }
      }
      const Doubles parameters = shared.parameters[thread];
      shared.affines[thread] = plane_affine(stats, parameters.values[0], parameters.values[1]);
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

// A unit is what a warp accesses at a time: 128 columns of a row, 2 rows of 64 or 4 rows of 32. A lane holds columns
// lane, lane + 32, ... of every block_warps-th unit, so loads and stores are coalesced regardless of the alignment of
// padded rows. `words` is the number of words of 32 columns in a row of a unit.
template <class Storage, int words, Mode mode, bool extra>
__global__ void __launch_bounds__(block_threads, resident_blocks(4)) forward_rows(const __grid_constant__ ForwardArguments arguments) {
  constexpr int units = tile_values / unit_words, sampled = units / 4, unit_rows = unit_words / words;
  constexpr int pitch = block_warps * unit_values;  // distance between the units of a warp in x
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
  if constexpr (mode != Mode::reduce) load_parameters(arguments, tile, shared);
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
    write_moments(arguments, tile, shared.moments);
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
    // Lanes 1 to pad write the columns of the padding on the left, lanes 31 - pad to 30 those on the right. They write
    // their own values for reflect padding, else the value of the outermost lane.
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
    // Rows that the padding copies: each lane rereads what it has written itself.
    const int last_row = (first + left - 1) >> arguments.width_bits;  // of the tile
    if (left > 0 && (arguments.rows.contains(row_0) || arguments.rows.contains(last_row))) {
      rarely();
#pragma unroll 1
      for (int at = 0; row_0 + at / unit_rows * row_step <= last_row; ++at) {
        const int y = row_0 + at / unit_rows * row_step + at % unit_rows;
        if (!arguments.rows.contains(y)) continue;
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

// Number of lanes of a warp whose sums are kept separate until the sums of all warps are combined: the largest number
// of lanes per pixel.
template <bool pixel_shuffle>
constexpr int separate_lanes = pixel_shuffle ? 8 : 4;

// Sums over the lanes of a warp that hold different pixels of the same channels.
template <bool pixel_shuffle, class Value, int count>
__device__ inline void sum_over_pixels(Value (&values)[count]) {
#pragma unroll
  for (int offset = 16; offset >= separate_lanes<pixel_shuffle>; offset /= 2) {
#pragma unroll
    for (int k = 0; k < count; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], offset);
  }
}

// Returns the index of the sums of a lane's channels in shared.of_warps.
template <bool pixel_shuffle, int C>
__device__ inline int place_of_sums() {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % separate_lanes<pixel_shuffle>;
  return static_cast<int>((warp * separate_lanes<pixel_shuffle> + lane) * C);
}

// Like sum_over_pixels for the sums of each channel, but at each step a lane keeps one half of its channels and passes
// on the other, until one channel is left. Returns the index of that channel. Lanes that differ only in the bits `same`
// have the same sums.
template <bool pixel_shuffle, int channels, int offset = 16, int count>
__device__ inline int distribute_sums(float (&pivots)[count], float (&sums)[2 * count], int& same) {
  if constexpr (offset < separate_lanes<pixel_shuffle>) {
    return 0;
  } else if constexpr (channels == 1) {
    same |= offset;
    sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], offset);
    sums[1] += __shfl_xor_sync(0xffffffffu, sums[1], offset);
    return distribute_sums<pixel_shuffle, 1, offset / 2>(pivots, sums, same);
  } else {
    const bool upper = (threadIdx.x & offset) != 0;
#pragma unroll
    for (int k = 0; k < channels; ++k) {
      const float given = upper ? sums[k] : sums[k + channels];
      sums[k] = (upper ? sums[k + channels] : sums[k]) + __shfl_xor_sync(0xffffffffu, given, offset);
    }
#pragma unroll
    for (int c = 0; c < channels / 2; ++c) pivots[c] = upper ? pivots[c + channels / 2] : pivots[c];
    return (upper ? channels / 2 : 0) + distribute_sums<pixel_shuffle, channels / 2, offset / 2>(pivots, sums, same);
  }
}

// Computes the moments of the tile. `first_sums` are the sums of a thread's first vectors. for_vectors(visit) calls
// visit(values) with each of its `held` vectors and keeps the deviations from the pivot that visit stores in values.
template <class Storage, bool pixel_shuffle, class ForVectors>
__device__ inline void set_moments(const ForwardArguments& arguments, const Tile& tile, int held,
                                   float (&first_sums)[lane_channels<Storage, pixel_shuffle>], const ForwardShared& shared,
                                   ForVectors for_vectors) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, pixel_shuffle>, of_channel = N / C;
  int counts[] = {held << 16 | (held < sampled_vectors ? held : sampled_vectors)};
  sum_over_pixels<pixel_shuffle>(counts);
  sum_over_pixels<pixel_shuffle>(first_sums);
  const float inverse = counts[0] > 0 ? __fdividef(1.0f, static_cast<float>(of_channel * (counts[0] & 0xffff))) : 0.0f;
  float pivots[C], sums[2 * C];
#pragma unroll
  for (int c = 0; c < C; ++c) {
    pivots[c] = first_sums[c] * inverse;
    sums[2 * c] = sums[2 * c + 1] = -0.0f;  // adding to -0 takes no instruction
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
  const int channel = distribute_sums<pixel_shuffle, C>(pivots, sums, same);
  if ((static_cast<int>(threadIdx.x) & same) == 0) {
    shared.of_warps[place_of_sums<pixel_shuffle, C>() + channel] = {pivots[0], sums[0], sums[1],
                                                             static_cast<float>(of_channel * (counts[0] >> 16))};
  }
  const Cover& cover = arguments.cover;
  unite_warps(arguments, tile, block_warps * separate_lanes<pixel_shuffle> >> cover.lane_bits, cover.channels, shared);
}

// Pixel shuffle. A lane has 16 bytes of x: 4 pixels (phases) of a quarter of the channels. Returns the channels of 4
// adjacent lanes of one pixel: phase threadIdx.x % 4.
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

template <class Storage, bool pixel_shuffle, Mode mode, bool extra>
__global__ void __launch_bounds__(block_threads, resident_blocks(4 - (extra ? blocks_spared : 0)))
    forward_pixels(const __grid_constant__ ForwardArguments arguments) {
  constexpr int N = vector_values<Storage>, C = lane_channels<Storage, pixel_shuffle>, of_channel = N / C;
  constexpr bool about_pivot = mode == Mode::whole && sizeof(Storage) == sizeof(float);
  // Vectors of 16-bit values are kept in shared memory: unpacked values and the affines of their channels occupy the
  // registers.
  constexpr bool waits = sizeof(Storage) < sizeof(float);
  constexpr bool ends = mode == Mode::whole || extra;  // loads use branches: predicates would occupy registers until they are reused
  FASTMUNIT_FORWARD_SHARED(shared);
  if constexpr (mode == Mode::reduce) start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const Cover& cover = arguments.cover;
  const int halves = pixel_shuffle ? 1 : 0, height = static_cast<int>(a.height) >> halves, width = static_cast<int>(a.width) >> halves;
  const Tile tile = tile_of(a, cover, height * width);
  const int thread = static_cast<int>(threadIdx.x), lane = cover.lane_of_pixel(thread), channels = static_cast<int>(a.channels);
  const int first = tile.first + cover.pixels_before(thread), step_bits = thread_bits - cover.lane_bits;
  const bool inside = lane * C < tile.channels && first < tile.end;
  int held = inside ? (tile.end - first + cover.step_pixels - 1) >> step_bits : 0;
  // In bytes: otherwise the compiler scales each offset separately.
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
    __syncthreads();  // otherwise the compiler sums the first values before it loads the others
  } else {
    load_parameters(arguments, tile, shared);
  }
  // Per thread: its vectors, later those of its results that the padding copies.
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
    set_moments<Storage, pixel_shuffle>(arguments, tile, held, first_sums, shared, [&](auto visit) {
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
    write_moments(arguments, tile, shared.moments);
  } else {
    const Blocks blocks(mode == Mode::whole ? cover.cluster : 1);
    // Memory that is not in use at this point.
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
        moved[c] = shared.of_warps[place_of_sums<pixel_shuffle, C>() + c].pivot - affines[c].center;
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
    const int padded_width = static_cast<int>(a.width) + 2 * a.pad, phase = pixel_shuffle ? thread % 4 : 0;
    const int channel = tile.channel + (pixel_shuffle ? lane / 4 * N : lane * C);
    char* padded = static_cast<char*>(a.padded) + tile.sample * arguments.padded_bytes +
                         wide_product(a.pad * (padded_width + 1), value_pitch) + channel * static_cast<int>(sizeof(Storage));
    forget(padded);
    const Storage* residual = nullptr;
    if constexpr (extra && !pixel_shuffle) {
      if (a.residual.data != nullptr) {
        residual = static_cast<const Storage*>(a.residual.data) + tile.sample * a.residual.sample_stride + channel;
      }
    }
    const auto at = [&](int row, int column) {
      return reinterpret_cast<Vector*>(padded + wide_product(row * padded_width + column, value_pitch));
    };
    const auto place = [&](int u, int& row, int& column) {
      const int pixel = first + u * cover.step_pixels;
      row = cover.by_width.quotient(pixel_shuffle ? 2 * pixel : pixel);
      column = pixel - row * width;
      if constexpr (pixel_shuffle) {
        row = 2 * row + phase / 2;
        column = 2 * column + phase % 2;
      }
    };
    unsigned padded_vectors = 0;  // a bit for each vector that the padding copies
#pragma unroll
    for (int u = 0; u < tile_vectors; ++u) {
      if (pixel_shuffle ? u >= cover.steps : u >= held) break;
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
      if constexpr (extra && !pixel_shuffle) {
        if (residual != nullptr) {
          float added[N];
          const std::int64_t from = row * a.residual.row_stride + column * a.residual.column_stride;
          unpack<Storage>(ld_global(reinterpret_cast<const Vector*>(residual + from)), added);
#pragma unroll
          for (int k = 0; k < N; ++k) values[k] += added[k];
        }
      }
      const Vector result = pixel_shuffle ? exchange_phases<Storage>(values) : pack<Storage>(values);
      if (pixel_shuffle && held <= u) continue;
      st_plain(at(row, column), result);
      if (arguments.rows.contains(row) || arguments.columns.contains(column)) {
        waiting[u * block_threads + thread] = result;
        padded_vectors |= 1u << u;
      }
    }
    // The padding is written by a separate loop, as this code is long and rarely runs.
    if (padded_vectors != 0) {
      rarely();
#pragma unroll 1
      for (; padded_vectors != 0; padded_vectors &= padded_vectors - 1) {
        const int u = __ffs(static_cast<int>(padded_vectors)) - 1;
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

// Loads or stores one value of a map; `at` is its index.
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

// Computes the moments per channel, or of the whole tile, from the sums of each thread. Calls add(center, deviations,
// squares) once the center is known.
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
  if (thread < max_channels) moments[thread] = moments_about(center, sums[at], sums[at + 1], count);
}

// Value by value, in either layout. Each thread keeps its values in its own part of shared memory.
template <Mode mode>
__global__ void __launch_bounds__(block_threads, resident_blocks(3)) forward_any(const __grid_constant__ ForwardArguments arguments) {
  FASTMUNIT_FORWARD_SHARED(shared);
  SMEM_ARRAY(float, scratch, block_warps * max_lane_sums);
  SMEM_ARRAY(float, sums, max_lane_sums);
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
  const std::int64_t pixel_pitch = nchw ? 1 : channels * (a.pixel_shuffle ? 4 : 1);
  const std::int64_t x = tile.sample * channels * pixels + (nchw ? c * pixels : c * (a.pixel_shuffle ? 4 : 1));
  float* const mine = tile_shared + thread;
  const auto place = [&](int pixel) {
    if (!a.pixel_shuffle) return pixel * pixel_pitch;
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
  if constexpr (mode != Mode::reduce) load_parameters(arguments, tile, shared);
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
    write_moments(arguments, tile, shared.moments);
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
      if (arguments.rows.contains(row) || arguments.columns.contains(column)) {
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

// Returns the moments of every `step`-th tile of a group, starting at `first`. Sums of differences from the mean of the
// first tile keep their digits: if that mean is far from the others, the sum of squares is as large.
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

__device__ inline PlaneAffine affine_of_channel(const FusedNorm& a, const NormStats& stats, std::int64_t n, std::int64_t c) {
  return plane_affine(stats, parameter_value(a.weight, n, c, 1.0), parameter_value(a.bias, n, c, 0.0));
}

// Computes the statistics of groups, and the affines of their channels, from the moments of tiles: one warp per plane
// or, for MUNIT's layer norm, one block per sample.
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
    const NormStats stats = norm_stats_of(a, arguments.cover, all);
    write_stats(a, group, stats);
    const std::int64_t n = group / a.channels;
    st_plain(arguments.affines + group, affine_of_channel(a, stats, n, group - n * a.channels));
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
      const NormStats stats = norm_stats_of(a, arguments.cover, all);
      write_stats(a, n, stats);
      *sample = {{stats.mean, stats.rstd}};
    }
  }
  __syncthreads();
  const NormStats stats = {sample->values[0], sample->values[1]};
  for (std::int64_t c = thread; c < a.channels; c += block_threads) {
    st_plain(arguments.affines + n * a.channels + c, affine_of_channel(a, stats, n, c));
  }
}

// Computes the affines of all planes from given statistics, for apply.
__global__ void __launch_bounds__(block_threads)
    affines_of_statistics(const __grid_constant__ ForwardArguments arguments, const double* mean, const double* rstd) {
  start_dependent_launch();
  const FusedNorm& a = arguments.map;
  const std::int64_t plane = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (plane >= a.batch * a.channels) return;
  const std::int64_t n = plane / a.channels, group = a.statistics == Statistics::layer ? n : plane;
  const NormStats stats = {ld_global(mean + group), ld_global(rstd + group)};
  st_plain(arguments.affines + plane, affine_of_channel(a, stats, n, plane - n * a.channels));
}

}  // namespace fastmunit::cuda::norm
