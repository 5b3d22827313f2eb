// Backward of fused_norm for channels_last maps; tiles and threads as in fused_norm_backward_pixels.cuh.
#pragma once

#include "fused_norm/backward_pixels.cuh"
#include "fused_norm/backward_sums.cuh"

namespace fastmunit::cuda {

// The tile of a gradient, staged or in place, from this thread's channels on.
template <bool staged, int N, class Storage>
struct GradientPixels {
  PixelView<staged, const Storage> view;
  int row = 0, column = 0;  // of the map, that the view begins with
  bool present = false;

  GradientPixels() = default;

  // Rows begin to end, counted without the pad, of `map` with `pad` pixels around each plane.
  __device__ GradientPixels(const FusedNormOptions& a, const Tiling& tiling, const Tile& tile, const Columns& columns,
                            const StridedMap& map, int pad, int begin, int end, Room& room)
      : row(begin), column(-pad), present(map.data != nullptr) {
    if (!present) return;
    const int width = static_cast<int>(a.width) + 2 * pad;
    const PixelView<false, const Storage> from = {
        static_cast<const Storage*>(map.data) + tile.sample * map.sample_stride + tile.channel * map.channel_stride +
            (begin + pad) * map.row_stride,
        map.row_stride, map.column_stride};
    if constexpr (staged) {
      Storage* const to = room.take<Storage>(static_cast<std::int64_t>(end - begin) * width * tiling.channels);
      stage_pixels<N>(from, end - begin, width, tiling.channels, tile.channels, to);
      view = {to, width * tiling.channels, tiling.channels};
    } else {
      view = from;
    }
    view.data += columns.vector * N;
  }

  __device__ void add(int y, int x, float (&sum)[N]) const {
    const Chunk<Storage, N> read = fetch<staged>(reinterpret_cast<const Chunk<Storage, N>*>(view.at(y - row, x - column)));
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += widen(read.values[k]);
  }
};

// One block for each tile.
template <bool staged, int N, class Storage>
__global__ void __launch_bounds__(most_threads, 1)
    backward_channels_last(const __grid_constant__ BackwardArguments arguments) {
  SMEM_DYNAMIC(unsigned char, shared);
  using V = Chunk<Storage, N>;
  const FusedNormBackward& a = arguments.map;
  const Tiling& tiling = arguments.tiling;
  const Tile tile = tile_of(a, tiling, blockIdx.x);
  const Columns columns(tiling.channels / N);
  const int width = static_cast<int>(a.width), height = static_cast<int>(a.height), lanes = columns.vectors * N;
  const Storage* const map = static_cast<const Storage*>(a.x);
  Room room(shared);
  GradientSums* const sums = room.take<GradientSums>(tiling.channels + 1);
  Group* const groups = room.take<Group>(tiling.channels);
  Affine<float>* const affines = room.take<Affine<float>>(tiling.channels);
  Line<float>* const lines = room.take<Line<float>>(tiling.channels);
  float* const column_sums = room.take<float>(floats_for_sums(a.layout, tiling.channels));
  float* const scratch = column_sums + 2 * lanes;
  const InputPixels<staged, N, Storage> x(a, tiling, tile, map, room);
  x.stage();
  const GradientPixels<staged, N, Storage> padded(a, tiling, tile, columns, a.dpadded, a.pad, padded_begin(a, tile),
                                                  padded_end(a, tile), room);
  const GradientPixels<staged, N, Storage> interior(a, tiling, tile, columns, a.dinterior, 0, tile.row,
                                                    tile.row + tile.rows, room);
  set_affines(arguments, tile, groups, affines, lines);
  const bool inside = columns.vector * N < tile.channels;
  const ActivationFunction activation(a);
  float center[N] = {}, scale[N] = {}, shift[N] = {};
  if (inside) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const Affine<float> affine = affines[columns.vector * N + k];
      center[k] = affine.center;
      scale[k] = affine.scale;
      shift[k] = affine.shift;
    }
  }
  // The gradient with respect to pixel (y, column) of the tile before the pad: dinterior, and dpadded folded back.
  const auto gradient = [&](int row, int column, float(&dy)[N]) {
    const int y = tile.row + row;
    if (interior.present) interior.add(y, column, dy);
    if (!padded.present) return;
    const PadTargets rows(y, height, a.pad, a.pad_mode), shown(column, width, a.pad, a.pad_mode);
#pragma unroll 1
    for (int i = 0; i < rows.count(); ++i) {
#pragma unroll 1
      for (int j = 0; j < shown.count(); ++j) padded.add(rows[i], shown[j], dy);
    }
  };
  // Calls visit(row, column, dy, deviations, dz) with each of the thread's pixels.
  const auto for_gradients = [&](auto visit) {
    if (!inside) return;
    for_pixels(columns, tile.rows, width, [&](int row, int column) {
      float dy[N] = {}, deviation[N], dz[N];
      gradient(row, column, dy);
      x.read(row, column, columns.vector, deviation);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        deviation[k] -= center[k];
        dz[k] = activation.gradient(dy[k], deviation[k] * scale[k] + shift[k]);
      }
      visit(row, column, dy, deviation, dz);
    });
  };
  const bool sums_up = arguments.pass == Pass::reduce || (arguments.pass == Pass::whole &&
                                                          (a.statistics != Statistics::none || arguments.partials != nullptr));
  if (sums_up) {
    float sum_dz[N] = {}, sum_product[N] = {};
    for_gradients([&](int, int, const float(&)[N], const float(&deviation)[N], const float(&dz)[N]) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        sum_dz[k] += dz[k];
        sum_product[k] += dz[k] * deviation[k];
      }
    });
    column_sum<N>(sum_dz, columns.vectors, scratch, column_sums);
    column_sum<N>(sum_product, columns.vectors, scratch, column_sums + lanes);
#pragma unroll 1
    for (int c = static_cast<int>(threadIdx.x); c < tile.channels; c += static_cast<int>(blockDim.x)) {
      sums[c] = sums_about_mean<float>(groups[c], {column_sums[c], column_sums[lanes + c]});
      keep_sums(arguments, tile, c, column_sums[c], column_sums[lanes + c]);
    }
  }
  if (arguments.pass == Pass::reduce) return;
  if (arguments.pass == Pass::whole) {
    set_lines(arguments, tile, groups, sums, reinterpret_cast<double*>(column_sums), lines);
  }
  float gain[N] = {}, slope[N] = {}, constant[N] = {};
  if (inside) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const Line<float> line = lines[columns.vector * N + k];
      gain[k] = line.gain;
      slope[k] = line.slope;
      constant[k] = line.constant;
    }
  }
  const int channel = tile.channel + columns.vector * N;
  const bool none = a.statistics == Statistics::none;  // then a slope of 0 would make NaN of an infinite deviation
  for_gradients([&](int row, int column, const float(&dy)[N], const float(&deviation)[N], const float(&dz)[N]) {
    const std::int64_t pixel = (tile.sample * a.height + tile.row + row) * a.width + column;
    V result;
    if (a.dresidual != nullptr) {
#pragma unroll
      for (int k = 0; k < N; ++k) result.values[k] = narrowed<Storage>(dy[k]);
      st_global(reinterpret_cast<V*>(static_cast<Storage*>(a.dresidual) + pixel * a.channels + channel), result);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      result.values[k] = narrowed<Storage>(gain[k] * dz[k] + (none ? 0.0f : slope[k] * deviation[k] + constant[k]));
    }
    if (!a.phases) {
      st_global(reinterpret_cast<V*>(static_cast<Storage*>(a.dx) + pixel * a.channels + channel), result);
      return;
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      Storage* const to = x.phase(row, column, columns.vector) + 4 * k;
      if constexpr (staged) {
        *to = result.values[k];  // in place of x, which nothing reads again
      } else {
        st_global(static_cast<Storage*>(a.dx) + (to - map), result.values[k]);
      }
    }
  });
  if (staged && a.phases) {
    __syncthreads();
    x.unstage(map, static_cast<Storage*>(a.dx));
  }
}

}  // namespace fastmunit::cuda
