#include "fastmunit/fused_norm_channels_last.cuh"
#include "fastmunit/fused_norm_combine.cuh"
#include "fastmunit/fused_norm_launch.cuh"

namespace fastmunit::cuda {
namespace {

Plan plan_of(const FusedNorm& a, const Device& device) {
  const bool vectors = aligned(a.x, a) && aligned(a.padded, a) && aligned(a.residual, a);
  return Planner(a, {value_bytes(a.dtype)}, device, vectors).plan();
}

template <class Storage>
auto kernel_of(const FusedNorm& a, const Plan& plan) {
  constexpr int N = vector_values<Storage>;
  if (a.layout == Layout::nchw) return plan.staged ? forward_nchw<true, Storage> : forward_nchw<false, Storage>;
  if (!plan.staged) return forward_channels_last<false, 1, Storage>;
  return plan.vectors ? forward_channels_last<true, N, Storage> : forward_channels_last<true, 1, Storage>;
}

template <class Storage>
const char* run(const FusedNorm& a, const Plan& plan, double* partials, void* stream) {
  ForwardArguments arguments = {a,
                                plan.tiling,
                                Pass::whole,
                                plan.cluster,
                                partials,
                                Division(static_cast<int>(a.width) + 2 * a.pad),
                                Division(chunks_of_row(a.width, value_bytes(a.dtype)))};
  const auto kernel = kernel_of<Storage>(a, plan);
  if (plan.reads_once) return launch(kernel, shape_of(plan, Pass::whole), stream, arguments);
  arguments.pass = Pass::reduce;
  if (const char* error = launch(kernel, shape_of(plan, Pass::reduce), stream, arguments)) return error;
  const bool layer = a.statistics == Statistics::layer;
  const unsigned blocks = layer ? static_cast<unsigned>(a.batch) : blocks_of(a.batch * a.channels, combine_planes);
  const int tiles = plan.tiling.row_tiles * (layer ? plan.tiling.channel_tiles : 1);
  if (const char* error = launch(combine_moments, {blocks, combine_threads}, stream, arguments, tiles)) return error;
  arguments.pass = Pass::apply;
  return launch(kernel, shape_of(plan, Pass::apply), stream, arguments);
}

}  // namespace

std::int64_t fused_norm_partials(const FusedNorm& a, const Device& device) {
  const Plan plan = plan_of(a, device);
  if (plan.reads_once) return 0;
  return 2 * a.batch * (a.statistics == Statistics::layer ? plan.tiling.channel_tiles : a.channels) * plan.tiling.row_tiles;
}

const char* fused_norm(const FusedNorm& a, const Device& device, double* partials, void* stream) {
  const Plan plan = plan_of(a, device);
  if (plan.blocks == 0) return nullptr;
  if (plan.blocks > INT32_MAX) return "x is too large for one launch";
  return with_storage(a.dtype, [&](auto type) { return run<decltype(type)>(a, plan, partials, stream); });
}

}  // namespace fastmunit::cuda
