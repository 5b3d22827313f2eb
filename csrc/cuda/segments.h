// The distribution of a list of terms over blocks on a GPU, one block per segment of a term. Host code without torch and
// CUDA. A term has the number of its elements in `count`.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastmunit::cuda {

template <int most>
struct Segments {
  std::int64_t first[most + 1];  // first segment of each term; the entry after the last term is the number of segments
};

// Sets the segments of terms that are cut into pieces of `elements`.
template <int most, class Term>
void set_segments(Segments<most>& segments, const Term* term, int terms, int elements) {
  for (int k = 0; k < terms; ++k) {
    segments.first[k + 1] = segments.first[k] + (term[k].count + elements - 1) / elements;
  }
}

FASTMUNIT_HOST_DEVICE constexpr bool is_wide(DataType dtype) { return dtype == DataType::float64; }

}  // namespace fastmunit::cuda
