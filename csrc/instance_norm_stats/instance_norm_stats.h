// instance_norm_stats: mean and rstd per (sample, channel) plane of x, and the gradient with respect to x.
//
//   mean = E[x], rstd = 1 / sqrt(E[(x - mean)^2] + eps)
//   dx = dmean / P - drstd * rstd^3 * (x - mean) / P, where P is the number of pixels per plane
//
// The kernels split each plane into segments of a fixed number of pixels, write the mean and the sum of squared
// deviations of each segment to `partials`, and combine these in order (Chan, Golub and LeVeque, 1979). The segments do
// not depend on the number of threads, so neither do the results.
#pragma once

#include <cstdint>

#include "common/parallel.h"
#include "common/types.h"

namespace fastmunit {

struct InstanceNormStats {
  DataType dtype;  // of x; mean and rstd are float64 if x is, else float32
  Layout layout;
  std::int64_t batch, channels, pixels;
  double eps;
  const void* x;
  void* mean;        // (batch, channels)
  void* rstd;        // (batch, channels)
  double* partials;  // memory for `instance_norm_stats_partials(...)` doubles
};

struct InstanceNormStatsBackward {
  DataType dtype;  // of x and dx
  Layout layout;
  std::int64_t batch, channels, pixels;
  const void* dmean;  // dmean, drstd, mean and rstd: (batch, channels), all of the same type
  const void* drstd;
  const void* x;
  const void* mean;
  const void* rstd;
  void* dx;
};

namespace cpu {
std::int64_t instance_norm_stats_partials(const InstanceNormStats& arguments);
void instance_norm_stats(const InstanceNormStats& arguments, ParallelFor parallel_for);
void instance_norm_stats_backward(const InstanceNormStatsBackward& arguments, ParallelFor parallel_for);
}  // namespace cpu

// The launchers return null or CUDA's error message. `stream` is a cudaStream_t.
namespace cuda {
std::int64_t instance_norm_stats_partials(const InstanceNormStats& arguments);
const char* instance_norm_stats(const InstanceNormStats& arguments, void* stream);
const char* instance_norm_stats_backward(const InstanceNormStatsBackward& arguments, void* stream);
}  // namespace cuda

}  // namespace fastmunit
