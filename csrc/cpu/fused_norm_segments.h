// How the fused norm kernels cut a map into segments of whole rows. The cut depends on the shape alone.
#pragma once

#include <cstdint>

#include "fastmunit/fused_norm.h"

namespace fastmunit::cpu {

struct RowSegments {
  std::int64_t rows;   // in each segment but the last
  std::int64_t count;  // of segments in a plane
  std::int64_t height;
  std::int64_t begin(std::int64_t segment) const { return segment * rows; }
  std::int64_t end(std::int64_t segment) const { return segment + 1 < count ? (segment + 1) * rows : height; }
};

// NCHW: pieces of one plane that fit the second-level cache. channels_last: pieces of all planes of a sample, few enough that
// combining them costs little.
constexpr RowSegments row_segments(const FusedNormOptions& a) {
  std::int64_t pixels = 32768;
  if (a.layout == Layout::channels_last) {
    const std::int64_t share = a.height * a.width / 64;
    pixels = share > 256 ? share : 256;
  }
  std::int64_t rows = pixels > a.width ? pixels / a.width : 1;
  if (a.phases) rows += rows % 2;  // two rows of y are one of x
  return {rows, (a.height + rows - 1) / rows, a.height};
}

}  // namespace fastmunit::cpu
