#include <limits>

#include "fused_norm/forward.cuh"

namespace fastmunit::cuda::norm {
namespace {

// Returns true if the call needs kernels with `extra`, which support leaky relu and a residual.
bool needs_extra(const FusedNorm& a) { return a.residual.data != nullptr || a.activation == Activation::leaky_relu; }

template <class Storage, int words, Mode mode>
auto rows_kernel(const FusedNorm& a) {
  return needs_extra(a) ? forward_rows<Storage, words, mode, true> : forward_rows<Storage, words, mode, false>;
}

template <class Storage, bool pixel_shuffle, Mode mode>
auto pixels_kernel(const FusedNorm& a) {
  return needs_extra(a) ? forward_pixels<Storage, pixel_shuffle, mode, true> : forward_pixels<Storage, pixel_shuffle, mode, false>;
}

template <class Storage, Mode mode>
auto kernel_of(const FusedNorm& a, const Plan& plan) {
  if (plan.kernel == Kernel::any) return forward_any<mode>;
  if constexpr (mode == Mode::reduce) {
    if (plan.kernel == Kernel::rows) return forward_rows<Storage, unit_words, mode, false>;
    return a.pixel_shuffle ? forward_pixels<Storage, true, mode, false> : forward_pixels<Storage, false, mode, false>;
  } else {
    if (plan.kernel == Kernel::pixels) {
      return a.pixel_shuffle ? pixels_kernel<Storage, true, mode>(a) : pixels_kernel<Storage, false, mode>(a);
    }
    if (a.width == 32) return rows_kernel<Storage, 1, mode>(a);
    return a.width == 64 ? rows_kernel<Storage, 2, mode>(a) : rows_kernel<Storage, unit_words, mode>(a);
  }
}

template <class Storage>
ForwardArguments arguments_of(const FusedNorm& a, const Plan& plan) {
  const std::int64_t channel_bytes = a.channels * static_cast<std::int64_t>(sizeof(Storage));
  ForwardArguments arguments = {a,
                                Cover(plan, a),
                                plan.split,
                                nullptr,
                                nullptr,
                                plan.tiles_of_group(a),
                                CompactPadSources(PadSources(a, static_cast<int>(a.height))),
                                CompactPadSources(PadSources(a, static_cast<int>(a.width))),
                                channel_bytes * a.height * a.width,
                                channel_bytes * (a.height + 2 * a.pad) * (a.width + 2 * a.pad)};
  arguments.floor = a.activation == Activation::relu ? 0.0f : -std::numeric_limits<float>::infinity();
  arguments.slope = a.activation == Activation::leaky_relu ? static_cast<float>(a.negative_slope) : 1.0f;
  while (std::int64_t{1} << arguments.width_bits < a.width) ++arguments.width_bits;
  return arguments;
}

// Returns the number of doubles that the affines of all planes take.
std::int64_t affine_doubles(const FusedNorm& a) { return (3 * a.batch * a.channels + 1) / 2; }

// Launches the kernel that reads affines which the previous launch has written.
template <class Storage>
const char* launch_apply(const FusedNorm& a, const Plan& plan, const Device& device, void* stream, const ForwardArguments& arguments) {
  LaunchShape shape = shape_of(plan);
  shape.dependent = device.dependent_launches;
  return launch(kernel_of<Storage, Mode::apply>(a, plan), shape, stream, arguments);
}

template <class Storage>
const char* run(const FusedNorm& a, const Plan& plan, const Device& device, Workspace workspace, void* stream) {
  ForwardArguments arguments = arguments_of<Storage>(a, plan);
  if (!plan.split) {
    if (a.statistics == Statistics::none) return launch(kernel_of<Storage, Mode::apply>(a, plan), shape_of(plan), stream, arguments);
    return launch(kernel_of<Storage, Mode::whole>(a, plan), shape_of(plan, plan.cluster), stream, arguments);
  }
  const std::int64_t moments = 2 * plan.groups(a) * arguments.tiles_of_group;
  double* const memory = workspace.allocate(moments + affine_doubles(a), workspace.context);
  arguments.partials = reinterpret_cast<TileMoments*>(memory);
  arguments.affines = reinterpret_cast<PlaneAffine*>(memory + moments);
  if (const char* error = launch(kernel_of<Storage, Mode::reduce>(a, plan), shape_of(plan), stream, arguments)) return error;
  const std::int64_t groups = plan.groups(a);
  const std::int64_t blocks = a.statistics == Statistics::layer ? groups : (groups + block_warps - 1) / block_warps;
  LaunchShape shape = {static_cast<unsigned>(blocks), block_threads};
  shape.dependent = device.dependent_launches;
  if (const char* error = launch(combine_moments, shape, stream, arguments)) return error;
  return launch_apply<Storage>(a, plan, device, stream, arguments);
}

template <class Storage>
const char* run_with_statistics(const FusedNormWithStatistics& a, const Plan& plan, const Device& device, Workspace workspace,
                                void* stream) {
  ForwardArguments arguments = arguments_of<Storage>(a, plan);
  arguments.split = true;
  arguments.affines = reinterpret_cast<PlaneAffine*>(workspace.allocate(affine_doubles(a), workspace.context));
  const LaunchShape shape = {static_cast<unsigned>((a.batch * a.channels + block_threads - 1) / block_threads), block_threads};
  if (const char* error = launch(affines_of_statistics, shape, stream, arguments, a.given_mean, a.given_rstd)) return error;
  return launch_apply<Storage>(a, plan, device, stream, arguments);
}

// Returns true if kernel `pixels` supports the map. With pixel shuffle, threads exchange values that are already
// rounded, so no residual can be added. The distance between a thread's vectors, in bytes, must fit in 32 bits.
bool all_take_vectors(const FusedNorm& a) {
  return a.channels < 1 << 19 && takes_vectors(a.x, a) && takes_vectors(a.padded, a) && takes_vectors(a.residual, a) &&
         !(a.pixel_shuffle && a.residual.data != nullptr);
}

}  // namespace
}  // namespace fastmunit::cuda::norm

namespace fastmunit::cuda {

const char* fused_norm(const FusedNorm& a, const Device& device, Workspace workspace, void* stream) {
  if (const char* error = norm::refusal(a)) return error;
  const norm::Plan plan = norm::Planner(a, device, norm::all_take_vectors(a)).plan();
  if (plan.blocks == 0) return nullptr;
  if (plan.blocks > INT32_MAX) return "x is too large for one launch";
  return with_storage(
      a.dtype, [&](auto type) { return norm::run<decltype(type)>(a, plan, device, workspace, stream); });
}

const char* fused_norm_with_statistics(const FusedNormWithStatistics& a, const Device& device, Workspace workspace,
                                       void* stream) {
  if (const char* error = norm::refusal(a)) return error;
  FusedNormOptions tiled = a;  // x is read once, as without statistics
  tiled.statistics = Statistics::none;
  const norm::Plan plan = norm::Planner(tiled, device, norm::all_take_vectors(a)).plan();
  if (plan.blocks == 0) return nullptr;
  if (plan.blocks > INT32_MAX) return "x is too large for one launch";
  return with_storage(a.dtype, [&](auto type) {
    return norm::run_with_statistics<decltype(type)>(a, plan, device, workspace, stream);
  });
}

}  // namespace fastmunit::cuda
