#include <limits>

#include "fused_norm/backward.cuh"

namespace fastmunit::cuda::norm {
namespace {

template <class Storage, Mode mode, Abilities abilities>
auto rows_kernel(const FusedNormBackward& a) {
  switch (words_of_row(a)) {
    case 1:
      return backward_rows<Storage, 1, mode, abilities>;
    case 2:
      return backward_rows<Storage, 2, mode, abilities>;
    case 4:
      return backward_rows<Storage, 4, mode, abilities>;
    case 8:
      return backward_rows<Storage, 8, mode, abilities>;
    default:
      return backward_rows<Storage, largest_row_words, mode, abilities>;
  }
}

template <class Storage, Mode mode, Abilities abilities>
auto kernel_with(const FusedNormBackward& a, const Plan& plan) {
  if constexpr (sizeof(Storage) == sizeof(float)) {
    if (plan.kernel == Kernel::rows) return rows_kernel<Storage, mode, abilities>(a);
  }
  return a.phases ? backward_pixels<Storage, true, mode, abilities> : backward_pixels<Storage, false, mode, abilities>;
}

// Whether kernels of few abilities do.
bool takes_few(const FusedNormBackward& a) {
  return a.activation != Activation::leaky_relu && a.statistics != Statistics::none && a.dresidual == nullptr &&
         (a.dpadded.data == nullptr || a.dinterior.data == nullptr) && (a.pad_mode != PadMode::replicate || a.pad <= 1);
}

template <class Storage, Mode mode>
auto kernel_of(const FusedNormBackward& a, const Plan& plan) {
  if (plan.kernel == Kernel::any) return backward_any<Storage, mode>;
  return takes_few(a) ? kernel_with<Storage, mode, Abilities::few>(a, plan) : kernel_with<Storage, mode, Abilities::all>(a, plan);
}

bool wants_coefficients(const FusedNormBackward& a) { return a.dweight.data != nullptr || a.dbias.data != nullptr; }

// Whether a plane's sums are all that the gradients of its channel's coefficients take.
bool of_single_planes(const FusedNormBackward& a) {
  const auto is_of_plane = [&](const CoefficientsGradient& of) { return of.data == nullptr || of.of_each_sample || a.batch == 1; };
  return is_of_plane(a.dweight) && is_of_plane(a.dbias);
}

// A map whose planes have `pad` more pixels on each side than those of x.
Upstream upstream_of(const FusedNormBackward& a, const StridedMap& map, int pad) {
  if (map.data == nullptr) return {};
  const std::int64_t bytes = value_bytes(a.dtype), offset = pad * (map.row_stride + map.column_stride);
  return {static_cast<const char*>(map.data) + bytes * offset, bytes * map.sample_stride, bytes * map.channel_stride,
          static_cast<int>(bytes * map.row_stride), static_cast<int>(bytes * map.column_stride)};
}

// Whether Upstream holds its strides.
bool fits(const StridedMap& map) {
  constexpr std::int64_t limit = INT32_MAX / 4;
  return map.data == nullptr || (map.row_stride <= limit && map.column_stride <= limit);
}

BackwardArguments arguments_of(const FusedNormBackward& a, const Plan& plan) {
  const double values = static_cast<double>(a.height * a.width) *
                        (a.statistics == Statistics::layer ? static_cast<double>(a.channels) : 1.0);
  const bool has_padded = a.dpadded.data != nullptr;
  const bool folds = has_padded && a.pad > 0 && a.pad_mode != PadMode::zero;
  const auto reach = [&](std::int64_t axis) {
    const Reach of_pixels(a, static_cast<int>(axis), folds);
    return plan.kernel == Kernel::pixels && a.phases ? of_pixels.of_pairs() : of_pixels;
  };
  return {a,
          has_padded ? upstream_of(a, a.dpadded, a.pad) : upstream_of(a, a.dinterior, 0),
          has_padded ? upstream_of(a, a.dinterior, 0) : Upstream{},
          Beside(a, folds),
          reach(a.height),
          reach(a.width),
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

// Launches a call's kernels one after the other.
template <class Storage>
class Launches {
 public:
  Launches(const FusedNormBackward& of, const Plan& its_plan, const Device& gpu, Workspace workspace, void* on)
      : a(of), plan(its_plan), device(gpu), stream(on), arguments(arguments_of(of, its_plan)) {
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
    const bool sums_up = a.statistics != Statistics::none || wants_coefficients(a);
    if (!sums_up) return launch(kernel_of<Storage, Mode::apply>(a, plan), shape_of(plan), stream, arguments);
    const LaunchShape shape = shape_of(plan, plan.cluster);
    if (const char* error = launch(kernel_of<Storage, Mode::whole>(a, plan), shape, stream, arguments)) return error;
    return arguments.of_planes != nullptr ? combine(true) : nullptr;
  }

  // The gradients of coefficients alone, of no samples.
  const char* run_without_samples() const { return wants_coefficients(a) ? combine(false) : nullptr; }

 private:
  void allocate(Workspace workspace) {
    const bool layer = a.statistics == Statistics::layer, instance = a.statistics == Statistics::instance;
    arguments.writes_coefficients = instance && wants_coefficients(a) && of_single_planes(a);
    const bool instance_split = plan.split && instance;
    const bool keeps_planes = instance_split || sums_channels();
    const std::int64_t planes = keeps_planes ? a.batch * a.channels * plan.tiles : 0;
    const std::int64_t groups = plan.split ? plan.groups(a) : 0, tiles = layer ? groups * arguments.tiles_of_group : 0;
    if (planes + groups == 0) return;
    // Sums and lines are two floats each.
    double* const room = workspace.allocate(planes + tiles + groups, workspace.context);
    if (planes > 0) arguments.of_planes = reinterpret_cast<TileSums*>(room);
    if (plan.split) arguments.of_groups = reinterpret_cast<TileSums*>(instance_split ? room : room + planes);
    arguments.lines = reinterpret_cast<GroupLine*>(room + planes + tiles);
  }

  // Whether backward_combine gives the gradients of coefficients.
  bool sums_channels() const { return wants_coefficients(a) && !arguments.writes_coefficients; }

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

// Whether all maps take vectors, and kernel `pixels` holds the bytes of a step in 32 bits.
bool all_take_vectors(const FusedNormBackward& a) {
  return a.channels <= 1 << 20 && takes_vectors(a.x, a) && takes_vectors(a.dx, a) && takes_vectors(a.dresidual, a) &&
         takes_vectors(a.dpadded, a) &&
         takes_vectors(a.dinterior, a);
}

}  // namespace
}  // namespace fastmunit::cuda::norm

namespace fastmunit::cuda {

const char* fused_norm_backward(const FusedNormBackward& a, const Device& device, Workspace workspace, void* stream) {
  if (const char* error = norm::refusal(a)) return error;
  if (!norm::fits(a.dpadded) || !norm::fits(a.dinterior)) return "expected gradients whose rows are less than 2^29 values apart";
  constexpr int maps = 2;  // of a tile
  const norm::Plan plan = norm::Planner(a, device, norm::all_take_vectors(a), maps).plan();
  if (plan.blocks > INT32_MAX) return "x is too large for one launch";
  return with_storage(a.dtype, [&](auto type) {
    const norm::Launches<decltype(type)> launches(a, plan, device, workspace, stream);
    return plan.blocks == 0 ? launches.run_without_samples() : launches.run();
  });
}

}  // namespace fastmunit::cuda
