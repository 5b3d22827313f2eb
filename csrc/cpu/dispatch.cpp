// Dispatches each CPU kernel to its version for the instruction set in use. The bottom has one line per kernel.
#include "cpu/isa.h"
#include "fused_norm/fused_norm.h"
#include "gan_loss/gan_loss.h"
#include "instance_norm_stats/instance_norm_stats.h"
#include "weighted_l1/weighted_l1.h"

#ifdef FASTMUNIT_HAS_AVX512BF16
#define FASTMUNIT_AVX512BF16(...) __VA_ARGS__
#else
#define FASTMUNIT_AVX512BF16(...)
#endif
#ifdef FASTMUNIT_HAS_AVX512
#define FASTMUNIT_AVX512(...) __VA_ARGS__
#else
#define FASTMUNIT_AVX512(...)
#endif
#ifdef FASTMUNIT_HAS_AVX2
#define FASTMUNIT_AVX2(...) __VA_ARGS__
#else
#define FASTMUNIT_AVX2(...)
#endif

#define FASTMUNIT_DISPATCH(kernel, Arguments, isa)                                                 \
  FASTMUNIT_AVX512BF16(namespace avx512bf16 { void kernel(const Arguments&, ParallelFor); })       \
  FASTMUNIT_AVX512(namespace avx512 { void kernel(const Arguments&, ParallelFor); })               \
  FASTMUNIT_AVX2(namespace avx2 { void kernel(const Arguments&, ParallelFor); })                   \
  namespace baseline {                                                                             \
  void kernel(const Arguments&, ParallelFor);                                                      \
  }                                                                                                \
  void kernel(const Arguments& arguments, ParallelFor parallel_for) {                              \
    switch (isa) {                                                                                 \
      FASTMUNIT_AVX512BF16(case Isa::avx512bf16 : return avx512bf16::kernel(arguments, parallel_for);) \
      FASTMUNIT_AVX512(case Isa::avx512 : return avx512::kernel(arguments, parallel_for);)         \
      FASTMUNIT_AVX2(case Isa::avx2 : return avx2::kernel(arguments, parallel_for);)               \
      default:                                                                                     \
        return baseline::kernel(arguments, parallel_for);                                          \
    }                                                                                              \
  }

namespace fastmunit::cpu {
namespace {

// avx512bf16 is compiled for bfloat16 only (storage.h).
Isa isa_for(DataType dtype) {
  return isa() == Isa::avx512bf16 && dtype != DataType::bfloat16 ? Isa::avx512 : isa();
}

}  // namespace

FASTMUNIT_DISPATCH(fused_norm, FusedNorm, isa_for(arguments.dtype))
FASTMUNIT_DISPATCH(fused_norm_with_statistics, FusedNormWithStatistics, isa_for(arguments.dtype))
FASTMUNIT_DISPATCH(fused_norm_backward, FusedNormBackward, isa_for(arguments.dtype))
FASTMUNIT_DISPATCH(gan_loss, GanLoss, isa())
FASTMUNIT_DISPATCH(gan_loss_backward, GanLossBackward, isa())
FASTMUNIT_DISPATCH(instance_norm_stats, InstanceNormStats, isa_for(arguments.dtype))
FASTMUNIT_DISPATCH(instance_norm_stats_backward, InstanceNormStatsBackward, isa_for(arguments.dtype))
FASTMUNIT_DISPATCH(weighted_l1, WeightedL1, isa())
FASTMUNIT_DISPATCH(weighted_l1_backward, WeightedL1Backward, isa())

}  // namespace fastmunit::cpu
