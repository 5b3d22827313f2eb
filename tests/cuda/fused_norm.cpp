// Runs the CUDA launchers of fused_norm, without and with given statistics, on the emulator.
#include "fused_norm_request.h"

using namespace fastmunit;

int main() {
  return emulator::answer([](emulator::Request& request) {
    FusedNormWithStatistics a = {};
    static_cast<FusedNormOptions&>(a) = emulator::fused_norm_options(request);
    a.x = request.array("x");
    a.weight = emulator::affine_parameter(request, "weight");
    a.bias = emulator::affine_parameter(request, "bias");
    a.residual = emulator::strided_map(request, "residual");
    a.padded = request.array("padded");
    const cuda::Device device = emulator::device(request);
    emulator::HostMemory memory;
    if (request.has("given_mean")) {
      a.given_mean = request.array<double>("given_mean");
      a.given_rstd = request.array<double>("given_rstd");
      return cuda::fused_norm_with_statistics(a, device, emulator::workspace(memory), nullptr);
    }
    a.mean = request.array<double>("mean");
    a.rstd = request.array<double>("rstd");
    return cuda::fused_norm(a, device, emulator::workspace(memory), nullptr);
  });
}
