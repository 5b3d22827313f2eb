#include "instance_norm_stats/torch/bindings.h"
#include "torch/cuda.h"

namespace fastmunit::bindings {
namespace {

std::tuple<Tensor, Tensor> instance_norm_stats_cuda(const Tensor& x, double eps) {
  return instance_norm_stats(x, eps, cuda::instance_norm_stats_partials, [&](const InstanceNormStats& arguments) {
    on_device_of(x, [&](void* stream) { return cuda::instance_norm_stats(arguments, stream); });
  });
}

Tensor instance_norm_stats_backward_cuda(const Tensor& dmean, const Tensor& drstd, const Tensor& x, const Tensor& mean,
                                         const Tensor& rstd) {
  return instance_norm_stats_backward(dmean, drstd, x, mean, rstd, [&](const InstanceNormStatsBackward& arguments) {
    on_device_of(x, [&](void* stream) { return cuda::instance_norm_stats_backward(arguments, stream); });
  });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CUDA, library) {
  library.impl("instance_norm_stats", TORCH_BOX(&fastmunit::bindings::instance_norm_stats_cuda));
  library.impl("instance_norm_stats_backward", TORCH_BOX(&fastmunit::bindings::instance_norm_stats_backward_cuda));
}
