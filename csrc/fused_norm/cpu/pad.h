// Filling the pad of a map, and the rows and columns that show each of its own.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/pad_index.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cpu {
namespace {

// The pad columns of rows of `width` pixels, and the columns that they show; all counted from the pad's outer edge.
class PadColumns {
 public:
  PadColumns(std::int64_t width, int pad, PadMode mode) : count(2 * pad), zero(mode == PadMode::zero) {
    for (int k = 0; k < pad; ++k) {
      to[2 * k] = k;
      to[2 * k + 1] = width + pad + k;
    }
    for (int k = 0; k < count; ++k) from[k] = zero ? to[k] : pad_source(to[k] - pad, width, mode) + pad;
  }

  // Fills them in a row of single values.
  template <class Storage>
  void fill(Storage* row) const {
    for (int k = 0; k < count; ++k) row[to[k]] = zero ? Storage{} : row[from[k]];
  }

  // Fills them in a row of pixels of `pixel` values.
  template <class Storage>
  void fill(Storage* row, std::int64_t pixel) const {
    for (int k = 0; k < count; ++k) {
      if (zero) {
        std::memset(static_cast<void*>(row + to[k] * pixel), 0, pixel * sizeof(Storage));
      } else {
        std::memcpy(static_cast<void*>(row + to[k] * pixel), row + from[k] * pixel, pixel * sizeof(Storage));
      }
    }
  }

  const int count;
  const bool zero;
  std::int64_t to[2 * max_pad], from[2 * max_pad];
};

// Fills the pad rows that follow from row i of a padded plane, which is written. `plane` is where the upper pad starts,
// `length` the values in a row with its pad columns.
template <class Storage>
inline void pad_rows(Storage* plane, std::int64_t i, std::int64_t height, std::int64_t length, int pad, PadMode mode) {
  if (pad == 0 || (i > pad && i < height - 1 - pad)) return;
  if (mode == PadMode::zero) {
    const std::size_t bytes = pad * length * sizeof(Storage);
    if (i == 0) std::memset(static_cast<void*>(plane), 0, bytes);
    if (i == height - 1) std::memset(static_cast<void*>(plane + (height + pad) * length), 0, bytes);
    return;
  }
  const PadTargets targets(static_cast<int>(i), static_cast<int>(height), pad, mode);
  for (int k = 1; k < targets.count(); ++k) {
    std::memcpy(plane + (targets[k] + pad) * length, plane + (i + pad) * length, length * sizeof(Storage));
  }
}

}  // namespace
}  // namespace fastmunit::cpu
