// Runs the CUDA launcher of fused_norm on the emulator.
#include "fused_norm_request.h"

using namespace fastmunit;

int main() {
  return emulator::answer([](emulator::Request& request) {
    FusedNorm a = {};
    static_cast<FusedNormOptions&>(a) = emulator::fused_norm_options(request);
    a.x = request.array("x");
    a.weight = emulator::affine_parameter(request, "weight");
    a.bias = emulator::affine_parameter(request, "bias");
    a.residual = emulator::strided_map(request, "residual");
    a.padded = request.array("padded");
    a.mean = request.array<double>("mean");
    a.rstd = request.array<double>("rstd");
    const cuda::Device device = emulator::device(request);
    emulator::HostMemory memory;
    return cuda::fused_norm(a, device, emulator::workspace(memory), nullptr);
  });
}
