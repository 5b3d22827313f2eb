#include <limits>

#include "fused_norm/backward.cuh"

namespace fastmunit::cuda::norm {
namespace {

template <class Storage, Mode mode, Features features>
auto rows_kernel(const FusedNormBackward& a) {
  switch (words_of_row(a)) {
    case 1:
      return backward_rows<Storage, 1, mode, features>;
    case 2:
      return backward_rows<Storage, 2, mode, features>;
    case 4:
      return backward_rows<Storage, 4, mode, features>;
    case 8:
      return backward_rows<Storage, 8, mode, features>;
    default:
      return backward_rows<Storage, largest_row_words, mode, features>;
  }
}

template <class Storage, Mode mode, Features features>
auto kernel_with(const FusedNormBackward& a, const Plan& plan) {
  if constexpr (sizeof(Storage) == sizeof(float)) {
    if (plan.kernel == Kernel::rows) return rows_kernel<Storage, mode, features>(a);
  }
  return a.pixel_shuffle ? backward_pixels<Storage, true, mode, features> : backward_pixels<Storage, false, mode, features>;
}

// Returns true if the call uses only common features.
bool is_common(const FusedNormBackward& a) {
  return a.activation != Activation::leaky_relu && a.statistics != Statistics::none && a.dresidual == nullptr &&
         (a.dpadded.data == nullptr || a.dinterior.data == nullptr) && (a.pad_mode != PadMode::replicate || a.pad <= 1);
}

template <class Storage, Mode mode>
auto kernel_of(const FusedNormBackward& a, const Plan& plan) {
  if (plan.kernel == Kernel::any) return backward_any<Storage, mode>;
  return is_common(a) ? kernel_with<Storage, mode, Features::common>(a, plan) : kernel_with<Storage, mode, Features::all>(a, plan);
}

bool needs_parameter_gradients(const FusedNormBackward& a) { return a.dweight.data != nullptr || a.dbias.data != nullptr; }

// Returns true if the gradients of weight and bias depend on the sums of one plane each.
bool of_single_planes(const FusedNormBackward& a) {
  const auto is_of_plane = [&](const ParameterGradient& to) { return to.data == nullptr || to.per_sample || a.batch == 1; };
  return is_of_plane(a.dweight) && is_of_plane(a.dbias);
}

// Returns the Upstream of a gradient that has `pad` more pixels on each side than x.
Upstream upstream_of(const FusedNormBackward& a, const StridedMap& map, int pad) {
  if (map.data == nullptr) return {};
  const std::int64_t bytes = value_bytes(a.dtype), offset = pad * (map.row_stride + map.column_stride);
  return {static_cast<const char*>(map.data) + bytes * offset, bytes * map.sample_stride, bytes * map.channel_stride,
          static_cast<int>(bytes * map.row_stride), static_cast<int>(bytes * map.column_stride)};
}

// Returns true if the strides fit in Upstream.
bool fits(const StridedMap& map) {
  constexpr std::int64_t limit = INT32_MAX / 4;
  return map.data == nullptr || (map.row_stride <= limit && map.column_stride <= limit);
}

BackwardArguments arguments_of(const FusedNormBackward& a, const Plan& plan) {
  const double values = static_cast<double>(a.height * a.width) *
                        (a.statistics == Statistics::layer ? static_cast<double>(a.channels) : 1.0);
  const bool has_padded = a.dpadded.data != nullptr;
  const bool folds = has_padded && a.pad > 0 && a.pad_mode != PadMode::zero;
  const auto sources = [&](std::int64_t axis) {
    const PadSources of_pixels(a, static_cast<int>(axis), folds);
    return plan.kernel == Kernel::pixels && a.pixel_shuffle ? of_pixels.of_pairs() : of_pixels;
  };
  return {a,
          has_padded ? upstream_of(a, a.dpadded, a.pad) : upstream_of(a, a.dinterior, 0),
          has_padded ? upstream_of(a, a.dinterior, 0) : Upstream{},
          PadColumnLanes(a, folds),
          sources(a.height),
          sources(a.width),
          plan.split,
          false,
          Cover(plan, a),
          a.activation == Activation::relu ? 0.0f : std::numeric_limits<float>::quiet_NaN(),
          1.0 / values,
          a.channels * a.height * a.width * value_bytes(a.dtype),
          nullptr,
          nullptr,
          nullptr,
          plan.tiles_of_group(a)};
}

// Launches the kernels of a call one after the other.
template <class Storage>
class Launches {
 public:
  Launches(const FusedNormBackward& call, const Plan& call_plan, const Device& gpu, Workspace workspace, void* cuda_stream)
      : a(call), plan(call_plan), device(gpu), stream(cuda_stream), arguments(arguments_of(call, call_plan)) {
    allocate(workspace);
  }

  const char* run() const {
    if (plan.split) {
      if (const char* error = launch(kernel_of<Storage, Mode::reduce>(a, plan), shape_of(plan), stream, arguments)) return error;
      if (const char* error = combine(true)) return error;
      LaunchShape shape = shape_of(plan);
      shape.dependent = device.dependent_launches;
      return launch(kernel_of<Storage, Mode::apply>(a, plan), shape, stream, arguments);
    }
    const bool needs_sums = a.statistics != Statistics::none || needs_parameter_gradients(a);
    if (!needs_sums) return launch(kernel_of<Storage, Mode::apply>(a, plan), shape_of(plan), stream, arguments);
    const LaunchShape shape = shape_of(plan, plan.cluster);
    if (const char* error = launch(kernel_of<Storage, Mode::whole>(a, plan), shape, stream, arguments)) return error;
    return arguments.of_planes != nullptr ? combine(true) : nullptr;
  }

  // For an empty batch: writes only the gradients of weight and bias.
  const char* run_without_samples() const { return needs_parameter_gradients(a) ? combine(false) : nullptr; }

 private:
  void allocate(Workspace workspace) {
    const bool layer = a.statistics == Statistics::layer, instance = a.statistics == Statistics::instance;
    arguments.writes_parameter_gradients = instance && needs_parameter_gradients(a) && of_single_planes(a);
    const bool instance_split = plan.split && instance;
    const bool keeps_planes = instance_split || sums_channels();
    const std::int64_t planes = keeps_planes ? a.batch * a.channels * plan.tiles : 0;
    const std::int64_t groups = plan.split ? plan.groups(a) : 0, tiles = layer ? groups * arguments.tiles_of_group : 0;
    if (planes + groups == 0) return;
    // Sums and coefficients are two floats each.
    double* const memory = workspace.allocate(planes + tiles + groups, workspace.context);
    if (planes > 0) arguments.of_planes = reinterpret_cast<TileSums*>(memory);
    if (plan.split) arguments.of_groups = reinterpret_cast<TileSums*>(instance_split ? memory : memory + planes);
    arguments.coefficients = reinterpret_cast<GroupCoefficients*>(memory + planes + tiles);
  }

  // Returns true if backward_combine computes the gradients of weight and bias.
  bool sums_channels() const { return needs_parameter_gradients(a) && !arguments.writes_parameter_gradients; }

  const char* combine(bool after_another) const {
    const std::int64_t groups = plan.split ? plan.groups(a) : 0;
    const std::int64_t of_groups = a.statistics == Statistics::layer ? groups : (groups + block_warps - 1) / block_warps;
    const std::int64_t of_channels = sums_channels() ? (a.channels + block_warps - 1) / block_warps : 0;
    LaunchShape shape = {static_cast<unsigned>(of_groups + of_channels), block_threads};
    shape.dependent = after_another && device.dependent_launches;
    return launch(backward_combine, shape, stream, arguments, static_cast<int>(of_groups));
  }

  const FusedNormBackward& a;
  const Plan& plan;
  const Device& device;
  void* const stream;
  BackwardArguments arguments;
};

// Returns true if all maps take vectors and the size of a step of kernel `pixels`, in bytes, fits in 32 bits.
bool all_take_vectors(const FusedNormBackward& a) {
  return a.channels <= 1 << 20 && takes_vectors(a.x, a) && takes_vectors(a.dx, a) && takes_vectors(a.dresidual, a) &&
         takes_vectors(a.dpadded, a) && takes_vectors(a.dinterior, a);
}

}  // namespace
}  // namespace fastmunit::cuda::norm

namespace fastmunit::cuda {

const char* fused_norm_backward(const FusedNormBackward& a, const Device& device, Workspace workspace, void* stream) {
  if (const char* error = norm::refusal(a)) return error;
  if (!norm::fits(a.dpadded) || !norm::fits(a.dinterior)) return "expected gradients whose rows are less than 2^29 values apart";
  constexpr int maps = 2;  // per tile: x and the gradient
  const norm::Plan plan = norm::Planner(a, device, norm::all_take_vectors(a), maps).plan();
  if (plan.blocks > INT32_MAX) return "x is too large for one launch";
  return with_storage(a.dtype, [&](auto type) {
    const norm::Launches<decltype(type)> launches(a, plan, device, workspace, stream);
    return plan.blocks == 0 ? launches.run_without_samples() : launches.run();
  });
}

}  // namespace fastmunit::cuda
