// Runs the CUDA kernels of instance_norm_stats on the emulator, as csrc/cuda/instance_norm_stats.cu launches them. Built into
// a shared library that test_instance_norm_stats_emulated.py calls.
#include "fastmunit/instance_norm_stats.cuh"

using namespace fastmunit;
using namespace fastmunit::cuda;

namespace {

template <class Storage, Layout layout>
void run(const void* x, const void* dmean, const void* drstd, std::int64_t batch, std::int64_t channels,
         std::int64_t pixels, double eps, double* partials, void* mean, void* rstd, void* dx) {
  using Lane = typename fastmunit::cuda::Compute<Storage>::type;
  constexpr int together = layout == Layout::nchw ? 1 : columns;
  const std::int64_t planes = batch * channels;
  const std::int64_t segments = segments_of(layout, pixels);
  emulator::launch(batch * ((channels + together - 1) / together) * segments, threads, [&] {
    segment_moments<Storage, layout>(static_cast<const Storage*>(x), channels, pixels, planes, segments, partials);
  });
  emulator::launch((planes + 127) / 128, 128, [&] {
    combine_segments<Lane>(partials, planes, segments, segment_pixels(layout), pixels, eps, static_cast<Lane*>(mean),
                           static_cast<Lane*>(rstd));
  });
  emulator::launch(2, threads, [&] {
    gradient<Storage, layout>(static_cast<const Lane*>(dmean), static_cast<const Lane*>(drstd),
                              static_cast<const Storage*>(x), static_cast<const Lane*>(mean),
                              static_cast<const Lane*>(rstd), channels, pixels, planes * pixels,
                              static_cast<Storage*>(dx));
  });
}

}  // namespace

#define FASTMUNIT_EXPORT(name, Storage)                                                                             \
  extern "C" void name(int channels_last, const void* x, const void* dmean, const void* drstd, std::int64_t batch,  \
                       std::int64_t channels, std::int64_t pixels, double eps, double* partials, void* mean,        \
                       void* rstd, void* dx) {                                                                      \
    const auto kernels = channels_last ? run<Storage, Layout::channels_last> : run<Storage, Layout::nchw>;          \
    kernels(x, dmean, drstd, batch, channels, pixels, eps, partials, mean, rstd, dx);                               \
  }

FASTMUNIT_EXPORT(run_float32, float)
FASTMUNIT_EXPORT(run_float64, double)
FASTMUNIT_EXPORT(run_bfloat16, __nv_bfloat16)
FASTMUNIT_EXPORT(run_float16, __half)
