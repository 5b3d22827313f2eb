// The segments of a plane for the CPU kernels: units of work that fit in cache and do not depend on the number of
// threads.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastmunit::cpu {

constexpr std::int64_t segment_pixels(Layout layout) { return layout == Layout::nchw ? 32768 : 1024; }

constexpr std::int64_t segments_of(Layout layout, std::int64_t pixels) {
  return (pixels + segment_pixels(layout) - 1) / segment_pixels(layout);
}

}  // namespace fastmunit::cpu
