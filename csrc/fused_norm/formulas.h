// The mathematics of fused_norm on one group, plane or value, as host and device compute it.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/moments.h"
#include "fused_norm/fused_norm.h"

namespace fastmunit {
namespace {

// The statistics of a group.
struct Group {
  double mean = 0.0, rstd = 1.0;
};

FASTMUNIT_HOST_DEVICE inline Group group_of(Moments moments, double values, Statistics statistics, double eps) {
  const bool layer = statistics == Statistics::layer;
  const double variance = moments.squares / (layer ? values - 1.0 : values);
  return {moments.mean, 1.0 / (std::sqrt(layer ? variance : variance + eps) + (layer ? eps : 0.0))};
}

// mean - center, where center is the mean as Lane holds it.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline double rounding_of_mean(Group group) {
  return group.mean - static_cast<double>(static_cast<Lane>(group.mean));
}

// z = (x - center) * scale + shift. x - center is exact near the mean, and what the mean lost when it was rounded to center is
// part of shift, unless scale is infinite: then it would make NaN of a rounding of 0, or take infinities from each other.
template <class Lane>
struct Affine {
  Lane center, scale, shift;
};

template <class Lane>
FASTMUNIT_HOST_DEVICE inline Affine<Lane> affine_of(Group group, double weight, double bias) {
  const double scale = group.rstd * weight;
  const Lane rounded = static_cast<Lane>(scale);
  const double shift = std::isinf(rounded) ? bias : bias - rounding_of_mean<Lane>(group) * scale;
  return {static_cast<Lane>(group.mean), rounded, static_cast<Lane>(shift)};
}

// Σ dz and Σ dz * (x - mean) of a plane, or weighted by `weight` of a sample.
struct alignas(16) GradientSums {
  double dz = 0.0, product = 0.0;
};

// The sums about the mean from those about center. Infinite sums stay as they are, as for the shift of Affine.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline GradientSums sums_about_mean(Group group, GradientSums sums) {
  return {sums.dz, std::isinf(sums.dz) ? sums.product : sums.product - rounding_of_mean<Lane>(group) * sums.dz};
}

// dx = gain * dz + slope * (x - center) + constant.
template <class Lane>
struct Line {
  Lane gain, slope, constant;
};

// dx = rstd * weight * (dz - mean(dz) - (x - mean) * rstd^2 * mean(dz * (x - mean))) over the values of a plane.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline Line<Lane> instance_line(Group group, double weight, GradientSums sums, double values) {
  const double gain = group.rstd * weight;
  const double slope = -gain * group.rstd * group.rstd * sums.product / values;
  const double constant = -gain * sums.dz / values - slope * rounding_of_mean<Lane>(group);
  return {static_cast<Lane>(gain), static_cast<Lane>(slope), static_cast<Lane>(constant)};
}

// dx = rstd * (weight * dz - mean(weight * dz)) - (x - mean) * rstd^2 / ((M - 1) * std) * Σ weight * dz * (x - mean) over the
// M values of a sample; where std is 0 it counts as a constant, as in torch.
template <class Lane>
FASTMUNIT_HOST_DEVICE inline Line<Lane> layer_line(Group group, double weight, GradientSums weighted, double values,
                                                   double eps) {
  const double std = 1.0 / group.rstd - eps;
  const double slope =
      std <= 1e-12 * eps ? 0.0 : -group.rstd * group.rstd * weighted.product / ((values - 1.0) * std);
  const double constant = -group.rstd * weighted.dz / values - slope * rounding_of_mean<Lane>(group);
  return {static_cast<Lane>(group.rstd * weight), static_cast<Lane>(slope), static_cast<Lane>(constant)};
}

}  // namespace
}  // namespace fastmunit
