// The device-independent part of gan_loss's bindings. `run` is called with the kernel's arguments.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "gan_loss/gan_loss.h"
#include "torch/lists.h"

namespace fastmunit::bindings {

// The targets by their numbers in the schema; TARGETS in fastmunit/ops/gan_loss.py.
enum class GanTarget : std::int64_t { fake, real, generator, fake_real };

inline GanFormula formula_of(const std::string& gan_type, GanTarget target) {
  if (gan_type == "lsgan") return GanFormula::square;
  if (gan_type == "nsgan") return GanFormula::softplus;
  STD_TORCH_CHECK(gan_type == "hinge", "gan_type must be lsgan, nsgan or hinge, got ", gan_type);
  return target == GanTarget::generator ? GanFormula::linear : GanFormula::hinge;
}

// Sets everything but the data pointers of the maps, for forward and backward.
inline void set_maps(const std::vector<Tensor>& outputs, const std::vector<std::int64_t>& targets,
                     const std::vector<double>& weights, const std::string& gan_type, GanMap* map) {
  STD_TORCH_CHECK(!outputs.empty() && outputs.size() <= gan_loss_maps, "expected 1 to ", gan_loss_maps, " maps, got ",
                  outputs.size());
  STD_TORCH_CHECK(outputs.size() == targets.size() && outputs.size() == weights.size(),
                  "expected as many targets and weights as outputs");
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const Tensor& output = outputs[k];
    STD_TORCH_CHECK(output.device() == outputs[0].device(), "outputs must be on the same device");
    STD_TORCH_CHECK(targets[k] >= 0 && targets[k] <= 3, "targets must be 0 to 3, got ", targets[k]);
    const GanTarget target = static_cast<GanTarget>(targets[k]);
    const std::int64_t count = output.numel();
    map[k] = {};
    map[k].dtype = data_type(output, "outputs");
    map[k].formula = formula_of(gan_type, target);
    map[k].count = map[k].averaged = count;
    map[k].weight = weights[k];
    if (target == GanTarget::fake) {
      map[k].first_real = count;
    } else if (target == GanTarget::fake_real) {
      STD_TORCH_CHECK(output.dim() > 0 && output.size(0) % 2 == 0, "a map of fake and real outputs must have two halves");
      map[k].first_real = map[k].averaged = count / 2;
    }
  }
}

template <class Partials, class Run>
std::tuple<Tensor, Tensor> gan_loss(const std::vector<Tensor>& outputs, const std::vector<std::int64_t>& targets,
                                    const std::vector<double>& weights, const std::string& gan_type, Partials partials,
                                    Run run) {
  GanLoss arguments = {};
  arguments.maps = static_cast<int>(outputs.size());
  set_maps(outputs, targets, weights, gan_type, arguments.map);
  const ScalarType dtype = result_type(outputs);
  Tensor values = torch::stable::empty({arguments.maps}, dtype, std::nullopt, outputs[0].device());
  Tensor total = torch::stable::empty({}, dtype, std::nullopt, outputs[0].device());
  std::vector<Tensor> dense_outputs;  // keeps copies alive until the kernel has run
  for (int k = 0; k < arguments.maps; ++k) {
    dense_outputs.push_back(dense(outputs[k], dense_format(outputs[k])));
    arguments.map[k].x = dense_outputs.back().const_data_ptr();
  }
  arguments.dtype = data_type(values, "values");
  arguments.values = values.mutable_data_ptr();
  arguments.total = total.mutable_data_ptr();
  const Tensor memory = workspace(partials(arguments), outputs[0]);
  arguments.partials = static_cast<double*>(memory.mutable_data_ptr());
  run(arguments);
  return {values, total};
}

template <class Run>
std::vector<Tensor> gan_loss_backward(const Tensor& dvalues, const Tensor& dtotal, const std::vector<Tensor>& outputs,
                                      const std::vector<std::int64_t>& targets, const std::vector<double>& weights,
                                      const std::string& gan_type, const std::vector<bool>& needed, Run run) {
  GanLossBackward arguments = {};
  arguments.maps = static_cast<int>(outputs.size());
  set_maps(outputs, targets, weights, gan_type, arguments.map);
  STD_TORCH_CHECK(needed.size() == outputs.size(), "expected a needed flag per output");
  check_gradients(dvalues, dtotal, outputs.size(), result_type(outputs), outputs[0]);
  const Tensor dense_dvalues = dense(dvalues, MemoryFormat::Contiguous);
  arguments.dtype = data_type(dvalues, "dvalues");
  arguments.dvalues = dense_dvalues.const_data_ptr();
  arguments.dtotal = dtotal.const_data_ptr();
  std::vector<Tensor> dense_outputs, gradients;
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    if (!needed[k]) continue;
    const Tensor& output = outputs[k];
    const MemoryFormat format = dense_format(output);
    dense_outputs.push_back(dense(output, format));
    gradients.push_back(torch::stable::empty(output.sizes(), output.scalar_type(), std::nullopt, output.device(),
                                             std::nullopt, format));
    arguments.map[k].x = dense_outputs.back().const_data_ptr();
    arguments.map[k].dx = gradients.back().mutable_data_ptr();
  }
  run(arguments);
  return gradients;
}

}  // namespace fastmunit::bindings
