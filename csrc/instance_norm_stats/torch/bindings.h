// The device-independent part of instance_norm_stats' bindings. `run` is called with the kernel's arguments.
#pragma once

#include <tuple>

#include "instance_norm_stats/instance_norm_stats.h"
#include "torch/tensors.h"

namespace fastmunit::bindings {

template <class Partials, class Run>
std::tuple<Tensor, Tensor> instance_norm_stats(const Tensor& x, double eps, Partials partials, Run run) {
  const Map map = dense_map(x, "x");
  Tensor mean = empty_statistics(x);
  Tensor rstd = empty_statistics(x);
  const std::int64_t pixels = x.size(2) * x.size(3);
  STD_TORCH_CHECK(pixels > 0, "x must have at least one pixel");
  if (mean.numel() == 0) return {mean, rstd};
  InstanceNormStats arguments = {data_type(x, "x"),
                                 map.layout,
                                 x.size(0),
                                 x.size(1),
                                 pixels,
                                 eps,
                                 map.tensor.const_data_ptr(),
                                 mean.mutable_data_ptr(),
                                 rstd.mutable_data_ptr(),
                                 nullptr};
  const Tensor memory = workspace(partials(arguments), x);
  arguments.partials = memory.mutable_data_ptr<double>();
  run(arguments);
  return {mean, rstd};
}

template <class Run>
Tensor instance_norm_stats_backward(const Tensor& dmean, const Tensor& drstd, const Tensor& x, const Tensor& mean,
                                    const Tensor& rstd, Run run) {
  const Map map = dense_map(x, "x");
  Tensor dx = empty_map_like(map);
  if (dx.numel() == 0) return dx;
  const Tensor dense_dmean = statistics(dmean, x, "dmean");
  const Tensor dense_drstd = statistics(drstd, x, "drstd");
  const Tensor dense_mean = statistics(mean, x, "mean");
  const Tensor dense_rstd = statistics(rstd, x, "rstd");
  run(InstanceNormStatsBackward{data_type(x, "x"), map.layout, x.size(0), x.size(1), x.size(2) * x.size(3),
                                dense_dmean.const_data_ptr(), dense_drstd.const_data_ptr(),
                                map.tensor.const_data_ptr(), dense_mean.const_data_ptr(),
                                dense_rstd.const_data_ptr(), dx.mutable_data_ptr()});
  return dx;
}

}  // namespace fastmunit::bindings
