// Reads kernel arguments from a request.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/types.h"
#include "request.h"

namespace emulator {

inline fastmunit::DataType data_type(const std::string& name) {
  if (name == "float32") return fastmunit::DataType::float32;
  if (name == "float64") return fastmunit::DataType::float64;
  if (name == "bfloat16") return fastmunit::DataType::bfloat16;
  if (name == "float16") return fastmunit::DataType::float16;
  fail("unknown dtype");
}

inline fastmunit::Layout layout(const std::string& name) {
  if (name == "nchw") return fastmunit::Layout::nchw;
  if (name == "channels_last") return fastmunit::Layout::channels_last;
  fail("unknown layout");
}

// Memory for doubles, aligned as the bindings allocate it and filled with NaN.
class HostMemory {
 public:
  HostMemory() = default;
  explicit HostMemory(std::int64_t count) { allocate(count); }
  ~HostMemory() { std::free(memory_); }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  double* data() const { return static_cast<double*>(memory_); }
  double* allocate(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(double);
    if (posix_memalign(&memory_, 256, bytes > 0 ? bytes : 1) != 0) fail("out of memory");
    std::memset(memory_, 0xff, bytes);
    return data();
  }

 private:
  void* memory_ = nullptr;
};

}  // namespace emulator
