// Runs the CUDA launchers of weighted_l1 on the emulator.
#include "weighted_l1/weighted_l1.h"

#include "arguments.h"

using namespace fastmunit;

namespace {

// Reads the pairs for forward and backward: arrays input0, target0, signs, dinput0, ...
int read_terms(const emulator::Request& request, L1Term* term) {
  const int terms = static_cast<int>(request.integer("terms"));
  std::int8_t* signs = request.array<std::int8_t>("signs");
  for (int k = 0; k < terms; ++k) {
    const std::string number = std::to_string(k);
    term[k] = {};
    term[k].input_dtype = emulator::data_type(request.text("input_dtype" + number));
    term[k].target_dtype = emulator::data_type(request.text("target_dtype" + number));
    term[k].count = request.integer("count" + number);
    term[k].weight = request.number("weight" + number);
    term[k].signs = signs;
    term[k].input = request.array("input" + number);
    term[k].target = request.array("target" + number);
    term[k].dinput = request.array("dinput" + number);
    term[k].dtarget = request.array("dtarget" + number);
    if (signs != nullptr) signs += term[k].count;
  }
  return terms;
}

}  // namespace

int main() {
  return emulator::answer([](emulator::Request& request) {
    const DataType dtype = emulator::data_type(request.text("dtype"));
    if (request.text("pass") == "backward") {
      WeightedL1Backward arguments = {};
      arguments.terms = read_terms(request, arguments.term);
      arguments.dtype = dtype;
      arguments.dvalues = request.array("dvalues");
      arguments.dtotal = request.array("dtotal");
      return cuda::weighted_l1_backward(arguments, nullptr);
    }
    WeightedL1 arguments = {};
    arguments.terms = read_terms(request, arguments.term);
    arguments.dtype = dtype;
    arguments.values = request.array("values");
    arguments.total = request.array("total");
    emulator::HostMemory partials(cuda::weighted_l1_partials(arguments));
    arguments.partials = partials.data();
    return cuda::weighted_l1(arguments, nullptr);
  });
}
