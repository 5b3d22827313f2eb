// Reads the arguments of fused_norm and its backward from a request.
#pragma once

#include "arguments.h"
#include "cuda/device.h"
#include "fused_norm/fused_norm.h"

namespace emulator {

inline fastmunit::cuda::Device device(const Request& request) {
  const int cluster = static_cast<int>(request.integer("cluster"));
  return {static_cast<int>(request.integer("multiprocessors")), static_cast<int>(request.integer("shared_bytes")), cluster,
          cluster > 1, static_cast<int>(request.integer("max_steps"))};
}

inline fastmunit::Workspace workspace(HostMemory& memory) {
  return {[](std::int64_t count, void* of) { return static_cast<HostMemory*>(of)->allocate(count); }, &memory};
}

template <class Choice>
Choice chosen(const std::string& name, std::initializer_list<std::pair<const char*, Choice>> choices) {
  for (const auto& [called, choice] : choices) {
    if (name == called) return choice;
  }
  std::fprintf(stderr, "emulator: %s\n", name.c_str());
  fail("unknown option");
}

inline fastmunit::FusedNormOptions fused_norm_options(const Request& request) {
  using namespace fastmunit;
  FusedNormOptions options = {};
  options.dtype = data_type(request.text("dtype"));
  options.layout = layout(request.text("layout"));
  options.batch = request.integer("batch");
  options.channels = request.integer("channels");
  options.height = request.integer("height");
  options.width = request.integer("width");
  options.statistics = chosen<Statistics>(
      request.text("statistics"),
      {{"instance", Statistics::instance}, {"layer", Statistics::layer}, {"none", Statistics::none}});
  options.activation = chosen<Activation>(
      request.text("activation"),
      {{"none", Activation::none}, {"relu", Activation::relu}, {"leaky_relu", Activation::leaky_relu}});
  options.negative_slope = request.number("negative_slope");
  options.pad = static_cast<int>(request.integer("pad"));
  options.pad_mode = chosen<PadMode>(request.text("pad_mode"), {{"reflect", PadMode::reflect},
                                                               {"replicate", PadMode::replicate},
                                                               {"zero", PadMode::zero}});
  options.eps = request.number("eps");
  options.pixel_shuffle = request.integer("pixel_shuffle") != 0;
  return options;
}

inline std::int64_t stride(const Request& request, const std::string& name, int dim) {
  return request.integer(name + "_stride" + std::to_string(dim));
}

inline fastmunit::StridedMap strided_map(const Request& request, const std::string& name) {
  if (!request.has(name)) return {};
  const fastmunit::DataType dtype = data_type(request.text("dtype"));
  const std::int64_t offset = request.integer(name + "_offset") * (dtype == fastmunit::DataType::float32 ? 4 : 2);
  return {request.array<char>(name) + offset, stride(request, name, 0), stride(request, name, 1), stride(request, name, 2),
          stride(request, name, 3)};
}

inline fastmunit::AffineParameter affine_parameter(const Request& request, const std::string& name) {
  if (!request.has(name)) return {};
  return {request.array(name), data_type(request.text(name + "_dtype")), stride(request, name, 0), stride(request, name, 1)};
}

}  // namespace emulator
