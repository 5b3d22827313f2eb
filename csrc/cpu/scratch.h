// Memory of one thread that stays between calls.
#pragma once

#include <cstdint>
#include <vector>

namespace fastmunit::cpu {
namespace {

// Room for `count` values, with undefined contents. Uses with different `purpose` do not share it.
template <int purpose, class Value>
Value* scratch(std::int64_t count) {
  thread_local std::vector<Value> room;
  if (static_cast<std::int64_t>(room.size()) < count) room.resize(count);
  return room.data();
}

}  // namespace
}  // namespace fastmunit::cpu
