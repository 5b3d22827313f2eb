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

#include <cstdint>

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

// The launchers return null, or what CUDA says went wrong. `partials` has room for as many doubles as `..._partials` says;
// `stream` is a cudaStream_t. float64 has no CUDA kernel.
namespace cuda {
struct Device;
const char* fused_norm(const FusedNorm& arguments, const Device& device, Workspace workspace, void* stream);
std::int64_t fused_norm_backward_partials(const FusedNormBackward& arguments, const Device& device);
const char* fused_norm_backward(const FusedNormBackward& arguments, const Device& device, double* partials, void* stream);
}  // namespace cuda

}  // namespace fastmunit
