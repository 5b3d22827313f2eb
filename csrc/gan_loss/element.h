// The loss of one output of a discriminator, and its derivative. They are not finite where those of torch's operations
// are not.
#pragma once

#include <cmath>

#include "gan_loss/gan_loss.h"

namespace fastmunit {
namespace {

template <GanFormula formula, class Lane>
FASTMUNIT_HOST_DEVICE inline Lane gan_loss_of(Lane x, bool real) {
  const Lane z = real ? -x : x;
  if constexpr (formula == GanFormula::square) {
    const Lane difference = real ? x - Lane(1) : x;
    return difference * difference;
  } else if constexpr (formula == GanFormula::softplus) {
    const Lane loss = (z > Lane(0) ? z : Lane(0)) + std::log1p(std::exp(-std::abs(x)));
    // torch multiplies x by 0 here: an infinite output gives NaN, except if it is +inf and the target fake.
    return real || x < Lane(0) ? loss + Lane(0) * x : loss;
  } else if constexpr (formula == GanFormula::hinge) {
    const Lane margin = Lane(1) + z;
    return margin <= Lane(0) ? Lane(0) : margin;  // NaN stays NaN
  } else {
    return z;
  }
}

// Returns slope * f'(x).
template <GanFormula formula, class Lane>
FASTMUNIT_HOST_DEVICE inline Lane gan_gradient_of(Lane x, bool real, Lane slope) {
  const Lane z = real ? -x : x;
  const Lane signed_slope = real ? -slope : slope;
  if constexpr (formula == GanFormula::square) {
    return slope * (Lane(2) * (real ? x - Lane(1) : x));
  } else if constexpr (formula == GanFormula::softplus) {
    // 1 / (1 + e^-z), from an exponential that does not overflow.
    const Lane e = std::exp(-std::abs(x));
    return signed_slope * ((z < Lane(0) ? e : Lane(1)) / (Lane(1) + e));
  } else if constexpr (formula == GanFormula::hinge) {
    return Lane(1) + z <= Lane(0) ? Lane(0) : signed_slope;
  } else {
    return signed_slope;
  }
}

// The formula as a type, and a call of a function with it.
template <GanFormula formula>
struct GanFormulaOf {
  static constexpr GanFormula value = formula;
};

template <class Function>
FASTMUNIT_HOST_DEVICE inline void with_formula(GanFormula formula, const Function& function) {
  switch (formula) {
    case GanFormula::square:
      return function(GanFormulaOf<GanFormula::square>{});
    case GanFormula::softplus:
      return function(GanFormulaOf<GanFormula::softplus>{});
    case GanFormula::hinge:
      return function(GanFormulaOf<GanFormula::hinge>{});
    case GanFormula::linear:
      return function(GanFormulaOf<GanFormula::linear>{});
  }
}

}  // namespace
}  // namespace fastmunit
