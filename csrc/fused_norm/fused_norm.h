// fused_norm: normalization, activation, residual and padding in one op, and its gradients.
//
//   z = (x - mean) * rstd * weight + bias
//   y = pad(activation(z) + residual)
//
// instance: mean and rstd = 1 / sqrt(E[(x - mean)^2] + eps) per (sample, channel) plane.
// layer: MUNIT's layer norm: mean and rstd = 1 / (std + eps) per sample, with the unbiased std.
// none: mean = 0 and rstd = 1.
//
// Statistics are float64: if the mean is large compared to the standard deviation, a float32 mean loses the digits of
// the deviations. Sums are computed per segment of rows and combined in order. The size of segments depends only on the shape,
// so results do not depend on the number of threads.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/moments.h"
#include "common/pad_index.h"
#include "common/parallel.h"
#include "common/types.h"

namespace fastmunit {

enum class Statistics { instance, layer, none };
enum class Activation { none, relu, leaky_relu };

struct FusedNormOptions {
  DataType dtype;  // of all maps
  Layout layout;   // of x, dx, padded and dresidual
  std::int64_t batch, channels, height, width;  // of y before padding
  Statistics statistics;
  Activation activation;
  double negative_slope;  // of leaky_relu
  int pad;                // 0 to max_pad
  PadMode pad_mode;
  double eps;
  // x and dx are (N, 4 C, H/2, W/2): pixel (i, j) of channel 4 c + 2 a + b is pixel (2 i + a, 2 j + b) of channel c.
  // The four channels of a channel c are its phases.
  bool pixel_shuffle;
  int threads;  // in the pool: affects how the work is distributed, not the results
};

constexpr int max_pad = 3;

// A (N, C, H, W) map with strides in elements. The stride of the innermost dimension of `layout` (W, or C in
// channels_last) is 1; the others are arbitrary. `data` is null if the map is absent.
struct StridedMap {
  const void* data = nullptr;
  std::int64_t sample_stride = 0, channel_stride = 0, row_stride = 0, column_stride = 0;
};

// weight or bias per sample and channel, with strides in elements. `data` is null if it is absent.
struct AffineParameter {
  const void* data = nullptr;
  DataType dtype = DataType::float32;
  std::int64_t sample_stride = 0, channel_stride = 0;
};

// The contiguous gradient of an AffineParameter: (batch, channels), or (channels,) summed over samples. `data` is null
// if it is not requested.
struct ParameterGradient {
  void* data = nullptr;
  DataType dtype = DataType::float32;
  bool per_sample = false;
};

struct FusedNorm : FusedNormOptions {
  const void* x = nullptr;
  AffineParameter weight, bias;
  StridedMap residual;
  void* padded = nullptr;  // (batch, channels, height + 2 pad, width + 2 pad)
  double* mean = nullptr;  // mean and rstd: (batch, channels) for instance, (batch,) for layer
  double* rstd = nullptr;
};

// fused_norm with the given statistics instead of those of x, in the sizes of mean and rstd, which are not written.
struct FusedNormWithStatistics : FusedNorm {
  const double* given_mean = nullptr;
  const double* given_rstd = nullptr;
};

struct FusedNormBackward : FusedNormOptions {
  StridedMap dpadded, dinterior;  // dy is dinterior plus the adjoint of the padding applied to dpadded
  const void* x = nullptr;
  AffineParameter weight, bias;
  const double* mean = nullptr;
  const double* rstd = nullptr;
  void* dx = nullptr;
  void* dresidual = nullptr;  // null if it is not requested
  ParameterGradient dweight, dbias;
};

// --- Mathematics per group, plane or value, for host and device -------------------------------------------------------
//
// A group is the set of values that share statistics: a plane for instance, a sample for layer.

namespace {

// The statistics of a group.
struct NormStats {
  double mean = 0.0, rstd = 1.0;
};

FASTMUNIT_HOST_DEVICE inline NormStats norm_stats_of(Moments moments, double values, Statistics statistics, double eps) {
  const bool layer = statistics == Statistics::layer;
  const double variance = moments.squares / (layer ? values - 1.0 : values);
  return {moments.mean, 1.0 / (std::sqrt(layer ? variance : variance + eps) + (layer ? eps : 0.0))};
}

// Returns mean - center, where center is the mean rounded to Lane.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline double rounding_of_mean(NormStats stats) {
  return stats.mean - static_cast<double>(static_cast<Lane>(stats.mean));
}

// z = (x - center) * scale + shift. x - center is exact near the mean, and shift includes the rounding error of center.
// If scale is infinite, shift omits it: otherwise an error of 0 would give NaN, and infinities would be subtracted from
// each other.
template <class Lane>
struct Affine {
  Lane center, scale, shift;
};

template <class Lane>
FASTMUNIT_HOST_DEVICE inline Affine<Lane> affine_of(NormStats stats, double weight, double bias) {
  const double scale = stats.rstd * weight;
  const Lane rounded = static_cast<Lane>(scale);
  const double shift = std::isinf(rounded) ? bias : bias - rounding_of_mean<Lane>(stats) * scale;
  return {static_cast<Lane>(stats.mean), rounded, static_cast<Lane>(shift)};
}

// Σ dz and Σ dz * (x - mean) over a plane, or over a sample with each term multiplied by the channel's weight.
struct alignas(16) GradientSums {
  double dz = 0.0, product = 0.0;
};

// Converts sums about center to sums about the mean. Infinite sums are unchanged, as for the shift of Affine.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline GradientSums sums_about_mean(NormStats stats, GradientSums sums) {
  return {sums.dz, std::isinf(sums.dz) ? sums.product : sums.product - rounding_of_mean<Lane>(stats) * sums.dz};
}

// The coefficients of dx = gain * dz + slope * (x - center) + constant.
template <class Lane>
struct GradientCoefficients {
  Lane gain, slope, constant;
};

// dx = rstd * weight * (dz - mean(dz) - (x - mean) * rstd^2 * mean(dz * (x - mean))) over the values of a plane.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline GradientCoefficients<Lane> instance_coefficients(NormStats stats, double weight, GradientSums sums,
                                                                              double values) {
  const double gain = stats.rstd * weight;
  const double slope = -gain * stats.rstd * stats.rstd * sums.product / values;
  const double constant = -gain * sums.dz / values - slope * rounding_of_mean<Lane>(stats);
  return {static_cast<Lane>(gain), static_cast<Lane>(slope), static_cast<Lane>(constant)};
}

// dx = rstd * (weight * dz - mean(weight * dz)) - (x - mean) * rstd^2 / ((M - 1) * std) * Σ weight * dz * (x - mean)
// over the M values of a sample. A std of 0 is treated as a constant, as in torch.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline GradientCoefficients<Lane> layer_coefficients(NormStats stats, double weight, GradientSums weighted,
                                                                           double values, double eps) {
  const double std = 1.0 / stats.rstd - eps;
  const double slope =
      std <= 1e-12 * eps ? 0.0 : -stats.rstd * stats.rstd * weighted.product / ((values - 1.0) * std);
  const double constant = -stats.rstd * weighted.dz / values - slope * rounding_of_mean<Lane>(stats);
  return {static_cast<Lane>(stats.rstd * weight), static_cast<Lane>(slope), static_cast<Lane>(constant)};
}

}  // namespace

// --- Launchers ------------------------------------------------------------------------------------------------------

namespace cpu {
void fused_norm(const FusedNorm& arguments, ParallelFor parallel_for);
void fused_norm_with_statistics(const FusedNormWithStatistics& arguments, ParallelFor parallel_for);
void fused_norm_backward(const FusedNormBackward& arguments, ParallelFor parallel_for);
}  // namespace cpu

// GPU memory through which the kernels of a call pass intermediate results. allocate(count, context) returns `count`
// doubles, aligned to 16 bytes, that stay valid until the kernels have ended.
struct Workspace {
  double* (*allocate)(std::int64_t count, void* context);
  void* context;
};

// The launchers return null or an error message. `stream` is a cudaStream_t. float64 has no CUDA kernel.
namespace cuda {
struct Device;
const char* fused_norm(const FusedNorm& arguments, const Device& device, Workspace workspace, void* stream);
const char* fused_norm_with_statistics(const FusedNormWithStatistics& arguments, const Device& device, Workspace workspace,
                                       void* stream);
const char* fused_norm_backward(const FusedNormBackward& arguments, const Device& device, Workspace workspace, void* stream);
}  // namespace cuda

}  // namespace fastmunit
