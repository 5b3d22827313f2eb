// Backward of fused_norm for NCHW maps; fused_norm.h says what it computes.
#pragma once

#include "fused_norm/backward_sums.cuh"

namespace fastmunit::cuda {

// The tile of a gradient, staged or in place.
template <bool staged, class Storage>
struct GradientView {
  const Storage* data = nullptr;  // null where the gradient is absent
  Offset<staged> plane_pitch = 0, row_pitch = 0;
  int row = 0, column = 0;  // of the map, that `data` begins with

  __device__ const Storage* at(int c, int y, int x) const {
    return data + c * plane_pitch + (y - row) * row_pitch + (x - column);
  }
};

// Rows begin to end, counted without the pad, of `map` with `pad` pixels around each plane.
template <bool staged, class Storage>
__device__ GradientView<staged, Storage> gradient_view(const BackwardArguments& arguments, const Tile& tile,
                                                       const StridedMap& map, int pad, int begin, int end, Room& room) {
  constexpr int N = vector_values<Storage>;
  GradientView<staged, Storage> view;
  if (map.data == nullptr) return view;
  const int width = static_cast<int>(arguments.map.width) + 2 * pad, rows = end - begin;
  const Storage* const from = static_cast<const Storage*>(map.data) + tile.sample * map.sample_stride +
                              tile.channel * map.channel_stride + (begin + pad) * map.row_stride;
  view.row = begin;
  view.column = -pad;
  if constexpr (staged) {
    const int count = tile.channels * rows * width;
    Storage* to = room.take<Storage>(N + count);
    if (map.row_stride == width && (tile.channels == 1 || map.channel_stride == static_cast<std::int64_t>(rows) * width)) {
      to += misalignment<N>(from);
      copy_values(from, to, count, Stage());
    } else {
      for (int c = 0; c < tile.channels; ++c) {
        for_rows(from + c * map.channel_stride, map.row_stride, rows, width, pad > 0 ? arguments.by_padded_chunks : arguments.by_chunks,
                 [&](int row, int column, Storage value) { to[(c * rows + row) * width + column] = value; });
      }
    }
    view.data = to;
    view.plane_pitch = rows * width;
    view.row_pitch = width;
  } else {
    view.data = from;
    view.plane_pitch = map.channel_stride;
    view.row_pitch = map.row_stride;
  }
  return view;
}

// The gradient with respect to y before the pad: dinterior, and dpadded folded back.
template <bool staged, class Storage>
struct Gradient {
  GradientView<staged, Storage> padded, interior;
  int height, width, pad;
  PadMode mode;

  __device__ Gradient(const BackwardArguments& arguments, const Tile& tile, Room& room)
      : padded(gradient_view<staged, Storage>(arguments, tile, arguments.map.dpadded, arguments.map.pad,
                                              padded_begin(arguments.map, tile), padded_end(arguments.map, tile), room)),
        interior(gradient_view<staged, Storage>(arguments, tile, arguments.map.dinterior, 0, tile.row,
                                                tile.row + tile.rows, room)),
        height(static_cast<int>(arguments.map.height)),
        width(static_cast<int>(arguments.map.width)),
        pad(arguments.map.pad),
        mode(arguments.map.pad_mode) {}

  // Whether no pad shows any of `count` pixels from (y, x) on.
  __device__ bool not_in_pad(int y, int x, int count) const {
    if (padded.data == nullptr || pad == 0 || mode == PadMode::zero) return true;
    return y > pad && y < height - 1 - pad && x > pad && x + count - 1 < width - 1 - pad;
  }

  // Of a pixel that no pad shows.
  __device__ float inner(int c, int y, int x) const {
    float sum = padded.data == nullptr ? 0.0f : widen(fetch<staged>(padded.at(c, y, x)));
    if (interior.data != nullptr) sum += widen(fetch<staged>(interior.at(c, y, x)));
    return sum;
  }

  // Of any pixel.
  __device__ float at(int c, int y, int x) const {
    float sum = interior.data == nullptr ? 0.0f : widen(fetch<staged>(interior.at(c, y, x)));
    if (padded.data == nullptr) return sum;
    const PadTargets rows(y, height, pad, mode), columns(x, width, pad, mode);
#pragma unroll 1
    for (int i = 0; i < rows.count(); ++i) {
#pragma unroll 1
      for (int j = 0; j < columns.count(); ++j) sum += widen(fetch<staged>(padded.at(c, rows[i], columns[j])));
    }
    return sum;
  }
};

// The pixels of one plane of the tile: adds to the sums, or writes dx and dresidual.
template <bool applies, bool staged, class Storage>
__device__ void gradient_of_plane(const BackwardArguments& arguments, const Tile& tile, int c,
                                  const InputView<staged, Storage>& x, const Gradient<staged, Storage>& gradient,
                                  Affine<float> affine, Line<float> line, float& sum_dz, float& sum_product) {
  constexpr int N = vector_values<Storage>;
  using V = Chunk<Storage, N>;
  const FusedNormBackward& a = arguments.map;
  const int width = static_cast<int>(a.width), count = tile.rows * width;
  const ActivationFunction activation(a);
  const bool none = a.statistics == Statistics::none;  // then a slope of 0 would make NaN of an infinite deviation
  const std::int64_t plane = tile.sample * a.channels + tile.channel + c;
  const std::int64_t begin = (plane * a.height + tile.row) * width;
  Storage* const dx = static_cast<Storage*>(a.dx) + begin;
  Storage* const dresidual = a.dresidual == nullptr ? nullptr : static_cast<Storage*>(a.dresidual) + begin;
  const Storage* const aligned_to = a.phases && dresidual != nullptr ? dresidual : dx;
  const int shift = applies ? misalignment<line_values<Storage>>(aligned_to) : 0;
  const auto write = [&](Storage* to, int first, const float(&values)[N]) {
    if (first >= 0 && first + N <= count && misalignment<N>(to + first) == 0) {
      V vector;
#pragma unroll
      for (int k = 0; k < N; ++k) vector.values[k] = narrowed<Storage>(values[k]);
      st_global(reinterpret_cast<V*>(to + first), vector);
      return;
    }
#pragma unroll 1
    for (int i = first < 0 ? 0 : first; i < first + N && i < count; ++i) {
      st_global(to + i, narrowed<Storage>(lane_of(values, i - first)));
    }
  };
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) * N - shift; first < count; first += static_cast<int>(blockDim.x) * N) {
    const int inside = first < 0 ? 0 : first;
    const int row = arguments.by_width.quotient(inside), column = inside - row * width;
    float dy[N], deviation[N];
    const bool whole = first >= 0 && first + N <= count;
    if (whole && column + N <= width && gradient.not_in_pad(tile.row + row, column, N)) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        dy[k] = gradient.inner(c, tile.row + row, column + k);
        deviation[k] = fetch_float<staged>(x.at(c, row, column + k)) - affine.center;
      }
    } else {
      int y = row, at = column;
#pragma unroll
      for (int k = 0; k < N; ++k) dy[k] = deviation[k] = 0.0f;
#pragma unroll 1
      for (int i = inside; i < first + N && i < count; ++i) {
        set_lane(dy, i - first, gradient.at(c, tile.row + y, at));
        set_lane(deviation, i - first, fetch_float<staged>(x.at(c, y, at)) - affine.center);
        if (++at == width) {
          at = 0;
          ++y;
        }
      }
    }
    if constexpr (applies) {
      float result[N];
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float dz = activation.gradient(dy[k], deviation[k] * affine.scale + affine.shift);
        result[k] = line.gain * dz + (none ? 0.0f : line.slope * deviation[k] + line.constant);
      }
      if (dresidual != nullptr) write(dresidual, first, dy);
      if (!a.phases) {
        write(dx, first, result);
        continue;
      }
      int y = row, at = column;
#pragma unroll 1
      for (int i = inside; i < first + N && i < count; ++i) {
        Storage* const to = x.at(c, y, at);
        const Storage value = narrowed<Storage>(lane_of(result, i - first));
        if constexpr (staged) {
          *to = value;  // in place of x, which nothing reads again
        } else {
          st_global(static_cast<Storage*>(a.dx) + (to - static_cast<const Storage*>(a.x)), value);
        }
        if (++at == width) {
          at = 0;
          ++y;
        }
      }
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float dz = activation.gradient(dy[k], deviation[k] * affine.scale + affine.shift);
        sum_dz += dz;
        sum_product += dz * deviation[k];
      }
    }
  }
}

// One block for each tile.
template <bool staged, class Storage>
__global__ void __launch_bounds__(most_threads, 1) backward_nchw(const __grid_constant__ BackwardArguments arguments) {
  SMEM_DYNAMIC(unsigned char, shared);
  const FusedNormBackward& a = arguments.map;
  const Tile tile = tile_of(a, arguments.tiling, blockIdx.x);
  const Storage* const map = static_cast<const Storage*>(a.x);
  Room room(shared);
  GradientSums* const sums = room.take<GradientSums>(arguments.tiling.channels + 1);
  Group* const groups = room.take<Group>(arguments.tiling.channels);
  Affine<float>* const affines = room.take<Affine<float>>(arguments.tiling.channels);
  Line<float>* const lines = room.take<Line<float>>(arguments.tiling.channels);
  double* const scratch = reinterpret_cast<double*>(room.take<float>(floats_for_sums(a.layout, arguments.tiling.channels)));
  const InputRuns<staged, Storage> x(a, tile, map, room);
  x.stage();
  const Gradient<staged, Storage> gradient(arguments, tile, room);
  set_affines(arguments, tile, groups, affines, lines);
  float dz = 0.0f, product = 0.0f;
  const bool sums_up = arguments.pass == Pass::reduce || (arguments.pass == Pass::whole &&
                                                          (a.statistics != Statistics::none || arguments.partials != nullptr));
  for (int c = 0; sums_up && c < tile.channels; ++c) {
    dz = product = 0.0f;
    gradient_of_plane<false>(arguments, tile, c, x.view, gradient, affines[c], {}, dz, product);
    block_sum(dz, product, reinterpret_cast<float*>(scratch));
    if (threadIdx.x == 0) {
      sums[c] = sums_about_mean<float>(groups[c], {dz, product});
      keep_sums(arguments, tile, c, dz, product);
    }
  }
  if (arguments.pass == Pass::reduce) return;
  if (arguments.pass == Pass::whole) set_lines(arguments, tile, groups, sums, scratch, lines);
  for (int c = 0; c < tile.channels; ++c) {
    gradient_of_plane<true>(arguments, tile, c, x.view, gradient, affines[c], lines[c], dz, product);
  }
  if (staged && a.phases) {
    __syncthreads();
    x.unstage(map, static_cast<Storage*>(a.dx));
  }
}

}  // namespace fastmunit::cuda
