// Returns the launch plan of fused_norm for a request's map and GPU.
#include "fused_norm/plan.h"

#include "fused_norm_request.h"

using namespace fastmunit;

int main() {
  return emulator::answer([](emulator::Request& request) -> const char* {
    const FusedNormOptions options = emulator::fused_norm_options(request);
    if (const char* error = cuda::norm::refusal(options)) return error;
    const cuda::Device device = emulator::device(request);
    const int maps = static_cast<int>(request.integer("maps"));
    const cuda::norm::Plan plan = cuda::norm::Planner(options, device, request.integer("vectors") != 0, maps).plan();
    std::int64_t* const reply = request.array<std::int64_t>("plan");
    const std::int64_t values[] = {static_cast<std::int64_t>(plan.kernel), plan.split, plan.lanes, plan.channels,
                                   plan.slices, plan.step_pixels, plan.steps, plan.tiles, plan.cluster, plan.blocks};
    std::copy(std::begin(values), std::end(values), reply);
    return nullptr;
  });
}
