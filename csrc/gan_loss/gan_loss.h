// gan_loss: the adversarial losses of several maps of discriminator outputs, their weighted sum, and the gradients.
//
//   values[k] = sum of f(x) over map k / averaged_k,  total = sum_k weight_k * values[k]
//   dx_k = f'(x_k) * (weight_k * dtotal + dvalues[k]) / averaged_k
//
// Elements of a map from `first_real` on have the target "real", those before it "fake". A map with both holds the outputs
// for fake images followed by those for as many real images; its value is the sum of both means. element.h has f.
//
// The kernels split each map into segments of a fixed number of elements, write the sum of each segment to `partials`,
// and add these in order. The segments do not depend on the number of threads, so neither do the results.
#pragma once

#include <cstdint>

#include "common/parallel.h"
#include "common/types.h"

namespace fastmunit {

constexpr int gan_loss_maps = 32;  // largest number of maps; MAX_MAPS in fastmunit/ops/gan_loss.py

// f(x) for the target fake; real negates x and, for square, adds 1.
enum class GanFormula {
  square,    // x²: lsgan
  softplus,  // log(1 + e^x): nsgan
  hinge,     // max(0, 1 + x): hinge, for discriminators
  linear,    // x: hinge, for generators
};

// The outputs of a discriminator. Arithmetic is in float64 if they are float64, else in float32 or float64.
struct GanMap {
  DataType dtype;
  GanFormula formula;
  std::int64_t count;
  std::int64_t first_real;
  std::int64_t averaged;  // number of elements of a mean: `count`, or half of it if the map has both targets
  double weight;
  const void* x;
  void* dx;  // only in backward; null if it is not needed
};

struct GanLoss {
  int maps;
  GanMap map[gan_loss_maps];
  DataType dtype;    // of values and total: float32 or float64
  void* values;      // (maps,)
  void* total;       // ()
  double* partials;  // memory for `gan_loss_partials(...)` doubles
};

struct GanLossBackward {
  int maps;
  GanMap map[gan_loss_maps];
  DataType dtype;       // of dvalues and dtotal: float32 or float64
  const void* dvalues;  // (maps,)
  const void* dtotal;   // ()
};

namespace cpu {
std::int64_t gan_loss_partials(const GanLoss& arguments);
void gan_loss(const GanLoss& arguments, ParallelFor parallel_for);
void gan_loss_backward(const GanLossBackward& arguments, ParallelFor parallel_for);
}  // namespace cpu

// The launchers return null or CUDA's error message. `stream` is a cudaStream_t.
namespace cuda {
std::int64_t gan_loss_partials(const GanLoss& arguments);
const char* gan_loss(const GanLoss& arguments, void* stream);
const char* gan_loss_backward(const GanLossBackward& arguments, void* stream);
}  // namespace cuda

}  // namespace fastmunit
