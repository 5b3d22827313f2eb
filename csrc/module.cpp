// The Python module fastmunit._C. Loading it registers the kernels with torch. Its only function describes the build.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "cpu/isa.h"

namespace {

pybind11::list split(const std::string& text, char separator) {
  pybind11::list parts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find(separator, begin);
    parts.append(text.substr(begin, end - begin));
    if (end == std::string::npos) break;
    begin = end + 1;
  }
  return parts;
}

std::string simd_in_use() {
  try {
    return fastmunit::cpu::isa_name(fastmunit::cpu::isa());
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

pybind11::dict build_config() {
  pybind11::dict config;
  config["torch"] = FASTMUNIT_TORCH_VERSION;
  config["torch_target"] = FASTMUNIT_TORCH_TARGET;
#ifdef FASTMUNIT_CUDA_VERSION
  config["cuda"] = FASTMUNIT_CUDA_VERSION;
  config["cuda_architectures"] = split(FASTMUNIT_CUDA_ARCHITECTURES, ',');
#else
  config["cuda"] = pybind11::none();
  config["cuda_architectures"] = pybind11::list();
#endif
  config["compiler"] = FASTMUNIT_COMPILER;
  config["build_type"] = FASTMUNIT_BUILD_TYPE;
  config["simd"] = split(fastmunit::cpu::isas_built(), ',');
  config["simd_in_use"] = simd_in_use();
  return config;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.def("build_config", &build_config,
             "Describe the build, as a dict: torch, torch_target (the oldest supported torch), cuda (None without CUDA), "
             "cuda_architectures, compiler, build_type, simd (the compiled instruction sets, best first) and simd_in_use (the "
             "instruction set that this process uses).");
}
