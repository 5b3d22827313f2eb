// Exports the launchers of fused_norm for bench.on_gpu, which calls them through ctypes with raw pointers. They do not
// depend on torch, so variants compile in seconds, independently of the installed extension. bench/on_gpu/library.py has
// the other end.
#include <cstdint>
#include <stdexcept>

#include "cuda/device.h"
#include "fused_norm/fused_norm.h"
#include "fused_norm/plan.h"

namespace fastmunit::candidates {

struct Request {
  std::int32_t dtype, layout, statistics, activation, pad_mode, pixel_shuffle, pad;  // enumerators by number
  std::int32_t multiprocessors, cluster, dependent_launches, max_steps;
  std::int64_t batch, channels, height, width;
  double negative_slope, eps;
  const void *x, *weight, *bias, *residual;  // weight and bias are float32
  std::int64_t weight_strides[2], bias_strides[2], residual_strides[4];
  void* padded;
  double *mean, *rstd, *workspace;
  std::int64_t workspace_doubles;
  void* stream;
};

// The additional arguments of backward, which also reads mean and rstd of the request. The gradients of weight and bias
// are float32.
struct Gradients {
  const void* dpadded;
  std::int64_t dpadded_strides[4];
  void *dx, *dweight, *dbias, *dresidual;  // null if it is not requested
};

inline FusedNormOptions options_of(const Request& r) {
  FusedNormOptions a = {};
  a.dtype = static_cast<DataType>(r.dtype);
  a.layout = static_cast<Layout>(r.layout);
  a.batch = r.batch;
  a.channels = r.channels;
  a.height = r.height;
  a.width = r.width;
  a.statistics = static_cast<Statistics>(r.statistics);
  a.activation = static_cast<Activation>(r.activation);
  a.negative_slope = r.negative_slope;
  a.pad = r.pad;
  a.pad_mode = static_cast<PadMode>(r.pad_mode);
  a.eps = r.eps;
  a.pixel_shuffle = r.pixel_shuffle != 0;
  return a;
}

inline AffineParameter weight_of(const Request& r) {
  return {r.weight, DataType::float32, r.weight_strides[0], r.weight_strides[1]};
}
inline AffineParameter bias_of(const Request& r) { return {r.bias, DataType::float32, r.bias_strides[0], r.bias_strides[1]}; }
inline StridedMap map_of(const void* data, const std::int64_t (&strides)[4]) {
  return {data, strides[0], strides[1], strides[2], strides[3]};
}

inline FusedNorm arguments_of(const Request& r) {
  FusedNorm a = {};
  static_cast<FusedNormOptions&>(a) = options_of(r);
  a.x = r.x;
  a.weight = weight_of(r);
  a.bias = bias_of(r);
  a.residual = map_of(r.residual, r.residual_strides);
  a.padded = r.padded;
  a.mean = r.mean;
  a.rstd = r.rstd;
  return a;
}

inline FusedNormBackward arguments_of(const Request& r, const Gradients& of) {
  FusedNormBackward a = {};
  static_cast<FusedNormOptions&>(a) = options_of(r);
  a.dpadded = map_of(of.dpadded, of.dpadded_strides);
  a.x = r.x;
  a.weight = weight_of(r);
  a.bias = bias_of(r);
  a.mean = r.mean;
  a.rstd = r.rstd;
  a.dx = of.dx;
  a.dresidual = of.dresidual;
  a.dweight = {of.dweight, DataType::float32, r.weight_strides[0] != 0};
  a.dbias = {of.dbias, DataType::float32, r.bias_strides[0] != 0};
  return a;
}

inline cuda::Device device_of(const Request& r) {
  cuda::Device device = {};
  device.multiprocessors = r.multiprocessors;
  device.shared_bytes = 48 * 1024;  // the kernels use no dynamic shared memory
  device.cluster = r.cluster;
  device.dependent_launches = r.dependent_launches != 0;
  device.max_steps = r.max_steps;
  return device;
}

inline double* allocate(std::int64_t count, void* context) {
  const Request& r = *static_cast<const Request*>(context);
  if (count > r.workspace_doubles) throw std::length_error("the workspace is too small");
  return r.workspace;
}

// Calls run(workspace) with the request's workspace.
template <class Run>
const char* run(Request& request, Run run) {
  try {
    return run(Workspace{allocate, &request});
  } catch (const std::length_error&) {
    return "the workspace is too small";
  }
}

// Returns the plan of the launchers.
inline cuda::norm::Plan plan_of(const Request& r, const Gradients* gradients) {
  using cuda::norm::takes_vectors;
  const FusedNormOptions a = options_of(r);
  if (gradients == nullptr) {
    const FusedNorm of = arguments_of(r);
    const bool vectors = takes_vectors(of.x, a) && takes_vectors(of.padded, a) && takes_vectors(of.residual, a) &&
                         !(a.pixel_shuffle && of.residual.data != nullptr);
    return cuda::norm::Planner(a, device_of(r), vectors).plan();
  }
  const FusedNormBackward of = arguments_of(r, *gradients);
  const bool vectors = takes_vectors(of.x, a) && takes_vectors(of.dx, a) && takes_vectors(of.dresidual, a) &&
                       takes_vectors(of.dpadded, a);
  return cuda::norm::Planner(a, device_of(r), vectors, 2).plan();
}

#if defined(__CUDACC__)

// A stand-in for the forward kernels. With this amount of shared memory, four blocks fit on a multiprocessor of compute
// capability 9.0, as for the kernels.
static __global__ void any_block() {}
constexpr std::size_t any_shared_bytes = 48 * 1024;

// Returns the number of clusters of any_block that the GPU can run together; 0 if it does not support the size.
inline int active_clusters(int size) {
  cudaFuncSetAttribute(any_block, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(size);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t configuration = {};
  configuration.gridDim = dim3(static_cast<unsigned>(size));
  configuration.blockDim = dim3(cuda::norm::block_threads);
  configuration.dynamicSmemBytes = any_shared_bytes;
  configuration.attrs = &cluster;
  configuration.numAttrs = 1;
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, any_block, &configuration) != cudaSuccess) {
    cudaGetLastError();  // an unsupported size is not an error
    return 0;
  }
  return clusters;
}

#else

inline int active_clusters(int) { return -1; }

#endif

}  // namespace fastmunit::candidates

using namespace fastmunit;
using candidates::Gradients;
using candidates::Request;

#define FASTMUNIT_EXPORT extern "C" __attribute__((visibility("default")))

FASTMUNIT_EXPORT int candidates_block_threads() { return cuda::norm::block_threads; }

// Returns -1 without a GPU.
FASTMUNIT_EXPORT int candidates_active_clusters(int size) { return candidates::active_clusters(size); }

// Returns null, or why there is no plan: of the forward, or of the backward if there are gradients. `plan` receives its
// numbers, followed by the number of doubles of the workspace.
FASTMUNIT_EXPORT const char* candidates_plan(const Request* request, const Gradients* gradients, std::int64_t* plan) {
  const FusedNormOptions a = candidates::options_of(*request);
  if (const char* error = cuda::norm::refusal(a)) return error;
  const cuda::norm::Plan of = candidates::plan_of(*request, gradients);
  const std::int64_t planes = a.batch * a.channels, groups = of.groups(a);
  const std::int64_t forward = of.split ? 2 * groups * of.tiles_of_group(a) + 2 * planes : 0;
  const std::int64_t backward = planes * of.tiles + groups * (of.tiles_of_group(a) + 1);
  const std::int64_t numbers[] = {static_cast<std::int64_t>(of.kernel), of.split, of.channels, of.steps, of.step_pixels, of.tiles,
                                  of.cluster, of.blocks, gradients == nullptr ? forward : backward};
  for (const std::int64_t number : numbers) *plan++ = number;
  return nullptr;
}

// Return null or an error message.
FASTMUNIT_EXPORT const char* candidates_forward(const Request* request) {
  Request own = *request;
  return candidates::run(own, [&](Workspace workspace) {
    return cuda::fused_norm(candidates::arguments_of(own), candidates::device_of(own), workspace, own.stream);
  });
}
FASTMUNIT_EXPORT const char* candidates_backward(const Request* request, const Gradients* gradients) {
  Request own = *request;
  return candidates::run(own, [&](Workspace workspace) {
    return cuda::fused_norm_backward(candidates::arguments_of(own, *gradients), candidates::device_of(own), workspace, own.stream);
  });
}
