// What forward and backward of the fused norm share: the affine map of each plane and the activation.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/simd.h"
#include "cpu/storage.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cpu {
namespace {

// Calls function with the activation as a constant.
template <class Function>
void with_activation(Activation activation, const Function& function) {
  switch (activation) {
    case Activation::none:
      return function(std::integral_constant<Activation, Activation::none>{});
    case Activation::relu:
      return function(std::integral_constant<Activation, Activation::relu>{});
    case Activation::leaky_relu:
      return function(std::integral_constant<Activation, Activation::leaky_relu>{});
  }
}

inline double coefficient(const Coefficients& of, std::int64_t n, std::int64_t c, double absent) {
  if (of.data == nullptr) return absent;
  double value = 0.0;
  with_storage(of.dtype, [&](auto type) {
    using Storage = decltype(type);
    const Storage* at = static_cast<const Storage*>(of.data) + n * of.sample_stride + c * of.channel_stride;
    value = load_one(at);
  });
  return value;
}

template <class Lane, class Arguments>
Affine<Lane> affine_of(const Arguments& a, std::int64_t n, std::int64_t c, Group group) {
  return fastmunit::affine_of<Lane>(group, coefficient(a.weight, n, c, 1.0), coefficient(a.bias, n, c, 0.0));
}

// NaN stays NaN.
template <Activation activation, class V>
inline V activate(V z, V slope) {
  if constexpr (activation == Activation::relu) return larger(V{}, z);
  if constexpr (activation == Activation::leaky_relu) return z > V{} ? z : z * slope;
  return z;
}

// The gradient with respect to z, of relu or else of leaky relu; where z is NaN or 0, torch's convention.
template <bool relu, class V>
inline V activation_gradient(V dy, V z, V slope) {
  if constexpr (relu) return z <= V{} ? V{} : dy;
  return z > V{} ? dy : dy * slope;
}

template <class Storage>
const Storage* row_of(const StridedMap& map, std::int64_t n, std::int64_t c, std::int64_t y) {
  if (map.data == nullptr) return nullptr;
  return static_cast<const Storage*>(map.data) + n * map.sample_stride + c * map.channel_stride + y * map.row_stride;
}

}  // namespace
}  // namespace fastmunit::cpu
