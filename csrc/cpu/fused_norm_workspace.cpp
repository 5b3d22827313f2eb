#include "fused_norm_segments.h"

namespace fastmunit::cpu {

// Two numbers for each channel and segment of one sample, and the three of an Affine for each channel.
std::int64_t fused_norm_workspace(const FusedNormOptions& a) { return a.channels * (2 * row_segments(a).count + 3); }

// The same with the three of a Line beside, and two sums for each sample and channel.
std::int64_t fused_norm_backward_workspace(const FusedNormOptions& a) {
  return a.channels * (2 * row_segments(a).count + 6 + 2 * a.batch);
}

}  // namespace fastmunit::cpu
