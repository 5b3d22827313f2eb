#include "fused_norm/backward.cuh"
#include "fused_norm/backward_channels_last.cuh"
#include "fused_norm/backward_combine.cuh"
#include "fused_norm/backward_launch.cuh"

namespace fastmunit::cuda {
namespace {

Plan plan_of(const FusedNormBackward& a, const Device& device) {
  const bool vectors = aligned(a.x, a) && aligned(a.dx, a) && aligned(a.dresidual, a) && aligned(a.dpadded, a) &&
                       aligned(a.dinterior, a);
  const TileMaps maps = {value_bytes(a.dtype), a.dpadded.data != nullptr, a.dinterior.data != nullptr};
  return Planner(a, maps, device, vectors).plan();
}

template <class Storage>
auto kernel_of(const FusedNormBackward& a, const Plan& plan) {
  constexpr int N = vector_values<Storage>;
  if (a.layout == Layout::nchw) return plan.staged ? backward_nchw<true, Storage> : backward_nchw<false, Storage>;
  if (!plan.staged) return backward_channels_last<false, 1, Storage>;
  return plan.vectors ? backward_channels_last<true, N, Storage> : backward_channels_last<true, 1, Storage>;
}

bool wants_coefficients(const FusedNormBackward& a) { return a.dweight.data != nullptr || a.dbias.data != nullptr; }

// How many doubles the sums of tiles take: a pair of floats each. What follows is aligned to two doubles.
std::int64_t partials_of(const FusedNormBackward& a, const Plan& plan) {
  return plan.reads_once && !wants_coefficients(a) ? 0 : rounded_up(a.batch * a.channels * plan.tiling.row_tiles, 2);
}

// Planes that a block of combine_sums takes at a time: in MUNIT's layer norm, where it takes all of a sample, as many as there
// are, so that all of its threads read at once.
int planes_at_once(const FusedNormBackward& a) {
  int planes = sums_planes;
  while (a.statistics == Statistics::layer && planes < a.channels && planes < sums_threads) planes *= 2;
  return planes;
}

template <class Storage>
const char* run(const FusedNormBackward& a, const Plan& plan, double* partials, void* stream) {
  const std::int64_t kept = partials_of(a, plan);
  BackwardArguments arguments = {a,
                                 plan.tiling,
                                 Pass::whole,
                                 plan.cluster,
                                 kept > 0 ? partials : nullptr,
                                 partials + kept,
                                 Division(static_cast<int>(a.width)),
                                 Division(chunks_of_row(a.width, value_bytes(a.dtype))),
                                 Division(chunks_of_row(a.width + 2 * a.pad, value_bytes(a.dtype)))};
  const auto kernel = kernel_of<Storage>(a, plan);
  if (a.batch == 0) {
    // Nothing to read: the gradients of coefficients are sums of nothing.
  } else if (plan.reads_once) {
    if (const char* error = launch(kernel, shape_of(plan, Pass::whole), stream, arguments)) return error;
  } else {
    arguments.pass = Pass::reduce;
    if (const char* error = launch(kernel, shape_of(plan, Pass::reduce), stream, arguments)) return error;
    const bool layer = a.statistics == Statistics::layer;
    const int planes = planes_at_once(a);
    const unsigned blocks = layer ? static_cast<unsigned>(a.batch) : blocks_of(a.batch * a.channels, planes);
    if (const char* error = launch(combine_sums, {blocks, sums_threads}, stream, arguments, planes)) return error;
    arguments.pass = Pass::apply;
    if (const char* error = launch(kernel, shape_of(plan, Pass::apply), stream, arguments)) return error;
  }
  if (!wants_coefficients(a)) return nullptr;
  return launch(coefficient_gradients, {blocks_of(a.channels, sums_planes), sums_threads}, stream, arguments);
}

}  // namespace

std::int64_t fused_norm_backward_partials(const FusedNormBackward& a, const Device& device) {
  const Plan plan = plan_of(a, device);
  // Of each plane two doubles and six floats.
  return partials_of(a, plan) + (plan.reads_once ? 0 : 5 * a.batch * a.channels);
}

const char* fused_norm_backward(const FusedNormBackward& a, const Device& device, double* partials, void* stream) {
  const Plan plan = plan_of(a, device);
  if (plan.blocks > INT32_MAX) return "x is too large for one launch";
  return with_storage(a.dtype, [&](auto type) { return run<decltype(type)>(a, plan, partials, stream); });
}

}  // namespace fastmunit::cuda
