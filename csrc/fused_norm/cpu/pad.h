// Fills the padding of a map.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/pad_index.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cpu {
namespace {

// The columns of the padding in rows of `width` pixels, and the columns that they copy. All are numbered from the outer
// edge of the padding.
class PadColumns {
 public:
  PadColumns(std::int64_t width, int pad, PadMode mode) : count(2 * pad), zero(mode == PadMode::zero) {
    for (int k = 0; k < pad; ++k) {
      to[2 * k] = k;
      to[2 * k + 1] = width + pad + k;
    }
    for (int k = 0; k < count; ++k) from[k] = zero ? to[k] : pad_source(to[k] - pad, width, mode) + pad;
  }

  // Fills the padding of a row of single values.
  template <class Storage>
  void fill(Storage* row) const {
    for (int k = 0; k < count; ++k) row[to[k]] = zero ? Storage{} : row[from[k]];
  }

  // Fills the padding of a row of pixels of `pixel` values each.
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

// Fills the rows of the padding that copy row i of a plane, which must be complete. `plane` is the start of the padded
// plane, `length` the number of values in a padded row.
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
