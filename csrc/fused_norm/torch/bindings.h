// The device-independent part of fused_norm's bindings. `run` is called with the kernel's arguments.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "fused_norm/fused_norm.h"
#include "torch/tensors.h"

namespace fastmunit::bindings {

inline Statistics statistics_from(const std::string& name) {
  if (name == "instance") return Statistics::instance;
  if (name == "layer") return Statistics::layer;
  STD_TORCH_CHECK(name == "none", "statistics must be instance, layer or none");
  return Statistics::none;
}

inline Activation activation_from(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "leaky_relu") return Activation::leaky_relu;
  STD_TORCH_CHECK(name == "none", "activation must be none, relu or leaky_relu");
  return Activation::none;
}

inline PadMode pad_mode_from(const std::string& name) {
  if (name == "reflect") return PadMode::reflect;
  if (name == "replicate") return PadMode::replicate;
  STD_TORCH_CHECK(name == "zero", "pad_mode must be reflect, replicate or zero");
  return PadMode::zero;
}

inline FusedNormOptions options_of(const Map& x, const std::string& statistics, const std::string& activation,
                                   double negative_slope, std::int64_t pad, const std::string& pad_mode, double eps, bool pixel_shuffle) {
  const Tensor& map = x.tensor;
  FusedNormOptions options;
  options.dtype = data_type(map, "x");
  options.layout = x.layout;
  options.batch = map.size(0);
  options.channels = pixel_shuffle ? map.size(1) / 4 : map.size(1);
  options.height = pixel_shuffle ? 2 * map.size(2) : map.size(2);
  options.width = pixel_shuffle ? 2 * map.size(3) : map.size(3);
  options.statistics = statistics_from(statistics);
  options.activation = activation_from(activation);
  options.negative_slope = negative_slope;
  options.pad = static_cast<int>(pad);
  options.pad_mode = pad_mode_from(pad_mode);
  options.eps = eps;
  options.pixel_shuffle = pixel_shuffle;
  options.threads = static_cast<int>(torch::stable::get_num_threads());
  STD_TORCH_CHECK(!pixel_shuffle || map.size(1) % 4 == 0, "with pixel_shuffle, x must have a multiple of 4 channels");
  STD_TORCH_CHECK(map.size(2) > 0 && map.size(3) > 0, "x must have at least one pixel");
  STD_TORCH_CHECK(pad >= 0 && pad <= max_pad, "pad must be 0 to ", max_pad);
  STD_TORCH_CHECK(pad == 0 || options.pad_mode != PadMode::reflect || (pad < options.height && pad < options.width),
                  "reflect padding must be smaller than the map");
  return options;
}

inline Tensor empty_map(const Map& x, std::int64_t channels, std::int64_t height, std::int64_t width) {
  return torch::stable::empty({x.tensor.size(0), channels, height, width}, x.tensor.scalar_type(), std::nullopt,
                              x.tensor.device(), std::nullopt, x.format());
}

inline Tensor empty_doubles(std::initializer_list<std::int64_t> size, const Map& x) {
  return torch::stable::empty(size, ScalarType::Double, std::nullopt, x.tensor.device());
}

// Checks the size of an optional map and returns it as StridedMap. `kept` holds the map, or a copy if the innermost
// dimension is not dense.
inline StridedMap strided_map(const std::optional<Tensor>& given, const FusedNormOptions& options, int pad, const Map& x,
                              const char* name, Tensor& kept) {
  if (!given.has_value()) return {};
  const Tensor& map = *given;
  STD_TORCH_CHECK(map.dim() == 4 && map.size(0) == options.batch && map.size(1) == options.channels &&
                      map.size(2) == options.height + 2 * pad && map.size(3) == options.width + 2 * pad,
                  name, ": expected shape (", options.batch, ", ", options.channels, ", ", options.height + 2 * pad, ", ",
                  options.width + 2 * pad, ")");
  STD_TORCH_CHECK(map.scalar_type() == x.tensor.scalar_type(), name, " must have the dtype of x");
  STD_TORCH_CHECK(map.device() == x.tensor.device(), name, " must be on the device of x");
  const int inner = options.layout == Layout::nchw ? 3 : 1;
  kept = map.size(inner) == 1 || map.stride(inner) == 1 ? map : torch::stable::contiguous(map, x.format());
  return {kept.const_data_ptr(), kept.stride(0), kept.stride(1), kept.stride(2), kept.stride(3)};
}

inline AffineParameter affine_parameter(const std::optional<Tensor>& given, const FusedNormOptions& options, const Map& x,
                                        const char* name) {
  if (!given.has_value()) return {};
  const bool per_sample = given->dim() == 2;
  STD_TORCH_CHECK((per_sample && given->size(0) == options.batch && given->size(1) == options.channels) ||
                      (given->dim() == 1 && given->size(0) == options.channels),
                  name, " must be (C,) or (N, C)");
  STD_TORCH_CHECK(given->device() == x.tensor.device(), name, " must be on the device of x");
  return {given->const_data_ptr(), data_type(*given, name), per_sample ? given->stride(0) : 0,
          given->stride(per_sample ? 1 : 0)};
}

inline Tensor empty_gradient(const std::optional<Tensor>& parameter, bool needed, const Map& x, ParameterGradient& gradient) {
  if (!needed || !parameter.has_value()) return empty_doubles({0}, x);
  const Tensor result = torch::stable::empty(parameter->sizes(), parameter->scalar_type(), std::nullopt, x.tensor.device());
  gradient = {result.mutable_data_ptr(), data_type(*parameter, "weight and bias"), parameter->dim() == 2};
  return result;
}

// Sets the inputs of a forward call, and allocates and returns its padded result. `kept` must outlive the call.
inline Tensor set_forward(FusedNorm& a, const Map& map, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& residual, Tensor& kept) {
  const Tensor padded = empty_map(map, a.channels, a.height + 2 * a.pad, a.width + 2 * a.pad);
  a.weight = affine_parameter(weight, a, map, "weight");
  a.bias = affine_parameter(bias, a, map, "bias");
  a.residual = strided_map(residual, a, 0, map, "residual", kept);
  a.x = map.tensor.const_data_ptr();
  a.padded = padded.mutable_data_ptr();
  return padded;
}

// Returns the number of groups of values that share statistics.
inline std::int64_t groups_of(const FusedNormOptions& a) {
  if (a.statistics == Statistics::none) return 0;
  return a.batch * (a.statistics == Statistics::instance ? a.channels : 1);
}

// Returns the values of given or saved statistics.
inline const double* statistics_data(const Tensor& statistics, const FusedNormOptions& a, const Tensor& x) {
  STD_TORCH_CHECK(statistics.scalar_type() == ScalarType::Double && statistics.is_contiguous() &&
                      static_cast<std::int64_t>(statistics.numel()) == groups_of(a),
                  "mean and rstd must be those of fused_norm: float64, contiguous, one per group");
  STD_TORCH_CHECK(statistics.device() == x.device(), "mean and rstd must be on the device of x");
  return statistics.const_data_ptr<double>();
}

// Runs the op on a device. Device::run(arguments, x) runs its forward or backward kernels.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> fused_norm(const Tensor& x, const std::optional<Tensor>& weight,
                                              const std::optional<Tensor>& bias,
                                              const std::optional<Tensor>& residual, const std::string& statistics,
                                              const std::string& activation, double negative_slope, std::int64_t pad,
                                              const std::string& pad_mode, double eps, bool pixel_shuffle) {
  const Map map = dense_map(x, "x");
  FusedNorm a;
  static_cast<FusedNormOptions&>(a) =
      options_of(map, statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle);
  Tensor kept;
  const Tensor padded = set_forward(a, map, weight, bias, residual, kept);
  const auto group = [&] {
    if (a.statistics == Statistics::instance) return empty_doubles({a.batch, a.channels}, map);
    return empty_doubles({groups_of(a)}, map);
  };
  const Tensor mean = group(), rstd = group();
  if (padded.numel() == 0) return {padded, mean, rstd};
  a.mean = mean.mutable_data_ptr<double>();
  a.rstd = rstd.mutable_data_ptr<double>();
  Device::run(a, x);
  return {padded, mean, rstd};
}

template <class Device>
Tensor fused_norm_with_statistics(const Tensor& x, const Tensor& mean, const Tensor& rstd, const std::optional<Tensor>& weight,
                                  const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                                  const std::string& statistics, const std::string& activation, double negative_slope,
                                  std::int64_t pad, const std::string& pad_mode, double eps, bool pixel_shuffle) {
  const Map map = dense_map(x, "x");
  FusedNormWithStatistics a;
  static_cast<FusedNormOptions&>(a) =
      options_of(map, statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle);
  STD_TORCH_CHECK(a.statistics != Statistics::none, "statistics must be instance or layer");
  Tensor kept;
  const Tensor padded = set_forward(a, map, weight, bias, residual, kept);
  a.given_mean = statistics_data(mean, a, x);
  a.given_rstd = statistics_data(rstd, a, x);
  if (padded.numel() > 0) Device::run(a, x);
  return padded;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> fused_norm_backward(
    const std::optional<Tensor>& dpadded, const std::optional<Tensor>& dinterior, const Tensor& x, const Tensor& mean,
    const Tensor& rstd, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, bool needs_weight,
    bool needs_bias, bool needs_residual, const std::string& statistics, const std::string& activation, double negative_slope,
    std::int64_t pad, const std::string& pad_mode, double eps, bool pixel_shuffle) {
  STD_TORCH_CHECK(dpadded.has_value() || dinterior.has_value(), "dpadded or dinterior must be given");
  const Map map = dense_map(x, "x");
  FusedNormBackward a;
  static_cast<FusedNormOptions&>(a) =
      options_of(map, statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle);
  a.mean = statistics_data(mean, a, x);
  a.rstd = statistics_data(rstd, a, x);
  Tensor kept_padded, kept_interior;
  a.dpadded = strided_map(dpadded, a, a.pad, map, "dpadded", kept_padded);
  a.dinterior = strided_map(dinterior, a, 0, map, "dinterior", kept_interior);
  a.weight = affine_parameter(weight, a, map, "weight");
  a.bias = affine_parameter(bias, a, map, "bias");
  const Tensor dx = empty_map_like(map);
  const Tensor dweight = empty_gradient(weight, needs_weight, map, a.dweight);
  const Tensor dbias = empty_gradient(bias, needs_bias, map, a.dbias);
  const Tensor dresidual = needs_residual ? empty_map(map, a.channels, a.height, a.width) : empty_doubles({0}, map);
  if (a.channels == 0) return {dx, dweight, dbias, dresidual};
  a.x = map.tensor.const_data_ptr();
  a.dx = dx.mutable_data_ptr();
  a.dresidual = needs_residual ? dresidual.mutable_data_ptr() : nullptr;
  Device::run(a, x);
  return {dx, dweight, dbias, dresidual};
}

}  // namespace fastmunit::bindings
