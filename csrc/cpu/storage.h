// Calls templates with the storage type of a dtype.
#pragma once

#include "common/types.h"

namespace fastmunit::cpu {
namespace {

// Calls function with a value of the storage type for `dtype`.
template <class Function>
void with_storage(DataType dtype, const Function& function) {
  switch (dtype) {
    case DataType::float32:
      return function(float{});
    case DataType::float64:
      return function(double{});
    case DataType::bfloat16:
      return function(bfloat16{});
    case DataType::float16:
      return function(float16{});
  }
}

// The same for the maps of a kernel. avx512bf16 is compiled for bfloat16 only, as its extra instruction serves no other
// type; dispatch.cpp uses avx512 for all others.
template <class Function>
void with_storage_of_map([[maybe_unused]] DataType dtype, const Function& function) {
#ifdef FASTMUNIT_BFLOAT16_ALONE
  function(bfloat16{});
#else
  with_storage(dtype, function);
#endif
}

}  // namespace
}  // namespace fastmunit::cpu
