#include "weighted_l1/kernels.cuh"

#include "cuda/launch.cuh"

namespace fastmunit::cuda {

using namespace l1;

std::int64_t weighted_l1_partials(const WeightedL1& a) { return l1_segments(a.term, a.terms).first[a.terms]; }

const char* weighted_l1(const WeightedL1& a, void* stream) {
  const L1Segments segments = l1_segments(a.term, a.terms);
  const std::int64_t blocks = segments.first[a.terms];
  if (blocks > INT32_MAX) return "the pairs are too large for one launch";
  if (blocks > 0) {
    const char* error =
        launch(l1_segment_sums, {static_cast<unsigned>(blocks), l1_threads}, stream, a, segments);
    if (error != nullptr) return error;
  }
  return launch(l1_values, {1, weighted_l1_terms * warp_threads}, stream, a, segments);
}

const char* weighted_l1_backward(const WeightedL1Backward& a, void* stream) {
  const L1Segments segments = l1_segments(a.term, a.terms);
  const std::int64_t blocks = segments.first[a.terms];
  if (blocks > INT32_MAX) return "the pairs are too large for one launch";
  if (blocks == 0) return nullptr;
  Slopes<weighted_l1_terms> slopes = {};
  for (int k = 0; k < a.terms; ++k) slopes.set(k, a.term[k].weight, a.term[k].count);
  return launch(l1_gradients, {static_cast<unsigned>(blocks), l1_threads}, stream, a, segments, slopes);
}

}  // namespace fastmunit::cuda
