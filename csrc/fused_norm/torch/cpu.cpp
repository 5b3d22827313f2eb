#include "fused_norm/torch/bindings.h"

namespace fastmunit::bindings {
namespace {

struct Cpu {
  static void run(const FusedNorm& arguments, const Tensor&) { cpu::fused_norm(arguments, torch_thread_pool); }
  static void run(const FusedNormWithStatistics& arguments, const Tensor&) {
    cpu::fused_norm_with_statistics(arguments, torch_thread_pool);
  }
  static void run(const FusedNormBackward& arguments, const Tensor&) {
    cpu::fused_norm_backward(arguments, torch_thread_pool);
  }
};

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CPU, library) {
  library.impl("fused_norm", TORCH_BOX(&fastmunit::bindings::fused_norm<fastmunit::bindings::Cpu>));
  library.impl("fused_norm_with_statistics",
               TORCH_BOX(&fastmunit::bindings::fused_norm_with_statistics<fastmunit::bindings::Cpu>));
  library.impl("fused_norm_backward", TORCH_BOX(&fastmunit::bindings::fused_norm_backward<fastmunit::bindings::Cpu>));
}
