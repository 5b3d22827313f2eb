// Memory per thread that is kept between calls.
#pragma once

#include <cstdint>
#include <vector>

namespace fastmunit::cpu {
namespace {

// Returns memory for `count` values, with undefined contents. Each `purpose` has its own memory.
template <int purpose, class Value>
Value* scratch(std::int64_t count) {
  thread_local std::vector<Value> memory;
  if (static_cast<std::int64_t>(memory.size()) < count) memory.resize(count);
  return memory.data();
}

}  // namespace
}  // namespace fastmunit::cpu
