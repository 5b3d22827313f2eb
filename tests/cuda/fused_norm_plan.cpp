// The launch table of fused_norm: what it says of a request's map and GPU.
#include "fused_norm/backward_plan.h"

#include "fused_norm_request.h"

using namespace fastmunit;

int main() {
  return emulator::answer([](emulator::Request& request) -> const char* {
    const FusedNormOptions options = emulator::fused_norm_options(request);
    const cuda::TileMaps maps = {static_cast<int>(request.integer("value_bytes")), request.integer("dpadded") != 0,
                                 request.integer("dinterior") != 0};
    const cuda::Device device = emulator::device(request);
    const cuda::Plan plan = cuda::Planner(options, maps, device, request.integer("aligned") != 0).plan();
    std::int64_t* const reply = request.array<std::int64_t>("plan");
    const std::int64_t values[] = {plan.tiling.channels, plan.tiling.channel_tiles, plan.tiling.row_tiles, plan.reads_once,
                                   plan.staged, plan.vectors, plan.cluster, plan.threads, plan.shared_bytes, plan.blocks};
    std::copy(std::begin(values), std::end(values), reply);
    return nullptr;
  });
}
