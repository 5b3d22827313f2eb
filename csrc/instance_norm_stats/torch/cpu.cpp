#include "instance_norm_stats/torch/bindings.h"

namespace fastmunit::bindings {
namespace {

std::tuple<Tensor, Tensor> instance_norm_stats_cpu(const Tensor& x, double eps) {
  return instance_norm_stats(x, eps, cpu::instance_norm_stats_partials, [](const InstanceNormStats& arguments) {
    cpu::instance_norm_stats(arguments, torch_thread_pool);
  });
}

Tensor instance_norm_stats_backward_cpu(const Tensor& dmean, const Tensor& drstd, const Tensor& x, const Tensor& mean,
                                        const Tensor& rstd) {
  return instance_norm_stats_backward(dmean, drstd, x, mean, rstd, [](const InstanceNormStatsBackward& arguments) {
    cpu::instance_norm_stats_backward(arguments, torch_thread_pool);
  });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CPU, library) {
  library.impl("instance_norm_stats", TORCH_BOX(&fastmunit::bindings::instance_norm_stats_cpu));
  library.impl("instance_norm_stats_backward", TORCH_BOX(&fastmunit::bindings::instance_norm_stats_backward_cpu));
}
