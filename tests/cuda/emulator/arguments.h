// What kernels' arguments are made of, from a request.
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

// Room for doubles, as the binding allocates it: NaN at first.
class Room {
 public:
  Room() = default;
  explicit Room(std::int64_t count) { allocate(count); }
  ~Room() { std::free(room_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  double* data() const { return static_cast<double*>(room_); }
  double* allocate(std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(double);
    if (posix_memalign(&room_, 256, bytes > 0 ? bytes : 1) != 0) fail("out of memory");
    std::memset(room_, 0xff, bytes);
    return data();
  }

 private:
  void* room_ = nullptr;
};

}  // namespace emulator
