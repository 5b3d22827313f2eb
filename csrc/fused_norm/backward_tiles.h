// How the CUDA kernels of fused_norm cut a map into tiles, one for each block, and what they keep of it in shared memory.
//
// A tile is some rows of some channels of one sample: all rows of a few planes, or a part of the rows of one plane; in
// channels_last a part of the rows of a few channels.
#pragma once

#include <cstdint>

#include "common/division.h"
#include "common/moments.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cuda {

// What a launch does: statistics (or sums) and all else in one reading, or only the one, or only the other.
enum class Pass { whole, reduce, apply };

struct Tiling {
  int channels;       // of a tile; those of the last one may be fewer
  int channel_tiles;  // that cover the channels
  int row_tiles;      // that cover the rows
};

struct Tile {
  std::int64_t sample;
  int channel, channels;
  int row, rows;
  int row_tile;
};

struct TileRows {
  int first, count;
};

// From steps * row_tile / row_tiles to where the next tile begins, in steps of a row, or of two with phases. In 32 bits, as there
// are at most 2^16 row tiles.
FASTMUNIT_HOST_DEVICE inline TileRows rows_of_tile(const FusedNormOptions& a, const Tiling& tiling, int row_tile) {
  const unsigned step = a.phases ? 2 : 1, steps = static_cast<unsigned>(a.height) / step;
  const unsigned tile = static_cast<unsigned>(row_tile), tiles = static_cast<unsigned>(tiling.row_tiles);
  const unsigned each = steps / tiles, rest = steps - each * tiles;
  const unsigned longer_before = rest * tile / tiles;  // tiles that have a step more
  const unsigned longer = rest * tile - longer_before * tiles + rest >= tiles ? 1 : 0;
  return {static_cast<int>(step * (each * tile + longer_before)), static_cast<int>(step * (each + longer))};
}

// Tile `index`; those of a sample, and of the channels in it, lie one behind the other.
FASTMUNIT_HOST_DEVICE inline Tile tile_of(const FusedNormOptions& a, const Tiling& tiling, unsigned index) {
  const unsigned row_tiles = static_cast<unsigned>(tiling.row_tiles);
  const unsigned channel_tiles = static_cast<unsigned>(tiling.channel_tiles);
  Tile tile;
  tile.row_tile = static_cast<int>(index % row_tiles);
  index /= row_tiles;
  tile.channel = static_cast<int>(index % channel_tiles) * tiling.channels;
  tile.sample = index / channel_tiles;
  const int left = static_cast<int>(a.channels) - tile.channel;
  tile.channels = left < tiling.channels ? left : tiling.channels;
  const TileRows rows = rows_of_tile(a, tiling, tile.row_tile);
  tile.row = rows.first;
  tile.rows = rows.count;
  return tile;
}

// The rows of the padded map that a tile writes or reads: its own and the pad beyond them, counted without the pad.
FASTMUNIT_HOST_DEVICE inline int padded_begin(const FusedNormOptions& a, const Tile& tile) {
  return tile.row == 0 ? -a.pad : tile.row;
}
FASTMUNIT_HOST_DEVICE inline int padded_end(const FusedNormOptions& a, const Tile& tile) {
  const int end = tile.row + tile.rows;
  return end == a.height ? end + a.pad : end;
}

constexpr FASTMUNIT_HOST_DEVICE std::int64_t rounded_up(std::int64_t count, std::int64_t to) {
  return (count + to - 1) / to * to;
}

// How far apart the phases of x lie in an NCHW tile in shared memory: as near as an equal place in 16 bytes allows.
FASTMUNIT_HOST_DEVICE inline int phase_pitch(int in_tile, std::int64_t in_memory, int vector) {
  return in_tile + static_cast<int>((in_memory - in_tile) % vector);
}

constexpr int vector_bytes = 16;

// Into how many aligned 16 bytes a row of `width` values of an NCHW map can fall, wherever it begins.
inline int chunks_of_row(std::int64_t width, int value_bytes) {
  const int values = vector_bytes / value_bytes;
  return static_cast<int>((width + 2 * values - 2) / values);
}

constexpr int most_threads = 512;
constexpr int most_warps = most_threads / 32;

// Floats that kernels need to sum over the `channels` of a tile.
constexpr FASTMUNIT_HOST_DEVICE std::int64_t floats_for_sums(Layout layout, int channels) {
  return 4 * most_warps + (layout == Layout::nchw ? 0 : (most_warps + 2) * channels);
}

// Bytes in front of the tiles in shared memory: for sums, and for what is known of each channel.
constexpr FASTMUNIT_HOST_DEVICE std::int64_t bytes_before_tiles(Layout layout, int channels) {
  const std::int64_t doubles = 2 * (2 * channels + 1), floats = 2 * 3 * channels;
  return rounded_up(8 * doubles, vector_bytes) + rounded_up(4 * floats, vector_bytes) + 2 * vector_bytes +
         rounded_up(4 * floats_for_sums(layout, channels), vector_bytes);
}

}  // namespace fastmunit::cuda
