// The segments of a map for the CPU kernels of fused_norm. A segment consists of whole rows and depends only on the
// shape.
#pragma once

#include <cstdint>

#include "fused_norm/fused_norm.h"

namespace fastmunit::cpu {

struct RowSegments {
  std::int64_t rows;   // per segment, except for the last
  std::int64_t count;  // segments per plane
  std::int64_t height;
  std::int64_t begin(std::int64_t segment) const { return segment * rows; }
  std::int64_t end(std::int64_t segment) const { return segment + 1 < count ? (segment + 1) * rows : height; }
};

// NCHW: segments of one plane that fit in the second-level cache. channels_last: segments of all planes of a sample,
// few enough to be combined at little cost.
constexpr RowSegments row_segments(const FusedNormOptions& a) {
  std::int64_t pixels = 32768;
  if (a.layout == Layout::channels_last) {
    const std::int64_t share = a.height * a.width / 64;
    pixels = share > 256 ? share : 256;
  }
  std::int64_t rows = pixels > a.width ? pixels / a.width : 1;
  if (a.pixel_shuffle) rows += rows % 2;  // two rows of y are one row of x
  return {rows, (a.height + rows - 1) / rows, a.height};
}

// Calls function(first, last) on ranges of samples, one after another. A range has as many samples as stay in the
// last-level cache from the first pass over them to the second.
template <class Function>
static inline void for_sample_groups(const FusedNormOptions& a, std::int64_t value_bytes, const Function& function) {
  constexpr std::int64_t cached_bytes = 8 << 20;
  const std::int64_t sample_bytes = a.channels * a.height * a.width * value_bytes;
  const std::int64_t group = sample_bytes < cached_bytes ? cached_bytes / sample_bytes : 1;
  for (std::int64_t first = 0; first < a.batch; first += group) {
    function(first, first + group < a.batch ? first + group : a.batch);
  }
}

}  // namespace fastmunit::cpu
