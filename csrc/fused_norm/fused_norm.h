// fused_norm: normalisation, activation, residual and pad in one op, and its gradients.
//
//   z = (x - mean) * rstd * weight + bias
//   y = pad(activation(z) + residual)
//
// instance: mean and rstd = 1 / sqrt(E[(x - mean)^2] + eps) of each (sample, channel) plane.
// layer: MUNIT's layer norm: of each sample, rstd = 1 / (std + eps) with the unbiased std.
// none: mean = 0 and rstd = 1.
//
// Statistics are kept in double: a float32 mean that is large beside the standard deviation would lose the digits of x - mean.
// Sums are cut into segments of rows whose size depends on the shape alone, and are combined in order, so results do not
// depend on the number of threads.
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
  DataType dtype;  // of x and of all maps
  Layout layout;   // of x, dx, padded and dresidual
  std::int64_t batch, channels, height, width;  // of y before the pad
  Statistics statistics;
  Activation activation;
  double negative_slope;  // of leaky_relu
  int pad;                // 0 to max_pad
  PadMode pad_mode;
  double eps;
  // x and dx are (N, 4 C, H/2, W/2): value (a, b) of channel 4 c + 2 a + b is pixel (2 i + a, 2 j + b) of channel c.
  bool phases;
  int threads;  // of the pool: decides how the work is shared out, not what it gives
};

constexpr int max_pad = 3;

// A (N, C, H, W) map read in place. The stride, in elements, of the dimension that lies innermost in `layout` (W, or C in
// channels_last) is 1, the others are any. `data` is null where the map is absent.
struct StridedMap {
  const void* data = nullptr;
  std::int64_t sample_stride = 0, channel_stride = 0, row_stride = 0, column_stride = 0;
};

// weight or bias of each sample and channel, with strides in elements. `data` is null where it is absent.
struct Coefficients {
  const void* data = nullptr;
  DataType dtype = DataType::float32;
  std::int64_t sample_stride = 0, channel_stride = 0;
};

// A contiguous gradient of Coefficients: (batch, channels), or (channels,), the sum over samples. `data` is null where it is
// not wanted.
struct CoefficientsGradient {
  void* data = nullptr;
  DataType dtype = DataType::float32;
  bool of_each_sample = false;
};

struct FusedNorm : FusedNormOptions {
  const void* x = nullptr;
  Coefficients weight, bias;
  StridedMap residual;
  void* padded = nullptr;  // (batch, channels, height + 2 pad, width + 2 pad)
  double* mean = nullptr;  // (batch, channels) for instance, (batch,) for layer; as rstd
  double* rstd = nullptr;
};

struct FusedNormBackward : FusedNormOptions {
  StridedMap dpadded, dinterior;  // the gradient is their sum, `dpadded` folded back by the adjoint of the pad
  const void* x = nullptr;
  Coefficients weight, bias;
  const double* mean = nullptr;
  const double* rstd = nullptr;
  void* dx = nullptr;
  void* dresidual = nullptr;  // null where it is not wanted
  CoefficientsGradient dweight, dbias;
};

// --- The mathematics of one group, plane or value, as host and device compute it --------------------------------------

namespace {

// The statistics of a group.
struct Group {
  double mean = 0.0, rstd = 1.0;
};

FASTMUNIT_HOST_DEVICE inline Group group_of(Moments moments, double values, Statistics statistics, double eps) {
  const bool layer = statistics == Statistics::layer;
  const double variance = moments.squares / (layer ? values - 1.0 : values);
  return {moments.mean, 1.0 / (std::sqrt(layer ? variance : variance + eps) + (layer ? eps : 0.0))};
}

// mean - center, where center is the mean as Lane holds it.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline double rounding_of_mean(Group group) {
  return group.mean - static_cast<double>(static_cast<Lane>(group.mean));
}

// z = (x - center) * scale + shift. x - center is exact near the mean, and what the mean lost when it was rounded to center is
// part of shift, unless scale is infinite: then it would make NaN of a rounding of 0, or take infinities from each other.
template <class Lane>
struct Affine {
  Lane center, scale, shift;
};

template <class Lane>
FASTMUNIT_HOST_DEVICE inline Affine<Lane> affine_of(Group group, double weight, double bias) {
  const double scale = group.rstd * weight;
  const Lane rounded = static_cast<Lane>(scale);
  const double shift = std::isinf(rounded) ? bias : bias - rounding_of_mean<Lane>(group) * scale;
  return {static_cast<Lane>(group.mean), rounded, static_cast<Lane>(shift)};
}

// Σ dz and Σ dz * (x - mean) of a plane, or weighted by `weight` of a sample.
struct alignas(16) GradientSums {
  double dz = 0.0, product = 0.0;
};

// The sums about the mean from those about center. Infinite sums stay as they are, as for the shift of Affine.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline GradientSums sums_about_mean(Group group, GradientSums sums) {
  return {sums.dz, std::isinf(sums.dz) ? sums.product : sums.product - rounding_of_mean<Lane>(group) * sums.dz};
}

// dx = gain * dz + slope * (x - center) + constant.
template <class Lane>
struct Line {
  Lane gain, slope, constant;
};

// dx = rstd * weight * (dz - mean(dz) - (x - mean) * rstd^2 * mean(dz * (x - mean))) over the values of a plane.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline Line<Lane> instance_line(Group group, double weight, GradientSums sums, double values) {
  const double gain = group.rstd * weight;
  const double slope = -gain * group.rstd * group.rstd * sums.product / values;
  const double constant = -gain * sums.dz / values - slope * rounding_of_mean<Lane>(group);
  return {static_cast<Lane>(gain), static_cast<Lane>(slope), static_cast<Lane>(constant)};
}

// dx = rstd * (weight * dz - mean(weight * dz)) - (x - mean) * rstd^2 / ((M - 1) * std) * Σ weight * dz * (x - mean) over the
// M values of a sample; where std is 0 it counts as a constant, as in torch.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline Line<Lane> layer_line(Group group, double weight, GradientSums weighted, double values,
                                                   double eps) {
  const double std = 1.0 / group.rstd - eps;
  const double slope =
      std <= 1e-12 * eps ? 0.0 : -group.rstd * group.rstd * weighted.product / ((values - 1.0) * std);
  const double constant = -group.rstd * weighted.dz / values - slope * rounding_of_mean<Lane>(group);
  return {static_cast<Lane>(group.rstd * weight), static_cast<Lane>(slope), static_cast<Lane>(constant)};
}

}  // namespace

// --- Launchers ------------------------------------------------------------------------------------------------------

namespace cpu {
void fused_norm(const FusedNorm& arguments, ParallelFor parallel_for);
void fused_norm_backward(const FusedNormBackward& arguments, ParallelFor parallel_for);
}  // namespace cpu

// Room in the GPU's memory for what a call's kernels leave to each other: allocate(count, context) gives `count` doubles, aligned
// to 16 bytes, that last until the kernels have ended.
struct Workspace {
  double* (*allocate)(std::int64_t count, void* context);
  void* context;
};

// The launchers return null, or what went wrong. `stream` is a cudaStream_t. float64 has no CUDA kernel.
namespace cuda {
struct Device;
const char* fused_norm(const FusedNorm& arguments, const Device& device, Workspace workspace, void* stream);
const char* fused_norm_backward(const FusedNormBackward& arguments, const Device& device, Workspace workspace, void* stream);
}  // namespace cuda

}  // namespace fastmunit
