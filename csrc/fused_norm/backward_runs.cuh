// How the backward of fused_norm reads NCHW maps, and what its statistics are of.
#pragma once

#include "common/pad_index.h"
#include "cuda/reductions.cuh"
#include "fused_norm/backward_groups.cuh"
#include "fused_norm/backward_memory.cuh"

namespace fastmunit::cuda {

__device__ inline double values_of_group(const FusedNormOptions& a) {
  const double pixels = static_cast<double>(a.height) * static_cast<double>(a.width);
  return a.statistics == Statistics::layer ? pixels * static_cast<double>(a.channels) : pixels;
}

// What of the statistics channel c of sample n belongs to.
__device__ inline std::int64_t group_index(const FusedNormOptions& a, std::int64_t n, std::int64_t c) {
  return a.statistics == Statistics::layer ? n : n * a.channels + c;
}

// The tile of x, staged at `room` or in place, and its runs: `runs` times `run` values side by side.
template <bool staged, class Storage>
struct InputRuns {
  InputView<staged, Storage> view;
  int runs, run;

  __device__ InputRuns(const FusedNormOptions& a, const Tile& tile, const Storage* map, Room& room) {
    constexpr int N = vector_values<Storage>;
    const int width = static_cast<int>(a.width), height = static_cast<int>(a.height);
    const std::int64_t plane = a.height * a.width;
    const bool part = a.phases && tile.rows < height;
    runs = part ? 4 : 1;
    run = tile.channels * tile.rows * width / runs;
    const std::int64_t in_memory = plane / 4;
    from_ = map + (tile.sample * a.channels + tile.channel) * plane +
            (a.phases ? static_cast<std::int64_t>(tile.row / 2) * (width / 2) : static_cast<std::int64_t>(tile.row) * width);
    view.width = width;
    view.phases = a.phases;
    pitch_ = in_memory;
    if constexpr (staged) {
      view.plane_pitch = height * width;
      view.phase_pitch = part ? phase_pitch(run, in_memory, N) : height * width / 4;
      view.data = room.take<Storage>(N + (runs - 1) * view.phase_pitch + run) + misalignment<N>(from_);
    } else {
      view.plane_pitch = plane;
      view.phase_pitch = in_memory;
      view.data = const_cast<Storage*>(from_);
    }
  }

  __device__ void stage() const {
    if constexpr (staged) {
      for (int k = 0; k < runs; ++k) copy_values(from_ + k * pitch_, view.data + k * view.phase_pitch, run, Stage());
    }
  }

  // Writes what is staged to where it lies in `map`, which is as x.
  __device__ void unstage(const Storage* x, Storage* map) const {
    for (int k = 0; k < runs; ++k) {
      const Storage* const from = view.data + k * view.phase_pitch;
      Storage* const to = map + (from_ - x) + k * pitch_;
      if (misalignment<vector_values<Storage>>(from) == misalignment<vector_values<Storage>>(to)) {
        copy_values(from, to, run, Unstage());
        continue;
      }
      for (int i = static_cast<int>(threadIdx.x); i < run; i += static_cast<int>(blockDim.x)) st_global(to + i, from[i]);
    }
  }

 private:
  const Storage* from_;
  std::int64_t pitch_;  // of the phases in memory
};

}  // namespace fastmunit::cuda
