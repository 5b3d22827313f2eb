// Runs the CUDA launcher of fused_norm's backward on the emulator.
#include "fused_norm_request.h"

using namespace fastmunit;

namespace {

ParameterGradient gradient(const emulator::Request& request, const std::string& of) {
  if (!request.has("d" + of)) return {};
  return {request.array("d" + of), emulator::data_type(request.text(of + "_dtype")), emulator::stride(request, of, 0) != 0};
}

}  // namespace

int main() {
  return emulator::answer([](emulator::Request& request) {
    FusedNormBackward a = {};
    static_cast<FusedNormOptions&>(a) = emulator::fused_norm_options(request);
    a.dpadded = emulator::strided_map(request, "dpadded");
    a.dinterior = emulator::strided_map(request, "dinterior");
    a.x = request.array("x");
    a.weight = emulator::affine_parameter(request, "weight");
    a.bias = emulator::affine_parameter(request, "bias");
    a.mean = request.array<double>("mean");
    a.rstd = request.array<double>("rstd");
    a.dx = request.array("dx");
    a.dresidual = request.array("dresidual");
    a.dweight = gradient(request, "weight");
    a.dbias = gradient(request, "bias");
    const cuda::Device device = emulator::device(request);
    emulator::HostMemory memory;
    return cuda::fused_norm_backward(a, device, emulator::workspace(memory), nullptr);
  });
}
