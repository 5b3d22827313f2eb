// The segments of a pair for weighted_l1 on the CPU: units of work that do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "weighted_l1/weighted_l1.h"

namespace fastmunit::cpu {

constexpr std::int64_t l1_segment = 16384;

constexpr std::int64_t l1_segments(const L1Term& term) { return (term.count + l1_segment - 1) / l1_segment; }

constexpr std::int64_t l1_segments(const L1Term* term, int terms) {
  std::int64_t segments = 0;
  for (int k = 0; k < terms; ++k) segments += l1_segments(term[k]);
  return segments;
}

}  // namespace fastmunit::cpu
