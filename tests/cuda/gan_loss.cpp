// Runs the CUDA launchers of gan_loss on the emulator.
#include "gan_loss/gan_loss.h"

#include "arguments.h"

using namespace fastmunit;

namespace {

// Reads the maps for forward and backward: arrays x0, dx0, x1, ...
int read_maps(const emulator::Request& request, GanMap* map) {
  const int maps = static_cast<int>(request.integer("maps"));
  for (int k = 0; k < maps; ++k) {
    const std::string number = std::to_string(k);
    map[k] = {};
    map[k].dtype = emulator::data_type(request.text("dtype" + number));
    map[k].formula = static_cast<GanFormula>(request.integer("formula" + number));
    map[k].count = request.integer("count" + number);
    map[k].first_real = request.integer("first_real" + number);
    map[k].averaged = request.integer("averaged" + number);
    map[k].weight = request.number("weight" + number);
    map[k].x = request.array("x" + number);
    map[k].dx = request.array("dx" + number);
  }
  return maps;
}

}  // namespace

int main() {
  return emulator::answer([](emulator::Request& request) {
    const DataType dtype = emulator::data_type(request.text("dtype"));
    if (request.text("pass") == "backward") {
      GanLossBackward arguments = {};
      arguments.maps = read_maps(request, arguments.map);
      arguments.dtype = dtype;
      arguments.dvalues = request.array("dvalues");
      arguments.dtotal = request.array("dtotal");
      return cuda::gan_loss_backward(arguments, nullptr);
    }
    GanLoss arguments = {};
    arguments.maps = read_maps(request, arguments.map);
    arguments.dtype = dtype;
    arguments.values = request.array("values");
    arguments.total = request.array("total");
    emulator::HostMemory partials(cuda::gan_loss_partials(arguments));
    arguments.partials = partials.data();
    return cuda::gan_loss(arguments, nullptr);
  });
}
