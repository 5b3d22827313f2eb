// The launch table of fused_norm's CUDA kernels: chooses kernel, tiles, clusters and grid for a map and a GPU. Host
// code without CUDA.
//
// A block of 256 threads processes a tile of one slice of channels of one sample. If a group (a plane for instance
// norm, a sample for MUNIT's layer norm) fits in one block, or in a cluster of up to 8, one kernel in mode `whole`
// reads it once. Otherwise it is read twice: `reduce` writes the moments per tile, `combine` the moments per group, and
// `apply` the result. The backward pass computes sums instead of moments; its tiles hold x and the gradient, each with
// half as many values.
#pragma once

#include <cstdint>

#include "common/division.h"
#include "cuda/device.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cuda::norm {

enum class Mode { whole, reduce, apply };

// rows: NCHW with rows of a multiple of 32 columns; a warp processes whole rows, in forward 128 values at a time.
// pixels: channels_last, 16 bytes of channels per thread and access. any: every other map, value by value.
enum class Kernel { rows, pixels, any };

// bench.on_gpu also compiles 128 and 512. Tiles of 512 threads have as many values as tiles of 256.
#ifndef FASTMUNIT_BLOCK_THREADS
#define FASTMUNIT_BLOCK_THREADS 256
#endif
constexpr int block_threads = FASTMUNIT_BLOCK_THREADS, block_warps = block_threads / 32;
constexpr int thread_bits = block_threads == 128 ? 7 : (block_threads == 256 ? 8 : 9);
static_assert(block_threads == 1 << thread_bits);
constexpr int tile_values = block_threads > 256 ? 16 : 32;  // per thread, in `rows` and `any`
constexpr int tile_vectors = tile_values / 4;               // per thread, in `pixels`
constexpr int unit_words = 4, unit_values = 32 * unit_words;  // values that a warp of the forward kernel `rows` accesses at a time
constexpr int backward_values = tile_values / 2, backward_vectors = tile_vectors / 2;
constexpr int max_rounds = 4;  // in which a block of the backward pass loads a tile that exceeds its registers
constexpr int vector_bytes = 16;
constexpr int largest_cluster = 8;  // the largest size that every GPU with clusters supports
constexpr int largest_row_words = backward_values;  // words of 32 columns per row, in kernel `rows`
constexpr int largest_slice = block_threads / largest_cluster < 32 ? block_threads / largest_cluster : 32;  // in channels

// The tiling of a launch. In one step, the threads of a block access `step_pixels` pixels, with `lanes` threads per
// pixel.
struct Plan {
  Kernel kernel;
  bool split;        // reduce, combine and apply instead of one launch
  int lanes;         // threads per pixel
  int channels;      // per slice
  int slices;        // per sample
  int step_pixels;
  int steps;         // per tile
  int tiles;         // per slice
  int cluster;       // blocks per group in mode whole
  std::int64_t blocks;

  std::int64_t tile_pixels() const { return static_cast<std::int64_t>(steps) * step_pixels; }
  int tiles_of_group(const FusedNormOptions& a) const { return tiles * (a.statistics == Statistics::layer ? slices : 1); }
  std::int64_t groups(const FusedNormOptions& a) const {
    return a.batch * (a.statistics == Statistics::layer ? 1 : a.channels);
  }
};

// Returns the number of blocks per multiprocessor that have as many threads as `blocks` blocks of 256, rounded up.
constexpr int resident_blocks(int blocks) { return (blocks * 256 + block_threads - 1) / block_threads; }

inline int value_bytes(DataType dtype) { return dtype == DataType::float32 ? 4 : 2; }

// Returns true if the channels of every pixel of a channels_last map can be accessed with 16-byte loads and stores.
// Null maps always pass.
inline bool takes_vectors(const void* data, const FusedNormOptions& a) {
  return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0 && a.channels * value_bytes(a.dtype) % vector_bytes == 0;
}
inline bool takes_vectors(const StridedMap& map, const FusedNormOptions& a) {
  const int values = vector_bytes / value_bytes(a.dtype);
  return map.data == nullptr || (takes_vectors(map.data, a) && map.sample_stride % values == 0 &&
                                 map.row_stride % values == 0 && map.column_stride % values == 0);
}

// Returns true if the forward kernel `rows` supports the map.
inline bool takes_units(const FusedNormOptions& a) {
  return a.layout == Layout::nchw && !a.pixel_shuffle && a.width >= 32 && a.width <= block_warps * unit_values &&
         (a.width & (a.width - 1)) == 0 && a.height * a.width % unit_values == 0;
}

// The backward kernel `rows` counts columns in words of 32. Returns the number of words per row, or 0 if the kernel
// does not support the map.
inline int words_of_row(const FusedNormOptions& a) {
  if (a.layout != Layout::nchw || a.pixel_shuffle || a.dtype != DataType::float32 || a.width % 32 != 0) return 0;
  const std::int64_t words = a.width / 32;
  return words <= largest_row_words && (words & (words - 1)) == 0 ? static_cast<int>(words) : 0;
}

// Returns null, or why the kernels do not support the map: they count the pixels of a plane in 32 bits.
inline const char* refusal(const FusedNormOptions& a) {
  constexpr std::int64_t limit = INT32_MAX - (std::int64_t{1} << 16);
  const std::int64_t height = a.height + 2 * max_pad, width = a.width + 2 * max_pad;
  if (width > limit || height > limit / width) return "expected planes of less than 2^31 pixels";
  if (a.channels > limit / 64) return "expected less than 2^25 channels";
  return nullptr;
}

class Planner {
 public:
  // `vectors`: takes_vectors is true for all maps, and only x is pixel-unshuffled. `maps`: number of maps per tile: x,
  // and in backward also dy.
  Planner(const FusedNormOptions& options, const Device& gpu, bool vectors, int maps = 1)
      : a(options),
        device(gpu),
        maps_(maps),
        words_(maps > 1 ? words_of_row(options) : 0),
        units_(maps == 1 && takes_units(options)),
        vectors_(vectors && options.layout == Layout::channels_last) {}

  Plan plan() const {
    const int limit = device.cluster < largest_cluster ? device.cluster : largest_cluster;
    Plan best = shape(max_lanes());
    if (a.statistics == Statistics::none) return finish(best, best.tiles, false);
    for (int lanes = max_lanes(); lanes >= min_lanes(); lanes /= 2) {
      Plan plan = shape(lanes);
      if (plan.tiles_of_group(a) > limit) continue;
      int tiles = plan.tiles;
      const int group_slices = plan.tiles_of_group(a) / plan.tiles;
      while (a.batch * plan.slices * tiles < device.multiprocessors && 2 * tiles * group_slices <= limit &&
             2 * tiles <= all_steps(plan)) {
        tiles *= 2;
      }
      plan = finish(plan, tiles, false);
      if (best.cluster == 0 || plan.blocks > best.blocks) best = plan;
      if (10 * best.blocks >= 9 * device.multiprocessors) break;
    }
    if (best.cluster > 0) return best;
    const Plan split = finish(best, best.tiles, true);
    // If a block of the backward pass loads its tile in one round, use tiles of one sector of channels and more pixels:
    // each tile reads the parameters of its channels twice and writes their sums.
    if (maps_ == 1 || split.steps > held()) return split;
    const Plan narrow = shape(min_lanes());
    return finish(narrow, narrow.tiles, true);
  }

 private:
  static std::int64_t quotient_up(std::int64_t count, std::int64_t by) { return (count + by - 1) / by; }
  static int power_of_2_up(std::int64_t count, int limit) {
    int power = 1;
    while (power < count && power < limit) power *= 2;
    return power;
  }

  // Number of pixels per plane as kernels count them: with pixel shuffle, kernel `pixels` counts the pixels of x.
  std::int64_t pixels() const { return a.height * a.width / (vectors_ && a.pixel_shuffle ? 4 : 1); }
  int lane_channels() const {
    if (!vectors_) return 1;
    return vector_bytes / value_bytes(a.dtype) / (a.pixel_shuffle ? 4 : 1);
  }
  int max_lanes() const {
    if (a.layout == Layout::nchw) return 1;
    const int limit = vectors_ ? (a.pixel_shuffle ? 8 : 4) : 32, fit = largest_slice / lane_channels();
    return power_of_2_up(quotient_up(a.channels, lane_channels()), limit < fit ? limit : fit);
  }
  // 32 bytes of channels, one memory sector. With pixel shuffle, four threads produce one vector of the result.
  int min_lanes() const {
    if (!vectors_) return max_lanes();
    const int sector = a.pixel_shuffle ? 8 : 2;
    return sector < max_lanes() ? sector : max_lanes();
  }

  std::int64_t all_steps(const Plan& plan) const {
    return words_ > 0 ? quotient_up(a.height, block_warps) : quotient_up(pixels(), plan.step_pixels);
  }

  // Number of steps that a block holds in registers.
  int held() const {
    if (units_) return tile_values / unit_words;
    if (words_ == 0) return (vectors_ ? tile_vectors : tile_values) / maps_;
    return tile_values / maps_ / words_;
  }

  // Returns a plan with the largest tiles. cluster is still 0.
  Plan shape(int lanes) const {
    Plan plan = {};
    plan.kernel = words_ > 0 || units_ ? Kernel::rows : (vectors_ ? Kernel::pixels : Kernel::any);
    plan.lanes = lanes;
    plan.channels = lanes * lane_channels();
    plan.slices = static_cast<int>(quotient_up(a.channels, plan.channels));
    plan.step_pixels = block_threads / lanes;
    if (words_ > 0) plan.step_pixels = block_warps * static_cast<int>(a.width);
    if (units_) plan.step_pixels = block_warps * unit_values;
    const int steps = held() < device.max_steps ? held() : device.max_steps;
    plan.tiles = static_cast<int>(quotient_up(all_steps(plan), steps));
    return plan;
  }

  // Returns a smaller number of tiles, which a block loads in several rounds, if there are many. Each tile of the
  // backward pass reads the parameters of its channels twice and writes their sums, so fewer tiles cost less.
  int in_rounds(const Plan& plan, int tiles) const {
    int rounds = 1;
    while (2 * rounds <= max_rounds && 10 * a.batch * plan.slices * (tiles / (2 * rounds)) >= 19 * device.multiprocessors) {
      rounds *= 2;
    }
    return static_cast<int>(quotient_up(tiles, rounds));
  }

  // Sets about `tiles` tiles with equal numbers of steps. If the number of tiles is not fixed by clusters, aims for two
  // blocks per multiprocessor. Aims for about one where each tile writes moments, or sums, of all its channels: in
  // channels_last and in backward.
  Plan finish(Plan plan, int tiles, bool split) const {
    const std::int64_t all = all_steps(plan);
    plan.split = split;
    if (split || a.statistics == Statistics::none) {
      const bool moments_of_channels = split && a.statistics == Statistics::instance && a.layout == Layout::channels_last;
      const int tenths = split && maps_ > 1 ? 9 : (moments_of_channels ? 10 : 20);
      while (10 * a.batch * plan.slices * tiles < tenths * device.multiprocessors && 2 * tiles <= all) tiles *= 2;
      if (split && maps_ > 1) tiles = in_rounds(plan, tiles);
    }
    plan.steps = static_cast<int>(quotient_up(all, tiles));
    plan.tiles = static_cast<int>(quotient_up(all, plan.steps));
    plan.cluster = split || a.statistics == Statistics::none ? 1 : plan.tiles_of_group(a);
    plan.blocks = a.batch * plan.slices * plan.tiles;
    return plan;
  }

  const FusedNormOptions& a;
  const Device device;
  const int maps_;
  const int words_;
  const bool units_, vectors_;
};

}  // namespace fastmunit::cuda::norm
