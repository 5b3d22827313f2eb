// What forward's statistics are to forward, sums over a group are to backward: from the sums of each channel of a tile to the
// lines that give dx.
#pragma once

#include "fastmunit/fused_norm.cuh"

namespace fastmunit::cuda {

struct BackwardArguments {
  FusedNormBackward map;
  Tiling tiling;
  Pass pass;
  int cluster;       // blocks that hold a group, where the pass is whole
  double* partials;  // the sums of (batch, channels, row tiles), where reduce or anything behind needs them, else null
  double* totals;    // those of planes, then in MUNIT's layer norm the weighted ones of samples: what combine_sums writes
  Division by_width;

  __device__ GradientSums* sums_of_tiles() const { return reinterpret_cast<GradientSums*>(partials); }
  __device__ GradientSums* sums_of_planes() const { return reinterpret_cast<GradientSums*>(totals); }
  __device__ GradientSums* sums_of_groups() const {
    return sums_of_planes() + (map.statistics == Statistics::layer ? map.batch * map.channels : 0);
  }
};

__device__ inline Group group_at(const FusedNormBackward& a, std::int64_t n, std::int64_t c) {
  if (a.statistics == Statistics::none) return {0.0, 1.0};
  const std::int64_t at = group_index(a, n, c);
  return {ld_global(a.mean + at), ld_global(a.rstd + at)};
}

// Writes what is known of each channel of the tile before its sums.
__device__ inline void set_affines(const FusedNormBackward& a, const Tile& tile, Group* groups, Affine<float>* affines) {
  for (int c = static_cast<int>(threadIdx.x); c < tile.channels; c += static_cast<int>(blockDim.x)) {
    const std::int64_t channel = tile.channel + c;
    groups[c] = group_at(a, tile.sample, channel);
    affines[c] = affine_of<float>(groups[c], coefficient(a.weight, tile.sample, channel, 1.0),
                                  coefficient(a.bias, tile.sample, channel, 0.0));
  }
  __syncthreads();
}

// The sums of one channel of a tile, from those of deviations from the center.
__device__ inline GradientSums sums_about_mean(Group group, float dz, float product) {
  return {dz, static_cast<double>(product) - rounding_of_mean<float>(group) * static_cast<double>(dz)};
}

__device__ inline void keep_sums(const BackwardArguments& arguments, const Tile& tile, int c, GradientSums sums) {
  if (arguments.partials == nullptr) return;
  const std::int64_t plane = tile.sample * arguments.map.channels + tile.channel + c;
  st_global(arguments.sums_of_tiles() + plane * arguments.tiling.row_tiles + tile.row_tile, sums);
}

// Writes lines[c] for the channels of the tile. In a whole pass `sums` are those of its channels, in this block's shared memory
// and at the same place in the cluster's others; behind them is room for one more. `scratch` is for block_sum.
__device__ inline void set_lines(const BackwardArguments& arguments, const Tile& tile, const Group* groups,
                                 GradientSums* sums, double* scratch, Line<float>* lines) {
  const FusedNormBackward& a = arguments.map;
  const bool layer = a.statistics == Statistics::layer, none = a.statistics == Statistics::none;
  const bool whole = arguments.pass == Pass::whole && !none;
  const GroupBlocks blocks(none ? 1 : arguments.cluster);
  const auto weight_of = [&](int c) { return coefficient(a.weight, tile.sample, tile.channel + c, 1.0); };
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (whole && layer) {
    double dz = 0.0, product = 0.0;
    for (int c = thread; c < tile.channels; c += threads) {
      dz += weight_of(c) * sums[c].dz;
      product += weight_of(c) * sums[c].product;
    }
    block_sum(dz, product, scratch);
    if (thread == 0) sums[arguments.tiling.channels] = {dz, product};
  }
  if (whole) blocks.sync();
  for (int c = thread; c < tile.channels; c += threads) {
    GradientSums total = {0.0, 0.0};
    if (whole) {
      GradientSums* const mine = sums + (layer ? arguments.tiling.channels : c);
      for (int rank = 0; rank < blocks.count; ++rank) {
        const GradientSums part = blocks.of(mine, rank);
        total.dz += part.dz;
        total.product += part.product;
      }
    } else if (!none) {
      total = ld_global(arguments.sums_of_groups() + group_index(a, tile.sample, tile.channel + c));
    }
    if (none) {
      lines[c] = {static_cast<float>(weight_of(c)), 0.0f, 0.0f};
    } else if (layer) {
      lines[c] = layer_line<float>(groups[c], weight_of(c), total, values_of_group(a), a.eps);
    } else {
      lines[c] = instance_line<float>(groups[c], weight_of(c), total, values_of_group(a));
    }
  }
  if (whole) {
    blocks.sync();  // no block may end while another one reads its shared memory
  } else {
    __syncthreads();
  }
}

}  // namespace fastmunit::cuda
