// Maps positions in the padding to source pixels, and source pixels to positions in the padding.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastmunit {

enum class PadMode { reflect, replicate, zero };

namespace {

// Returns the row (or column) of the unpadded map that row i of the padded map copies. Row 0 is the first row of the
// unpadded map: -pad <= i < size + pad, where `size` is the number of rows. Not for zero padding.
FASTMUNIT_HOST_DEVICE inline std::int64_t pad_source(std::int64_t i, std::int64_t size, PadMode mode) {
  if (mode == PadMode::reflect) return i < 0 ? -i : (i < size ? i : 2 * (size - 1) - i);
  return i < 0 ? 0 : (i < size ? i : size - 1);
}

// The rows (or columns) of the padded map that copy row `at`, numbered as in pad_source: the row itself, then rows of
// the padding before the map, then rows of the padding after it.
struct PadTargets {
  int at, before, behind;
  int count_before = 0, count_behind = 0;

  FASTMUNIT_HOST_DEVICE PadTargets(int row, int size, int pad, PadMode mode) : at(row) {
    if (mode == PadMode::reflect) {
      before = -row;
      behind = 2 * (size - 1) - row;
      count_before = row >= 1 && row <= pad ? 1 : 0;
      count_behind = row <= size - 2 && row >= size - 1 - pad ? 1 : 0;
    } else {
      before = -pad;
      behind = size;
      if (mode == PadMode::zero) return;
      count_before = row == 0 ? pad : 0;
      count_behind = row == size - 1 ? pad : 0;
    }
  }

  FASTMUNIT_HOST_DEVICE int count() const { return 1 + count_before + count_behind; }
  FASTMUNIT_HOST_DEVICE int operator[](int i) const {
    if (i == 0) return at;
    return i <= count_before ? before + i - 1 : behind + i - 1 - count_before;
  }
};

}  // namespace
}  // namespace fastmunit
