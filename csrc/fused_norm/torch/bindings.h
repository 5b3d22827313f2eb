// The bindings of fused_norm without their device: `run` is given the kernel's arguments.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "fused_norm/fused_norm.h"
#include "torch/tensors.h"

namespace fastmunit::bindings {

inline Statistics statistics_group(const std::string& name) {
  if (name == "instance") return Statistics::instance;
  if (name == "layer") return Statistics::layer;
  STD_TORCH_CHECK(name == "none", "statistics must be instance, layer or none");
  return Statistics::none;
}

inline Activation activation_called(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "leaky_relu") return Activation::leaky_relu;
  STD_TORCH_CHECK(name == "none", "activation must be none, relu or leaky_relu");
  return Activation::none;
}

inline PadMode pad_mode_called(const std::string& name) {
  if (name == "reflect") return PadMode::reflect;
  if (name == "replicate") return PadMode::replicate;
  STD_TORCH_CHECK(name == "zero", "pad_mode must be reflect, replicate or zero");
  return PadMode::zero;
}

inline FusedNormOptions options_of(const Map& x, const std::string& statistics, const std::string& activation,
                                   double negative_slope, std::int64_t pad, const std::string& pad_mode, double eps, bool phases) {
  const Tensor& map = x.tensor;
  FusedNormOptions options;
  options.dtype = data_type(map, "x");
  options.layout = x.layout;
  options.batch = map.size(0);
  options.channels = phases ? map.size(1) / 4 : map.size(1);
  options.height = phases ? 2 * map.size(2) : map.size(2);
  options.width = phases ? 2 * map.size(3) : map.size(3);
  options.statistics = statistics_group(statistics);
  options.activation = activation_called(activation);
  options.negative_slope = negative_slope;
  options.pad = static_cast<int>(pad);
  options.pad_mode = pad_mode_called(pad_mode);
  options.eps = eps;
  options.phases = phases;
  options.threads = static_cast<int>(torch::stable::get_num_threads());
  STD_TORCH_CHECK(!phases || map.size(1) % 4 == 0, "x with phases must have a multiple of 4 channels");
  STD_TORCH_CHECK(map.size(2) > 0 && map.size(3) > 0, "x needs at least one pixel");
  STD_TORCH_CHECK(pad >= 0 && pad <= max_pad, "pad must be 0 to ", max_pad);
  STD_TORCH_CHECK(pad == 0 || options.pad_mode != PadMode::reflect || (pad < options.height && pad < options.width),
                  "reflect padding must be smaller than the map");
  return options;
}

inline Tensor empty_beside(const Map& x, std::int64_t channels, std::int64_t height, std::int64_t width) {
  return torch::stable::empty({x.tensor.size(0), channels, height, width}, x.tensor.scalar_type(), std::nullopt,
                              x.tensor.device(), std::nullopt, x.format());
}

inline Tensor empty_doubles(std::initializer_list<std::int64_t> size, const Map& x) {
  return torch::stable::empty(size, ScalarType::Double, std::nullopt, x.tensor.device());
}

// A map of the size given whose innermost dimension is dense, else a copy of it, which `kept` holds.
inline StridedMap strided_map(const std::optional<Tensor>& given, const FusedNormOptions& options, int pad, const Map& x,
                              const char* name, Tensor& kept) {
  if (!given.has_value()) return {};
  const Tensor& map = *given;
  STD_TORCH_CHECK(map.dim() == 4 && map.size(0) == options.batch && map.size(1) == options.channels &&
                      map.size(2) == options.height + 2 * pad && map.size(3) == options.width + 2 * pad,
                  name, " is not of the size that x asks for");
  STD_TORCH_CHECK(map.scalar_type() == x.tensor.scalar_type(), name, " must be of the dtype of x");
  STD_TORCH_CHECK(map.device() == x.tensor.device(), name, " must be on the device of x");
  const int inner = options.layout == Layout::nchw ? 3 : 1;
  kept = map.size(inner) == 1 || map.stride(inner) == 1 ? map : torch::stable::contiguous(map, x.format());
  return {kept.const_data_ptr(), kept.stride(0), kept.stride(1), kept.stride(2), kept.stride(3)};
}

inline Coefficients coefficients(const std::optional<Tensor>& given, const FusedNormOptions& options, const Map& x,
                                 const char* name) {
  if (!given.has_value()) return {};
  const bool of_each_sample = given->dim() == 2;
  STD_TORCH_CHECK((of_each_sample && given->size(0) == options.batch && given->size(1) == options.channels) ||
                      (given->dim() == 1 && given->size(0) == options.channels),
                  name, " must be (C,) or (N, C)");
  STD_TORCH_CHECK(given->device() == x.tensor.device(), name, " must be on the device of x");
  return {given->const_data_ptr(), data_type(*given, name), of_each_sample ? given->stride(0) : 0,
          given->stride(of_each_sample ? 1 : 0)};
}

inline Tensor empty_gradient(const std::optional<Tensor>& coefficients, bool wanted, const Map& x,
                             CoefficientsGradient& gradient) {
  if (!wanted || !coefficients.has_value()) return empty_doubles({0}, x);
  const Tensor result = torch::stable::empty(coefficients->sizes(), coefficients->scalar_type(), std::nullopt,
                                             x.tensor.device());
  gradient = {result.mutable_data_ptr(), data_type(*coefficients, "weight and bias"), coefficients->dim() == 2};
  return result;
}

template <class Run>
std::tuple<Tensor, Tensor, Tensor> fused_norm(const Tensor& x, const std::optional<Tensor>& weight,
                                              const std::optional<Tensor>& bias,
                                              const std::optional<Tensor>& residual, const std::string& statistics,
                                              const std::string& activation, double negative_slope, std::int64_t pad,
                                              const std::string& pad_mode, double eps, bool phases, Run run) {
  const Map map = dense_map(x, "x");
  FusedNorm a;
  static_cast<FusedNormOptions&>(a) =
      options_of(map, statistics, activation, negative_slope, pad, pad_mode, eps, phases);
  const Tensor padded = empty_beside(map, a.channels, a.height + 2 * pad, a.width + 2 * pad);
  const auto group = [&] {
    if (a.statistics == Statistics::instance) return empty_doubles({a.batch, a.channels}, map);
    return empty_doubles({a.statistics == Statistics::layer ? a.batch : 0}, map);
  };
  const Tensor mean = group(), rstd = group();
  Tensor kept;
  a.weight = coefficients(weight, a, map, "weight");
  a.bias = coefficients(bias, a, map, "bias");
  a.residual = strided_map(residual, a, 0, map, "residual", kept);
  if (padded.numel() == 0) return {padded, mean, rstd};
  a.x = map.tensor.const_data_ptr();
  a.padded = padded.mutable_data_ptr();
  a.mean = mean.mutable_data_ptr<double>();
  a.rstd = rstd.mutable_data_ptr<double>();
  run(a);
  return {padded, mean, rstd};
}

template <class Run>
std::tuple<Tensor, Tensor, Tensor, Tensor> fused_norm_backward(
    const std::optional<Tensor>& dpadded, const std::optional<Tensor>& dinterior, const Tensor& x, const Tensor& mean,
    const Tensor& rstd, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, bool wants_weight,
    bool wants_bias, bool wants_residual, const std::string& statistics, const std::string& activation, double negative_slope,
    std::int64_t pad, const std::string& pad_mode, double eps, bool phases, Run run) {
  STD_TORCH_CHECK(dpadded.has_value() || dinterior.has_value(), "dpadded or dinterior must be given");
  const Map map = dense_map(x, "x");
  FusedNormBackward a;
  static_cast<FusedNormOptions&>(a) =
      options_of(map, statistics, activation, negative_slope, pad, pad_mode, eps, phases);
  const std::int64_t groups =
      a.statistics == Statistics::none ? 0 : a.batch * (a.statistics == Statistics::instance ? a.channels : 1);
  for (const Tensor& saved : {mean, rstd}) {
    STD_TORCH_CHECK(saved.scalar_type() == ScalarType::Double && saved.is_contiguous() &&
                        static_cast<std::int64_t>(saved.numel()) == groups,
                    "mean and rstd must be those that fused_norm gave");
    STD_TORCH_CHECK(saved.device() == x.device(), "mean and rstd must be on the device of x");
  }
  Tensor kept_padded, kept_interior;
  a.dpadded = strided_map(dpadded, a, a.pad, map, "dpadded", kept_padded);
  a.dinterior = strided_map(dinterior, a, 0, map, "dinterior", kept_interior);
  a.weight = coefficients(weight, a, map, "weight");
  a.bias = coefficients(bias, a, map, "bias");
  const Tensor dx = empty_map_like(map);
  const Tensor dweight = empty_gradient(weight, wants_weight, map, a.dweight);
  const Tensor dbias = empty_gradient(bias, wants_bias, map, a.dbias);
  const Tensor dresidual = wants_residual ? empty_beside(map, a.channels, a.height, a.width) : empty_doubles({0}, map);
  if (a.channels == 0) return {dx, dweight, dbias, dresidual};
  a.x = map.tensor.const_data_ptr();
  a.mean = mean.const_data_ptr<double>();
  a.rstd = rstd.const_data_ptr<double>();
  a.dx = dx.mutable_data_ptr();
  a.dresidual = wants_residual ? dresidual.mutable_data_ptr() : nullptr;
  run(a);
  return {dx, dweight, dbias, dresidual};
}

}  // namespace fastmunit::bindings
