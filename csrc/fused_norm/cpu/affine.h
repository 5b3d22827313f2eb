// Shared by forward and backward on the CPU: parameters, the affine map of a plane and the activation.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/simd.h"
#include "cpu/storage.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit::cpu {
namespace {

// Calls function with the activation as a compile-time constant.
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

// Returns weight or bias of a channel, or `fallback` if it is absent.
inline double parameter_value(const AffineParameter& parameter, std::int64_t n, std::int64_t c, double fallback) {
  if (parameter.data == nullptr) return fallback;
  double value = 0.0;
  with_storage(parameter.dtype, [&](auto type) {
    const auto* data = static_cast<const decltype(type)*>(parameter.data);
    value = load_one(data + n * parameter.sample_stride + c * parameter.channel_stride);
  });
  return value;
}

template <class Lane, class Arguments>
Affine<Lane> affine_of(const Arguments& a, std::int64_t n, std::int64_t c, NormStats stats) {
  return fastmunit::affine_of<Lane>(stats, parameter_value(a.weight, n, c, 1.0), parameter_value(a.bias, n, c, 0.0));
}

// Applies the activation; propagates NaN.
template <Activation activation, class V>
inline V activate(V z, V slope) {
  if constexpr (activation == Activation::relu) return larger(V{}, z);
  if constexpr (activation == Activation::leaky_relu) return z > V{} ? z : z * slope;
  return z;
}

// Returns the gradient with respect to z, of relu or else of leaky relu. If z is NaN or 0, it follows torch's
// convention.
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
