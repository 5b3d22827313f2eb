// Which pixel each pixel of a pad takes its value from, and the reverse.
#pragma once

#include <cstdint>
#include <cstring>

#include "fastmunit/fused_norm.h"

namespace fastmunit::cpu {
namespace {

// The row (or column) among `size` ones that row i of the padded map shows, -pad <= i < size + pad; not for zero padding.
inline std::int64_t pad_source(std::int64_t i, std::int64_t size, PadMode mode) {
  if (mode == PadMode::reflect) return i < 0 ? -i : (i < size ? i : 2 * (size - 1) - i);
  return i < 0 ? 0 : (i < size ? i : size - 1);
}

// The rows (or columns) of a padded map that show one row of the map, that row itself first.
struct PadTargets {
  int count;
  std::int64_t at[2 * max_pad + 1];  // counted from the pad's outer edge
};

inline PadTargets pad_targets(std::int64_t i, std::int64_t size, int pad, PadMode mode) {
  PadTargets targets = {1, {i + pad}};
  if (mode == PadMode::zero || (i > pad && i < size - 1 - pad)) return targets;
  for (int k = 0; k < pad; ++k) {
    if (pad_source(k - pad, size, mode) == i) targets.at[targets.count++] = k;
    if (pad_source(size + k, size, mode) == i) targets.at[targets.count++] = size + pad + k;
  }
  return targets;
}

// Fills the pad columns of a row of `width` pixels, each of `pixel` values. `row` is where the left pad starts.
template <class Storage>
void pad_columns(Storage* row, std::int64_t width, std::int64_t pixel, int pad, PadMode mode) {
  for (int k = 0; k < pad; ++k) {
    for (const std::int64_t i : {static_cast<std::int64_t>(k - pad), width + k}) {
      Storage* to = row + (i + pad) * pixel;
      if (mode == PadMode::zero) {
        std::memset(static_cast<void*>(to), 0, pixel * sizeof(Storage));
      } else {
        const Storage* from = row + (pad_source(i, width, mode) + pad) * pixel;
        if (pixel == 1) {
          *to = *from;
        } else {
          std::memcpy(to, from, pixel * sizeof(Storage));
        }
      }
    }
  }
}

// Fills the pad rows that follow from row i of a padded plane, which is written. `plane` is where the upper pad starts,
// `length` the values in a row with its pad columns.
template <class Storage>
void pad_rows(Storage* plane, std::int64_t i, std::int64_t height, std::int64_t length, int pad, PadMode mode) {
  if (pad == 0 || (i > pad && i < height - 1 - pad)) return;
  if (mode == PadMode::zero) {
    const std::size_t bytes = pad * length * sizeof(Storage);
    if (i == 0) std::memset(static_cast<void*>(plane), 0, bytes);
    if (i == height - 1) std::memset(static_cast<void*>(plane + (height + pad) * length), 0, bytes);
    return;
  }
  const PadTargets targets = pad_targets(i, height, pad, mode);
  for (int k = 1; k < targets.count; ++k) {
    std::memcpy(plane + targets.at[k] * length, plane + targets.at[0] * length, length * sizeof(Storage));
  }
}

}  // namespace
}  // namespace fastmunit::cpu
