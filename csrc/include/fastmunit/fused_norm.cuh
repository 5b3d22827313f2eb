// Forward of fused_norm for NCHW maps; fastmunit/fused_norm.h says what it computes.
#pragma once

#include "fastmunit/fused_norm_groups.cuh"
#include "fastmunit/fused_norm_memory.cuh"
#include "fastmunit/pad_index.h"
#include "fastmunit/reductions.cuh"

namespace fastmunit::cuda {

struct ForwardArguments {
  FusedNorm map;
  Tiling tiling;
  Pass pass;
  int cluster;                // blocks that hold a group, where the pass is whole
  double* partials;           // the moments of tiles: what reduce writes
  Division by_padded_width, by_chunks;  // by chunks_of_row of the residual

  // Those of tile `tile` of a group. Tiles lie side by side in MUNIT's layer norm, else planes do.
  __device__ Moments load_moments(std::int64_t group, int tile) const {
    const Pair pair = ld_global(moments_at(group, tile));
    return {pair.values[0], pair.values[1]};
  }
  __device__ void store_moments(std::int64_t group, int tile, Moments moments) const {
    st_global(moments_at(group, tile), Pair{{moments.mean, moments.squares}});
  }

 private:
  using Pair = Chunk<double, 2>;
  __device__ Pair* moments_at(std::int64_t group, int tile) const {
    Pair* const pairs = reinterpret_cast<Pair*>(partials);
    if (map.statistics != Statistics::layer) return pairs + tile * map.batch * map.channels + group;
    return pairs + group * tiling.channel_tiles * tiling.row_tiles + tile;
  }
};

// How many values tile `index` of a group has that go into its statistic.
__device__ inline double values_of(const FusedNormOptions& a, const Tiling& tiling, int index) {
  const unsigned channel_tile = static_cast<unsigned>(index) / static_cast<unsigned>(tiling.row_tiles);
  const int channel = static_cast<int>(channel_tile) * tiling.channels;
  const int row_tile = index - static_cast<int>(channel_tile) * tiling.row_tiles;
  const double pixels = static_cast<double>(rows_of_tile(a, tiling, row_tile).count) * static_cast<double>(a.width);
  if (a.statistics != Statistics::layer) return pixels;
  const int left = static_cast<int>(a.channels) - channel;
  return pixels * (left < tiling.channels ? left : tiling.channels);
}

__device__ inline double values_of_group(const FusedNormOptions& a) {
  const double pixels = static_cast<double>(a.height) * static_cast<double>(a.width);
  return a.statistics == Statistics::layer ? pixels * static_cast<double>(a.channels) : pixels;
}

// What of the statistics channel c of sample n belongs to.
__device__ inline std::int64_t group_index(const FusedNormOptions& a, std::int64_t n, std::int64_t c) {
  return a.statistics == Statistics::layer ? n : n * a.channels + c;
}

// Writes affines[c] for the channels of the tile. In a whole pass `moments` are those of the tile, in this block's shared
// memory and at the same place in the cluster's others: one for each channel, or one for all in MUNIT's layer norm.
__device__ inline void set_affines(const ForwardArguments& arguments, const Tile& tile, Moments* moments,
                                   Affine<float>* affines) {
  const FusedNorm& a = arguments.map;
  const GroupBlocks blocks(a.statistics == Statistics::none ? 1 : arguments.cluster);
  const bool whole = arguments.pass == Pass::whole && a.statistics != Statistics::none;
  if (whole) blocks.sync();
#pragma unroll 1
  for (int c = static_cast<int>(threadIdx.x); c < tile.channels; c += static_cast<int>(blockDim.x)) {
    const std::int64_t channel = tile.channel + c, at = group_index(a, tile.sample, channel);
    Group group = {0.0, 1.0};
    if (whole) {
      Moments* const mine = moments + (a.statistics == Statistics::layer ? 0 : c);
      const Moments all = union_of(
          blocks.count, [&](int rank) { return blocks.of(mine, rank); },
          [&](int rank) { return values_of(a, arguments.tiling, rank); });
      group = group_of(all, values_of_group(a), a.statistics, a.eps);
      if (blocks.rank() == 0 && (a.statistics == Statistics::instance || c == 0)) {
        st_global(a.mean + at, group.mean);
        st_global(a.rstd + at, group.rstd);
      }
    } else if (a.statistics != Statistics::none) {
      group = {ld_global(a.mean + at), ld_global(a.rstd + at)};
    }
    affines[c] = affine_of<float>(group, coefficient(a.weight, tile.sample, channel, 1.0),
                                  coefficient(a.bias, tile.sample, channel, 0.0));
  }
  if (whole) {
    blocks.sync();  // no block may end while another one reads its shared memory
  } else {
    __syncthreads();
  }
}

// The tile of x, staged at `room` or in place, and its runs: `runs` times `run` values side by side.
template <bool staged, class Storage>
struct InputRuns {
  InputView<staged, Storage> view;
  int runs, run;

  __device__ InputRuns(const FusedNormOptions& a, const Tile& tile, const Storage* map, Room& room) {
    constexpr int N = vector_values<Storage>;
    const int width = static_cast<int>(a.width), height = static_cast<int>(a.height);
    const std::int64_t plane = a.height * a.width;
    const bool part = a.phases && tile.rows < height;
    runs = part ? 4 : 1;
    run = tile.channels * tile.rows * width / runs;
    const std::int64_t in_memory = plane / 4;
    from_ = map + (tile.sample * a.channels + tile.channel) * plane +
            (a.phases ? static_cast<std::int64_t>(tile.row / 2) * (width / 2) : static_cast<std::int64_t>(tile.row) * width);
    view.width = width;
    view.phases = a.phases;
    pitch_ = in_memory;
    if constexpr (staged) {
      view.plane_pitch = height * width;
      view.phase_pitch = part ? phase_pitch(run, in_memory, N) : height * width / 4;
      view.data = room.take<Storage>(N + (runs - 1) * view.phase_pitch + run) + misalignment<N>(from_);
    } else {
      view.plane_pitch = plane;
      view.phase_pitch = in_memory;
      view.data = const_cast<Storage*>(from_);
    }
  }

  __device__ void stage() const {
    if constexpr (staged) {
      for (int k = 0; k < runs; ++k) copy_values(from_ + k * pitch_, view.data + k * view.phase_pitch, run, Stage());
    }
  }

  // Writes what is staged to where it lies in `map`, which is as x.
  __device__ void unstage(const Storage* x, Storage* map) const {
    for (int k = 0; k < runs; ++k) {
      const Storage* const from = view.data + k * view.phase_pitch;
      Storage* const to = map + (from_ - x) + k * pitch_;
      if (misalignment<vector_values<Storage>>(from) == misalignment<vector_values<Storage>>(to)) {
        copy_values(from, to, run, Unstage());
        continue;
      }
      for (int i = static_cast<int>(threadIdx.x); i < run; i += static_cast<int>(blockDim.x)) st_global(to + i, from[i]);
    }
  }

  template <class Visit>
  __device__ void for_each(Visit visit) const {
    for (int k = 0; k < runs; ++k) for_values<staged>(view.data + k * view.phase_pitch, run, visit);
  }

 private:
  const Storage* from_;
  std::int64_t pitch_;  // of the phases in memory
};

// The moments of the tile, in all threads.
template <bool staged, class Storage>
__device__ Moments tile_moments(const InputRuns<staged, Storage>& x, float* scratch) {
  const float count = static_cast<float>(x.runs * x.run);
  float sum = 0.0f, unused = 0.0f;
  x.for_each([&](float value) { sum += value; });
  block_sum(sum, unused, scratch);
  const float shift = sum / count;
  float deviations = 0.0f, squares = 0.0f;
  x.for_each([&](float value) {
    const float deviation = value - shift;
    deviations += deviation;
    squares += deviation * deviation;
  });
  block_sum(deviations, squares, scratch);
  return from_shifted(shift, deviations, squares, static_cast<std::int64_t>(x.runs) * x.run);
}

// Replaces one plane of the staged tile by y before the pad, where there is a residual: it is read once, and rows that begin
// anywhere are read 16 bytes at a time.
template <class Storage>
__device__ void add_residual(const ForwardArguments& arguments, const Tile& tile, int c, const InputView<true, Storage>& x,
                             Affine<float> affine) {
  const FusedNorm& a = arguments.map;
  const ActivationFunction activation(a);
  const Storage* const residual = static_cast<const Storage*>(a.residual.data) + tile.sample * a.residual.sample_stride +
                                  (tile.channel + c) * a.residual.channel_stride + tile.row * a.residual.row_stride;
  for_rows(residual, a.residual.row_stride, tile.rows, static_cast<int>(a.width), arguments.by_chunks,
           [&](int row, int column, Storage added) {
             Storage* const at = x.at(c, row, column);
             *at = narrowed<Storage>(activation((widen(*at) - affine.center) * affine.scale + affine.shift) + widen(added));
           });
}

// y of one plane and its pad, from the tile's padded_begin to its padded_end. What is staged has its residual already.
template <bool staged, class Storage>
__device__ void write_plane(const ForwardArguments& arguments, const Tile& tile, int c, const InputView<staged, Storage>& x,
                            Affine<float> affine, const ActivationFunction& activation) {
  constexpr int N = vector_values<Storage>;
  const FusedNorm& a = arguments.map;
  const int width = static_cast<int>(a.width), height = static_cast<int>(a.height), pad = a.pad;
  const int padded_width = width + 2 * pad;
  const int begin = padded_begin(a, tile), count = (padded_end(a, tile) - begin) * padded_width;
  const std::int64_t plane = tile.sample * a.channels + tile.channel + c;
  Storage* const to = static_cast<Storage*>(a.padded) + (plane * (height + 2 * pad) + begin + pad) * padded_width;
  const bool zero = a.pad_mode == PadMode::zero;
  const auto finished = [&](int row, int column) {
    const float value = widen(fetch<staged>(x.at(c, row - tile.row, column)));
    float y = activation((value - affine.center) * affine.scale + affine.shift);
    if constexpr (!staged) {
      if (a.residual.data != nullptr) {
        y += widen(ld_global(static_cast<const Storage*>(a.residual.data) + tile.sample * a.residual.sample_stride +
                             (tile.channel + c) * a.residual.channel_stride + row * a.residual.row_stride + column));
      }
    }
    return y;
  };
  const auto value_at = [&](int y, int column) {
    if (zero && (y < 0 || y >= height || column < 0 || column >= width)) return 0.0f;
    return finished(static_cast<int>(pad_source(y, height, a.pad_mode)),
                    static_cast<int>(pad_source(column, width, a.pad_mode)));
  };
  const int shift = misalignment<line_values<Storage>>(to);
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) * N - shift; first < count; first += static_cast<int>(blockDim.x) * N) {
    const int inside = first < 0 ? 0 : first;
    const int row = arguments.by_padded_width.quotient(inside);
    int y = begin + row, column = inside - row * padded_width - pad;
    if (first < 0 || first + N > count) {
#pragma unroll 1
      for (int i = inside; i < first + N && i < count; ++i) {
        st_global(to + i, narrowed<Storage>(value_at(y, column)));
        if (++column == width + pad) {
          column = -pad;
          ++y;
        }
      }
      continue;
    }
    float values[N] = {};
    if (column >= 0 && column + N <= width && !(zero && (y < 0 || y >= height))) {
      const int source = static_cast<int>(pad_source(y, height, a.pad_mode));
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = finished(source, column + k);
    } else {
#pragma unroll 1
      for (int k = 0; k < N; ++k) {
        set_lane(values, k, value_at(y, column));
        if (++column == width + pad) {
          column = -pad;
          ++y;
        }
      }
    }
    Chunk<Storage, N> result;
#pragma unroll
    for (int k = 0; k < N; ++k) result.values[k] = narrowed<Storage>(values[k]);
    st_global(reinterpret_cast<Chunk<Storage, N>*>(to + first), result);
  }
}

// One block for each tile.
template <bool staged, class Storage>
__global__ void __launch_bounds__(most_threads, 1) forward_nchw(const __grid_constant__ ForwardArguments arguments) {
  SMEM_DYNAMIC(unsigned char, shared);
  const FusedNorm& a = arguments.map;
  const Tile tile = tile_of(a, arguments.tiling, blockIdx.x);
  Room room(shared);
  Moments* const moments = room.take<Moments>(1);
  Affine<float>* const affines = room.take<Affine<float>>(tile.channels);
  float* const scratch = room.take<float>(floats_for_sums(a.layout, tile.channels));
  const InputRuns<staged, Storage> x(a, tile, static_cast<const Storage*>(a.x), room);
  x.stage();
  __syncthreads();
  if (arguments.pass != Pass::apply && a.statistics != Statistics::none) {
    const Moments of_tile = tile_moments(x, scratch);
    if (arguments.pass == Pass::reduce) {
      // A tile of a plane has its channel alone.
      const int tiles = arguments.tiling.channel_tiles * arguments.tiling.row_tiles;
      const int index = static_cast<int>(blockIdx.x % tiles);
      const bool layer = a.statistics == Statistics::layer;
      if (threadIdx.x == 0) {
        arguments.store_moments(group_index(a, tile.sample, tile.channel), layer ? index : tile.row_tile, of_tile);
      }
      return;
    }
    if (threadIdx.x == 0) *moments = of_tile;
  }
  set_affines(arguments, tile, moments, affines);
  ActivationFunction activation(a);
  if constexpr (staged) {
    if (a.residual.data != nullptr) {
      for (int c = 0; c < tile.channels; ++c) add_residual(arguments, tile, c, x.view, affines[c]);
      __syncthreads();
      activation = {};
    }
  }
  for (int c = 0; c < tile.channels; ++c) {
    const bool done = staged && a.residual.data != nullptr;
    write_plane(arguments, tile, c, x.view, done ? Affine<float>{0.0f, 1.0f, 0.0f} : affines[c], activation);
  }
}

}  // namespace fastmunit::cuda
