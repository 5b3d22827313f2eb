// How the backward of fused_norm reads channels_last maps. A tile is `tiling.channels` channels of some rows; each thread keeps to
// the same N channels, N values of 16 bytes where the map's rows of channels are aligned, else 1.
#pragma once

#include "fused_norm/backward_runs.cuh"

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

}  // namespace fastmunit::cuda
