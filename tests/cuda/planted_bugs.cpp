// Two small kernels with planted bugs, selected by name, which show that the checks of tests/cuda find them.
//
// pad_rows: y = pad(x - mean(x)) of each row, with one reflected value on either side; one block per row.
// center_rows: y = x - mean(x) of each row; one cluster of blocks per row.
#include "cuda/launch.cuh"

#include "arguments.h"

using fastmunit::cuda::launch;

namespace {

constexpr int threads = 128, warps = threads / 32, cluster = 4;

enum class Bug {
  none,
  read_past_end,
  write_past_end,
  shared_memory_past_end,
  missing_barrier,
  missing_barrier_before_reuse,
  blocks_write_one_address,
  divergent_barrier,
  skipped_barrier,
  shuffle_in_a_branch,
  mask_without_the_caller,
  shuffle_from_outside_the_mask,
  uninitialized_shared_memory,
  unwritten_output,
  misaligned_vector,
  reflect_off_by_one,
  overflowing_offset,
  strided_reads,
  reads_twice,
  missing_cluster_barrier,
  exits_while_others_read,
};

constexpr const char* names[] = {"none",
                                 "read_past_end",
                                 "write_past_end",
                                 "shared_memory_past_end",
                                 "missing_barrier",
                                 "missing_barrier_before_reuse",
                                 "blocks_write_one_address",
                                 "divergent_barrier",
                                 "skipped_barrier",
                                 "shuffle_in_a_branch",
                                 "mask_without_the_caller",
                                 "shuffle_from_outside_the_mask",
                                 "uninitialized_shared_memory",
                                 "unwritten_output",
                                 "misaligned_vector",
                                 "reflect_off_by_one",
                                 "overflowing_offset",
                                 "strided_reads",
                                 "reads_twice",
                                 "missing_cluster_barrier",
                                 "exits_while_others_read"};

Bug bug_called(const std::string& name) {
  int index = 0;
  for (const char* known : names) {
    if (name == known) return static_cast<Bug>(index);
    ++index;
  }
  emulator::fail("there is no bug with that name");
}

__device__ float warp_sum(float value, Bug bug) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (bug == Bug::mask_without_the_caller) return __shfl_sync(0x0000ffffu, value, 0);
  if (bug == Bug::shuffle_from_outside_the_mask && lane < 16) return __shfl_sync(0x0000ffffu, value, 20);
  if (bug == Bug::shuffle_in_a_branch) {
    if (lane < 16) value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value;
  }
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

__device__ float block_sum(float value, Bug bug) {
  SMEM_ARRAY(float, sums, warps);
  value = warp_sum(value, bug);
  const int warp = static_cast<int>(threadIdx.x / 32);
  if (threadIdx.x % 32 == 0 && (bug != Bug::uninitialized_shared_memory || warp > 0)) {
    sums[bug == Bug::shared_memory_past_end ? warp + 1 : warp] = value;
  }
  if (bug == Bug::divergent_barrier && warp == 0) {
    __syncthreads();
  } else if (bug != Bug::missing_barrier && (bug != Bug::skipped_barrier || warp > 0)) {
    __syncthreads();
  }
  float sum = 0.0f;
  for (int w = 0; w < warps; ++w) sum += sums[w];
  if (bug != Bug::missing_barrier_before_reuse) __syncthreads();
  return sum;
}

__device__ int reflected(int i, int n, Bug bug) {
  if (i < 0) return bug == Bug::reflect_off_by_one ? -i - 1 : -i;
  return i < n ? i : 2 * n - 2 - i;
}

__global__ void pad_rows(const float* x, float* y, int n, int row_stride, Bug bug) {
  struct alignas(16) Vector {
    float values[4];
  };
  const int thread = static_cast<int>(threadIdx.x), row = static_cast<int>(blockIdx.x);
  const long offset = bug == Bug::overflowing_offset ? static_cast<long>(row * row_stride * 65536) / 65536
                                                     : static_cast<long>(row) * row_stride;
  const float* from = x + offset;
  float* to = y + static_cast<long>(row) * (n + 2);
  float sum = 0.0f;
  const auto* vectors = reinterpret_cast<const Vector*>(from + (bug == Bug::misaligned_vector ? 1 : 0));
  const int count = bug == Bug::misaligned_vector ? n / 4 - 1 : n / 4;
  for (int i = thread; i < (bug == Bug::read_past_end ? count + 1 : count); i += threads) {
    const int at = bug == Bug::strided_reads ? i * 33 % count : i;
    const Vector vector = ld_global(vectors + at);
    for (float value : vector.values) sum += value;
  }
  float mean = block_sum(sum, bug) / static_cast<float>(n);
  if (bug == Bug::missing_barrier_before_reuse) mean = block_sum(sum, bug) / static_cast<float>(n);
  const int end = bug == Bug::write_past_end ? n + 2 : n + 1;
  for (int i = thread - 1; i < end; i += threads) {
    if (bug == Bug::unwritten_output && i == n) continue;
    const int source = reflected(i == n + 1 ? n : i, n, bug);
    if (bug == Bug::reads_twice) ld_global(from + source);
    st_global(to + i + 1, ld_global(from + source) - mean);
  }
  if (bug == Bug::blocks_write_one_address && thread == 0) st_global(y, ld_global(x + 1) - mean);
}

__global__ void center_rows(const float* x, float* y, int n, Bug bug) {
  SMEM_ARRAY(float, sum, 1);
  const int part = n / cluster, thread = static_cast<int>(threadIdx.x);
  const long begin = static_cast<long>(blockIdx.x) * part;
  float own = 0.0f;
  for (int i = thread; i < part; i += threads) own += ld_global(x + begin + i);
  own = block_sum(own, Bug::none);
  if (thread == 0) sum[0] = own;
  if (bug != Bug::missing_cluster_barrier) cluster_sync();
  float all = 0.0f;
  if (bug == Bug::exits_while_others_read && cluster_rank() == 0) return;
  for (int rank = 0; rank < cluster; ++rank) all += *map_shared_rank(&sum[0], rank);
  if (bug != Bug::exits_while_others_read) cluster_sync();
  for (int i = thread; i < part; i += threads) {
    st_global(y + begin + i, ld_global(x + begin + i) - all / static_cast<float>(n));
  }
}

}  // namespace

int main() {
  return emulator::answer([](emulator::Request& request) {
    const Bug bug = bug_called(request.text("bug"));
    const unsigned rows = static_cast<unsigned>(request.integer("rows"));
    const int n = static_cast<int>(request.integer("n"));
    const float* x = request.array<float>("x");
    float* y = request.array<float>("y");
    if (request.text("kernel") == "pad_rows") return launch(pad_rows, {rows, threads}, nullptr, x, y, n, n, bug);
    return launch(center_rows, {rows * cluster, threads, 0, cluster}, nullptr, x, y, n, bug);
  });
}
