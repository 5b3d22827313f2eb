// What forward's statistics are to forward, sums over a group are to backward: from the sums of each channel of a tile to the
// lines that give dx.
#pragma once

#include "fused_norm/backward_runs.cuh"

namespace fastmunit::cuda {

// The sums of a plane of a tile, about the center instead of the mean.
struct alignas(8) TileSums {
  float dz, product;
};

struct BackwardArguments {
  FusedNormBackward map;
  Tiling tiling;
  Pass pass;
  int cluster;       // blocks that hold a group, where the pass is whole
  double* partials;  // the sums of (row tiles, batch, channels), where reduce or anything behind needs them, else null
  double* totals;    // the sums of planes, then what apply needs to know of them: what combine_sums writes
  Division by_width, by_chunks, by_padded_chunks;  // by chunks_of_row of gradients

  __device__ std::int64_t planes() const { return map.batch * map.channels; }
  __device__ TileSums* sums_of_tiles() const { return reinterpret_cast<TileSums*>(partials); }
  __device__ GradientSums* sums_of_planes() const { return reinterpret_cast<GradientSums*>(totals); }

  // The numbers of an affine and a line lie a map's planes apart.
  __device__ void store(std::int64_t plane, Affine<float> affine, Line<float> line) const {
    const float values[] = {affine.center, affine.scale, affine.shift, line.gain, line.slope, line.constant};
#pragma unroll
    for (int k = 0; k < 6; ++k) st_global(numbers() + k * planes() + plane, values[k]);
  }
  __device__ void load(std::int64_t plane, Affine<float>& affine, Line<float>& line) const {
    float* const values[] = {&affine.center, &affine.scale, &affine.shift, &line.gain, &line.slope, &line.constant};
#pragma unroll
    for (int k = 0; k < 6; ++k) *values[k] = ld_global(numbers() + k * planes() + plane);
  }

 private:
  __device__ float* numbers() const { return reinterpret_cast<float*>(totals + 2 * planes()); }
};

__device__ inline Group group_at(const FusedNormBackward& a, std::int64_t n, std::int64_t c) {
  if (a.statistics == Statistics::none) return {0.0, 1.0};
  const std::int64_t at = group_index(a, n, c);
  return {ld_global(a.mean + at), ld_global(a.rstd + at)};
}

// From the sums of a plane, or in MUNIT's layer norm the weighted ones of a sample.
__device__ inline Line<float> line_of(const FusedNormBackward& a, Group group, double weight, GradientSums total) {
  if (a.statistics == Statistics::layer) return layer_line<float>(group, weight, total, values_of_group(a), a.eps);
  return instance_line<float>(group, weight, total, values_of_group(a));
}

// Writes what is known of each channel of the tile before its sums; in the second reading that is all.
__device__ inline void set_affines(const BackwardArguments& arguments, const Tile& tile, Group* groups,
                                   Affine<float>* affines, Line<float>* lines) {
  const FusedNormBackward& a = arguments.map;
#pragma unroll 1
  for (int c = static_cast<int>(threadIdx.x); c < tile.channels; c += static_cast<int>(blockDim.x)) {
    const std::int64_t channel = tile.channel + c;
    if (arguments.pass == Pass::apply) {
      arguments.load(tile.sample * a.channels + channel, affines[c], lines[c]);
      continue;
    }
    groups[c] = group_at(a, tile.sample, channel);
    affines[c] = affine_of<float>(groups[c], coefficient(a.weight, tile.sample, channel, 1.0),
                                  coefficient(a.bias, tile.sample, channel, 0.0));
  }
  __syncthreads();
}

__device__ inline void keep_sums(const BackwardArguments& arguments, const Tile& tile, int c, float dz, float product) {
  if (arguments.partials == nullptr) return;
  const std::int64_t plane = tile.sample * arguments.map.channels + tile.channel + c;
  st_global(arguments.sums_of_tiles() + tile.row_tile * arguments.planes() + plane, TileSums{dz, product});
}

// Writes lines[c] for the channels of the tile in a whole pass. `sums` are those of its channels, in this block's shared memory
// and at the same place in the cluster's others; behind them is room for one more. `scratch` is for block_sum.
__device__ inline void set_lines(const BackwardArguments& arguments, const Tile& tile, const Group* groups,
                                 GradientSums* sums, double* scratch, Line<float>* lines) {
  const FusedNormBackward& a = arguments.map;
  const bool layer = a.statistics == Statistics::layer, none = a.statistics == Statistics::none;
  const GroupBlocks blocks(none ? 1 : arguments.cluster);
  const auto weight_of = [&](int c) { return coefficient(a.weight, tile.sample, tile.channel + c, 1.0); };
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (layer) {
    double dz = 0.0, product = 0.0;
#pragma unroll 1
    for (int c = thread; c < tile.channels; c += threads) {
      dz += weight_of(c) * sums[c].dz;
      product += weight_of(c) * sums[c].product;
    }
    block_sum(dz, product, scratch);
    if (thread == 0) sums[arguments.tiling.channels] = {dz, product};
  }
  blocks.sync();
#pragma unroll 1
  for (int c = thread; c < tile.channels; c += threads) {
    GradientSums total = {0.0, 0.0};
    GradientSums* const mine = sums + (layer ? arguments.tiling.channels : c);
    for (int rank = 0; !none && rank < blocks.count; ++rank) {
      const GradientSums part = blocks.of(mine, rank);
      total.dz += part.dz;
      total.product += part.product;
    }
    const double weight = weight_of(c);
    lines[c] = none ? Line<float>{static_cast<float>(weight), 0.0f, 0.0f} : line_of(a, groups[c], weight, total);
  }
  blocks.sync();  // no block may end while another one reads its shared memory
}

}  // namespace fastmunit::cuda
