#include "gan_loss/kernels.cuh"

#include "cuda/launch.cuh"

namespace fastmunit::cuda {

using namespace gan;

std::int64_t gan_loss_partials(const GanLoss& a) {
  GanSegments segments = {};
  set_segments(segments, a.map, a.maps, gan_segment);
  return segments.first[a.maps];
}

const char* gan_loss(const GanLoss& a, void* stream) {
  GanSegments segments = {};
  set_segments(segments, a.map, a.maps, gan_segment);
  const std::int64_t blocks = segments.first[a.maps];
  if (blocks > INT32_MAX) return "the maps are too large for one launch";
  if (blocks > 0) {
    const char* error = launch(gan_segment_sums, {static_cast<unsigned>(blocks), gan_threads}, stream, a, segments);
    if (error != nullptr) return error;
  }
  return launch(gan_values, {1, gan_loss_maps * warp_threads}, stream, a, segments);
}

const char* gan_loss_backward(const GanLossBackward& a, void* stream) {
  GanSegments segments = {};
  set_segments(segments, a.map, a.maps, gan_segment);
  const std::int64_t blocks = segments.first[a.maps];
  if (blocks > INT32_MAX) return "the maps are too large for one launch";
  if (blocks == 0) return nullptr;
  Slopes<gan_loss_maps> slopes = {};
  for (int k = 0; k < a.maps; ++k) slopes.set(k, a.map[k].weight, a.map[k].averaged);
  return launch(gan_gradients, {static_cast<unsigned>(blocks), gan_threads}, stream, a, segments, slopes);
}

}  // namespace fastmunit::cuda
