// Forward of fused_norm for channels_last maps. A tile is `tiling.channels` channels of some rows; each thread keeps to the
// same N channels, N values of 16 bytes where the map's rows of channels are aligned, else 1.
#pragma once

#include "fastmunit/fused_norm.cuh"

namespace fastmunit::cuda {

__device__ inline int log2_of(int power_of_2) { return __ffs(power_of_2) - 1; }

// Which channels and pixels of a tile a thread takes: vector `vector` of pixels first, first + step, ... There are a power of 2
// of vectors.
struct Columns {
  int vectors, vector, first, step;

  __device__ explicit Columns(int vectors_of_pixel)
      : vectors(vectors_of_pixel),
        vector(static_cast<int>(threadIdx.x) & (vectors_of_pixel - 1)),
        first(static_cast<int>(threadIdx.x) >> log2_of(vectors_of_pixel)),
        step(static_cast<int>(blockDim.x) >> log2_of(vectors_of_pixel)) {}
};

// Calls visit(y, x) with a thread's pixels of `rows` rows.
template <class Visit>
__device__ inline void for_pixels(const Columns& columns, int rows, int width, Visit visit) {
  const auto rows_of = [&](int pixels) { return static_cast<int>(static_cast<unsigned>(pixels) / static_cast<unsigned>(width)); };
  int y = rows_of(columns.first), x = columns.first - y * width;
  const int step_rows = rows_of(columns.step), step_columns = columns.step - step_rows * width;
#pragma unroll 1
  while (y < rows) {
    visit(y, x);
    y += step_rows;
    x += step_columns;
    if (x >= width) {
      x -= width;
      ++y;
    }
  }
}

// A tile of a map: `pixel` values of each pixel, of which the first `kept` ones are in the map.
template <bool staged, class Storage>
struct PixelView {
  Storage* data;
  Offset<staged> row_pitch, column_pitch;

  __device__ Storage* at(int y, int x) const { return data + y * row_pitch + x * column_pitch; }
};

// Copies rows of pixels to shared memory, where `pixel` values of each lie without a gap.
template <int N, class Storage>
__device__ void stage_pixels(const PixelView<false, const Storage>& from, int rows, int width, int pixel, int kept,
                             Storage* to) {
  using V = Chunk<Storage, N>;
  const Columns columns(pixel / N);
  if (columns.vector * N >= kept) return;  // nothing of it is in the map
  for_pixels(columns, rows, width, [&](int y, int x) {
    const V* const source = reinterpret_cast<const V*>(from.at(y, x) + columns.vector * N);
    *reinterpret_cast<V*>(to + (y * width + x) * pixel + columns.vector * N) = ld_global(source);
  });
}

// The tile of x in channels_last, staged or in place.
template <bool staged, int N, class Storage>
struct InputPixels {
  PixelView<staged, Storage> view;  // of the pixels of x; with phases half as many rows and columns as y has
  int rows, width, pixel;
  bool phases;

  __device__ InputPixels(const FusedNormOptions& a, const Tiling& tiling, const Tile& tile, const Storage* map, Room& room) {
    const int halves = a.phases ? 1 : 0, per_channel = a.phases ? 4 : 1;
    phases = a.phases;
    rows = tile.rows >> halves;
    width = static_cast<int>(a.width) >> halves;
    pixel = tiling.channels * per_channel;
    kept_ = tile.channels * per_channel;
    const std::int64_t pitch = a.channels * per_channel;
    const std::int64_t row = tile.sample * (a.height >> halves) + (tile.row >> halves);
    from_.data = map + row * width * pitch + static_cast<std::int64_t>(tile.channel) * per_channel;
    from_.row_pitch = width * pitch;
    from_.column_pitch = pitch;
    if constexpr (staged) {
      view.data = room.take<Storage>(static_cast<std::int64_t>(rows) * width * pixel);
      view.row_pitch = width * pixel;
      view.column_pitch = pixel;
    } else {
      view = {const_cast<Storage*>(from_.data), from_.row_pitch, from_.column_pitch};
    }
  }

  __device__ void stage() const {
    if constexpr (staged) stage_pixels<N>(from_, rows, width, pixel, kept_, view.data);
  }

  // Writes what is staged to where it lies in `map`, which is as x.
  __device__ void unstage(const Storage* x, Storage* map) const {
    using V = Chunk<Storage, N>;
    const Columns columns(pixel / N);
    if (columns.vector * N >= kept_) return;
    for_pixels(columns, rows, width, [&](int y, int column) {
      const V* const from = reinterpret_cast<const V*>(view.at(y, column) + columns.vector * N);
      Storage* const to = map + (from_.at(y, column) - x) + columns.vector * N;
      st_global(reinterpret_cast<V*>(to), *from);
    });
  }

  // The first of the N channels of vector `vector` of pixel (y, x) of y, where x has phases; the next ones are 4 apart.
  __device__ Storage* phase(int y, int x, int vector) const {
    return view.at(y >> 1, x >> 1) + 4 * N * vector + 2 * (y & 1) + (x & 1);
  }

  // The N channels of vector `vector` of pixel (y, x) of y, counted from the tile's first.
  __device__ void read(int y, int x, int vector, float (&values)[N]) const {
    if (phases) {
      const Storage* const from = phase(y, x, vector);
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = fetch_float<staged>(from + 4 * k);
    } else {
      const Storage* const from = view.at(y, x) + N * vector;
      const Chunk<Storage, N> read = fetch<staged>(reinterpret_cast<const Chunk<Storage, N>*>(from));
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = widen(read.values[k]);
    }
  }

 private:
  PixelView<false, const Storage> from_;
  int kept_;
};

// The moments of the tile: of each channel, or in MUNIT's layer norm of all, the first ones of `moments`. `sums` has room for
// floats_for_sums floats.
template <bool staged, int N, class Storage>
__device__ void tile_moments(const FusedNormOptions& a, const Tile& tile, const InputPixels<staged, N, Storage>& x,
                             const Columns& columns, float* sums, Moments* moments) {
  const int width = static_cast<int>(a.width), lanes = columns.vectors * N;
  const bool layer = a.statistics == Statistics::layer;
  const bool inside = columns.vector * N < tile.channels;
  float* const scratch = sums + 2 * lanes;
  const std::int64_t pixels = static_cast<std::int64_t>(tile.rows) * width, count = layer ? pixels * tile.channels : pixels;
  // Shift is near the mean: sums of deviations from it keep their digits.
  float shift[N] = {}, deviations[N] = {}, squares[N] = {};
  const auto for_values = [&](auto visit) {
    if (!inside) return;
    for_pixels(columns, tile.rows, width, [&](int y, int column) {
      float values[N];
      x.read(y, column, columns.vector, values);
#pragma unroll
      for (int k = 0; k < N; ++k) visit(k, values[k]);
    });
  };
  const auto sum_of_lanes = [](const float(&values)[N]) {
    float sum = values[0];
#pragma unroll
    for (int k = 1; k < N; ++k) sum += values[k];
    return sum;
  };
  for_values([&](int k, float value) { shift[k] += value; });
  if (layer) {
    float sum = sum_of_lanes(shift), unused = 0.0f;
    block_sum(sum, unused, scratch);
#pragma unroll
    for (int k = 0; k < N; ++k) shift[k] = sum / static_cast<float>(count);
  } else {
    column_sum<N>(shift, columns.vectors, scratch, sums);
#pragma unroll
    for (int k = 0; k < N; ++k) shift[k] = sums[columns.vector * N + k] / static_cast<float>(count);
    __syncthreads();
  }
  for_values([&](int k, float value) {
    const float deviation = value - shift[k];
    deviations[k] += deviation;
    squares[k] += deviation * deviation;
  });
  if (layer) {
    float deviation = sum_of_lanes(deviations), square = sum_of_lanes(squares);
    block_sum(deviation, square, scratch);
    if (threadIdx.x == 0) *moments = from_shifted(shift[0], deviation, square, count);
    return;
  }
  column_sum<N>(deviations, columns.vectors, scratch, sums);
  column_sum<N>(squares, columns.vectors, scratch, sums + lanes);
  // The first pixel's threads have the shifts.
  if (columns.first == 0 && inside) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const int c = columns.vector * N + k;
      moments[c] = from_shifted(shift[k], sums[c], sums[lanes + c], count);
    }
  }
}

// One block for each tile.
template <bool staged, int N, class Storage>
__global__ void __launch_bounds__(most_threads, 1) forward_channels_last(const __grid_constant__ ForwardArguments arguments) {
  SMEM_DYNAMIC(unsigned char, shared);
  using V = Chunk<Storage, N>;
  const FusedNorm& a = arguments.map;
  const Tiling& tiling = arguments.tiling;
  const Tile tile = tile_of(a, tiling, blockIdx.x);
  const Columns columns(tiling.channels / N);
  Room room(shared);
  Moments* const moments = room.take<Moments>(tiling.channels);
  Affine<float>* const affines = room.take<Affine<float>>(tiling.channels);
  float* const sums = room.take<float>(floats_for_sums(a.layout, tiling.channels));
  const InputPixels<staged, N, Storage> x(a, tiling, tile, static_cast<const Storage*>(a.x), room);
  x.stage();
  __syncthreads();
  if (arguments.pass != Pass::apply && a.statistics != Statistics::none) {
    tile_moments(a, tile, x, columns, sums, moments);
    if (arguments.pass == Pass::reduce) {
      __syncthreads();
      if (a.statistics == Statistics::layer) {
        const int tiles = tiling.channel_tiles * tiling.row_tiles;
        if (threadIdx.x == 0) arguments.store_moments(tile.sample, static_cast<int>(blockIdx.x % tiles), *moments);
        return;
      }
#pragma unroll 1
      for (int c = static_cast<int>(threadIdx.x); c < tile.channels; c += static_cast<int>(blockDim.x)) {
        arguments.store_moments(group_index(a, tile.sample, tile.channel + c), tile.row_tile, moments[c]);
      }
      return;
    }
  }
  set_affines(arguments, tile, moments, affines);
  if (columns.vector * N >= tile.channels) return;

  float center[N], scale[N], shift[N];
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const Affine<float> affine = affines[columns.vector * N + k];
    center[k] = affine.center;
    scale[k] = affine.scale;
    shift[k] = affine.shift;
  }
  const int width = static_cast<int>(a.width), height = static_cast<int>(a.height);
  const int begin = padded_begin(a, tile), padded_width = width + 2 * a.pad;
  const bool zero = a.pad_mode == PadMode::zero;
  const ActivationFunction activation(a);
  const int channel = tile.channel + columns.vector * N;
  const std::int64_t first_row = tile.sample * (height + 2 * a.pad) + begin + a.pad;
  Storage* const to = static_cast<Storage*>(a.padded) + first_row * padded_width * a.channels + channel;
  const Storage* residual = nullptr;
  if (a.residual.data != nullptr) {
    residual = static_cast<const Storage*>(a.residual.data) + tile.sample * a.residual.sample_stride +
               channel * a.residual.channel_stride;
  }
  for_pixels(columns, padded_end(a, tile) - begin, padded_width, [&](int row, int padded_column) {
    const int y = begin + row, column = padded_column - a.pad;
    float values[N] = {};
    if (!(zero && (y < 0 || y >= height || column < 0 || column >= width))) {
      const int source = static_cast<int>(pad_source(y, height, a.pad_mode));
      const int source_column = static_cast<int>(pad_source(column, width, a.pad_mode));
      x.read(source - tile.row, source_column, columns.vector, values);
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = activation((values[k] - center[k]) * scale[k] + shift[k]);
      if (residual != nullptr) {
        const Storage* const added = residual + source * a.residual.row_stride + source_column * a.residual.column_stride;
        const V vector = ld_global(reinterpret_cast<const V*>(added));
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] += widen(vector.values[k]);
      }
    }
    V result;
#pragma unroll
    for (int k = 0; k < N; ++k) result.values[k] = narrowed<Storage>(values[k]);
    st_global(reinterpret_cast<V*>(to + (static_cast<std::int64_t>(row) * padded_width + padded_column) * a.channels), result);
  });
}

}  // namespace fastmunit::cuda
