// The launch table of fused_norm's CUDA kernels: from a map and a GPU to tiles, passes, threads and shared memory. Host code
// without CUDA.
//
// A group (a plane for instance norm, a sample for MUNIT's layer norm) that fits in the shared memory of one block, or of a
// cluster, is read once. Any other is read twice, in tiles that make enough blocks for every multiprocessor. In channels_last
// planes come in sectors of 32 bytes, and those of a sector have to fit together.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "cuda/device.h"
#include "fused_norm/backward_tiles.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cuda {

// The maps that a tile holds: x, and in backward the gradients that are given.
struct TileMaps {
  int value_bytes;
  bool dpadded = false, dinterior = false;
};

struct Plan {
  Tiling tiling;
  bool reads_once;   // every group whole, in a cluster of blocks
  bool staged;       // through shared memory; else in place
  bool vectors;      // channels_last: 16 bytes at a time; NCHW always finds the aligned ones by itself
  int cluster;
  int threads;
  int shared_bytes;
  std::int64_t blocks;
};

class Planner {
 public:
  Planner(const FusedNormOptions& options, const TileMaps& tile_maps, const Device& gpu, bool aligned)
      : a(options),
        maps(tile_maps),
        device(gpu),
        nchw(a.layout == Layout::nchw),
        vector(nchw || aligned ? vector_bytes / maps.value_bytes : 1),
        most_row_tiles(row_tiles_that_hold_their_pad()) {}

  Plan plan() const {
    if (a.statistics != Statistics::none && reads_groups_once_) return finish(once_, true, true);
    const Tiling tiling = small_tiles(vector);
    if (bytes(tiling) <= device.shared_bytes) return finish(tiling, a.statistics == Statistics::none, true);
    return finish(small_tiles(nchw ? vector : 1), a.statistics == Statistics::none, false);
  }

 private:
  static constexpr std::int64_t large_tile_bytes = 72 * 1024, small_tile_bytes = 40 * 1024;
  static constexpr std::int64_t smallest_tile_bytes = 8 * 1024;
  static constexpr int usual_cluster = 8;  // larger ones are harder to place

  static int smaller(std::int64_t x, std::int64_t y) { return static_cast<int>(x < y ? x : y); }
  static int power_of_2_from(std::int64_t count) {
    int power = 1;
    while (power < count) power *= 2;
    return power;
  }

  // The pad that reflects must lie in the tile of the rows that it shows.
  int row_tiles_that_hold_their_pad() const {
    const int step = a.phases ? 2 : 1, rows = a.pad > 0 && a.pad_mode == PadMode::reflect ? a.pad + 1 : 1;
    const std::int64_t most = a.height / step / ((rows + step - 1) / step);
    return most < 1 ? 1 : smaller(most, 1 << 16);
  }

  std::int64_t groups(const Tiling& tiling) const {
    return a.statistics == Statistics::layer ? a.batch : a.batch * tiling.channel_tiles;
  }
  static int tiles_of_sample(const Tiling& tiling) { return tiling.channel_tiles * tiling.row_tiles; }
  int tiles_of_group(const Tiling& tiling) const {
    return a.statistics == Statistics::layer ? tiles_of_sample(tiling) : tiling.row_tiles;
  }

  Tiling tiles(int channels, std::int64_t row_tiles) const {
    return {channels, static_cast<int>((a.channels + channels - 1) / channels), smaller(row_tiles, most_row_tiles)};
  }

  // Of channels_last tiles: as many channels as `bytes` hold, no more than the map has.
  int channels_in(int bytes, int vector) const {
    const int channels = vector == 1 ? smaller(bytes / maps.value_bytes, 32) : bytes / maps.value_bytes;
    const int enough = power_of_2_from(a.channels);
    return enough < channels ? (enough < vector ? vector : enough) : channels;
  }

  // Shared memory of the largest tile.
  std::int64_t bytes(const Tiling& tiling) const {
    const int step = a.phases ? 2 : 1;
    const std::int64_t rows = step * ((a.height / step + tiling.row_tiles - 1) / tiling.row_tiles);
    const std::int64_t padded_rows = rows + (tiling.row_tiles == 1 ? 2 : 1) * a.pad, padded_width = a.width + 2 * a.pad;
    std::int64_t values = rows * a.width * (maps.dinterior ? 2 : 1);
    if (maps.dpadded) values += padded_rows * padded_width;
    const std::int64_t slack = nchw ? 8 * vector_bytes : 3 * vector_bytes;  // for alignment, of each run
    return bytes_before_tiles(a.layout, tiling.channels) + values * tiling.channels * maps.value_bytes + slack;
  }

  bool fits(const Tiling& tiling) const {
    return tiles_of_group(tiling) <= device.cluster && bytes(tiling) <= device.shared_bytes;
  }

  // The tiling in which a cluster holds each group, if there is one: the first with a block for every multiprocessor and room
  // for more beside it, else the one with most blocks, of those with clusters of the usual size if they are not few.
  bool find_whole_groups() {
    std::int64_t most_blocks = 0;
    for (const int most : {usual_cluster, device.cluster}) {
      for (const int channel_bytes : {64, 32, 128}) {
        for (int count = 1; count <= most; count *= 2) {
          const Tiling tiling = whole_groups(channel_bytes, count);
          if (tiles_of_group(tiling) > most || !fits(tiling)) continue;
          const std::int64_t blocks = groups(tiling) * tiles_of_group(tiling), size = bytes(tiling);
          if (blocks <= most_blocks || (most_blocks > 0 && size < smallest_tile_bytes)) continue;
          once_ = tiling;
          most_blocks = blocks;
          if (10 * blocks >= 9 * device.multiprocessors && size <= large_tile_bytes) return true;
        }
        if (nchw) break;
      }
      if (most_blocks > 0 && (10 * most_blocks >= 4 * device.multiprocessors || bytes(once_) <= 2 * smallest_tile_bytes)) {
        return true;
      }
    }
    return most_blocks > 0;
  }

  // Groups of `count` tiles or so.
  Tiling whole_groups(int channel_bytes, int count) const {
    if (nchw) {
      if (a.statistics != Statistics::layer) return tiles(1, count);
      if (count > a.channels) return tiles(1, count / a.channels);
      return tiles(static_cast<int>((a.channels + count - 1) / count), 1);
    }
    return tiles(channels_in(a.statistics == Statistics::layer ? 4 * channel_bytes : channel_bytes, vector), count);
  }

  // Tiles of up to small_tile_bytes, where the pad allows, and enough of them for every multiprocessor. Fewer channels make
  // narrower accesses, down to a sector of 32 bytes. What is read twice in channels_last has partial sums of each channel and
  // tile, so its tiles have more rows and fewer channels, and are no more than there are multiprocessors if they are small.
  Tiling small_tiles(int vector_of_tiles) const {
    const bool sums_of_channels = !nchw && a.statistics != Statistics::none;
    const std::int64_t wanted = sums_of_channels ? device.multiprocessors : (9 * device.multiprocessors + 4) / 5;
    Tiling tiling = {};
    for (const int channel_bytes : {128, 64, 32}) {
      if (channel_bytes > 32 && sums_of_channels) continue;
      const int channels = nchw ? 1 : channels_in(channel_bytes, vector_of_tiles);
      tiling = tiles(channels, 1);
      while (tiling.row_tiles < most_row_tiles) {
        const std::int64_t now = bytes(tiling), blocks = a.batch * tiles_of_sample(tiling);
        if (now <= small_tile_bytes && (blocks >= wanted || now <= smallest_tile_bytes)) break;
        const std::int64_t more = sums_of_channels ? (tiling.row_tiles + 3) / 4 : tiling.row_tiles;
        tiling = tiles(channels, tiling.row_tiles + more);
      }
      const std::int64_t size = bytes(tiling), blocks = a.batch * tiles_of_sample(tiling);
      const bool has_room = size <= smaller(large_tile_bytes, device.shared_bytes);
      if (nchw || (has_room && (blocks >= device.multiprocessors || size <= 2 * smallest_tile_bytes))) {
        break;
      }
    }
    return tiling;
  }

  Plan finish(const Tiling& tiling, bool reads_once, bool staged) const {
    Plan plan = {};
    plan.tiling = tiling;
    plan.reads_once = reads_once;
    plan.staged = staged;
    plan.vectors = vector > 1 && (nchw || staged);
    plan.cluster = reads_once && a.statistics != Statistics::none ? tiles_of_group(tiling) : 1;
    const std::int64_t tile = bytes(tiling);
    plan.threads = tile <= 8 * 1024 ? 128 : (tile <= 64 * 1024 ? 256 : most_threads);
    plan.shared_bytes = static_cast<int>(staged ? tile : bytes_before_tiles(a.layout, tiling.channels));
    plan.blocks = a.batch * tiles_of_sample(tiling);
    return plan;
  }

  const FusedNormOptions& a;
  const TileMaps maps;
  const Device device;
  const bool nchw;
  const int vector;
  const int most_row_tiles;
  Tiling once_ = {};
  const bool reads_groups_once_ = a.statistics != Statistics::none && find_whole_groups();
};

}  // namespace fastmunit::cuda
