#include "fused_norm/forward.cuh"

namespace fastmunit::cuda::norm {
namespace {

template <class Storage, Mode mode>
auto rows_kernel(const FusedNorm& a) {
  switch (words_of_row(a)) {
    case 1:
      return forward_rows<Storage, 1, mode>;
    case 2:
      return forward_rows<Storage, 2, mode>;
    case 4:
      return forward_rows<Storage, 4, mode>;
    case 8:
      return forward_rows<Storage, 8, mode>;
    default:
      return forward_rows<Storage, largest_row_words, mode>;
  }
}

template <class Storage, Mode mode>
auto kernel_of(const FusedNorm& a, const Plan& plan) {
  if (plan.kernel == Kernel::any) return forward_any<Storage, mode>;
  if constexpr (sizeof(Storage) == sizeof(float)) {
    if (plan.kernel == Kernel::rows) return rows_kernel<Storage, mode>(a);
  }
  return a.phases ? forward_pixels<Storage, true, mode> : forward_pixels<Storage, false, mode>;
}

template <class Storage>
const char* run(const FusedNorm& a, const Plan& plan, const Device& device, Workspace workspace, void* stream) {
  ForwardArguments arguments = {a, Cover(plan, a), plan.split, nullptr, nullptr, plan.tiles_of_group(a)};
  if (!plan.split) {
    if (a.statistics == Statistics::none) return launch(kernel_of<Storage, Mode::apply>(a, plan), shape_of(plan), stream, arguments);
    return launch(kernel_of<Storage, Mode::whole>(a, plan), shape_of(plan, plan.cluster), stream, arguments);
  }
  const std::int64_t moments = 2 * plan.groups(a) * arguments.tiles_of_group;
  double* const room = workspace.allocate(moments + (3 * a.batch * a.channels + 1) / 2, workspace.context);
  arguments.partials = reinterpret_cast<TileMoments*>(room);
  arguments.affines = reinterpret_cast<PlaneAffine*>(room + moments);
  if (const char* error = launch(kernel_of<Storage, Mode::reduce>(a, plan), shape_of(plan), stream, arguments)) return error;
  const std::int64_t groups = plan.groups(a);
  const std::int64_t blocks = a.statistics == Statistics::layer ? groups : (groups + block_warps - 1) / block_warps;
  LaunchShape shape = {static_cast<unsigned>(blocks), block_threads};
  shape.dependent = device.dependent_launches;
  if (const char* error = launch(combine_moments, shape, stream, arguments)) return error;
  shape = shape_of(plan);
  shape.dependent = device.dependent_launches;
  return launch(kernel_of<Storage, Mode::apply>(a, plan), shape, stream, arguments);
}

// Whether kernel `pixels` takes the map. What four threads exchange is rounded already, so nothing can be added to it.
bool all_take_vectors(const FusedNorm& a) {
  return takes_vectors(a.x, a) && takes_vectors(a.padded, a) && takes_vectors(a.residual, a) &&
         !(a.phases && a.residual.data != nullptr);
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

}  // namespace fastmunit::cuda
