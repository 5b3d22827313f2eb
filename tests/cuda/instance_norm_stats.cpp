// Runs the CUDA launchers of instance_norm_stats on the emulator.
#include "instance_norm_stats/instance_norm_stats.h"

#include "arguments.h"

using namespace fastmunit;

int main() {
  return emulator::answer([](emulator::Request& request) {
    const DataType dtype = emulator::data_type(request.text("dtype"));
    const Layout layout = emulator::layout(request.text("layout"));
    const std::int64_t batch = request.integer("batch"), channels = request.integer("channels");
    const std::int64_t pixels = request.integer("pixels");
    if (request.text("pass") == "backward") {
      const InstanceNormStatsBackward arguments = {dtype, layout, batch, channels, pixels, request.array("dmean"),
                                                   request.array("drstd"), request.array("x"), request.array("mean"),
                                                   request.array("rstd"), request.array("dx")};
      return cuda::instance_norm_stats_backward(arguments, nullptr);
    }
    InstanceNormStats arguments = {dtype, layout, batch, channels, pixels, request.number("eps"), request.array("x"),
                                   request.array("mean"), request.array("rstd"), nullptr};
    emulator::HostMemory partials(cuda::instance_norm_stats_partials(arguments));
    arguments.partials = partials.data();
    return cuda::instance_norm_stats(arguments, nullptr);
  });
}
