// A CUDA of one GPU that is the CPU, enough to run kernels that share memory within a block and wait for each other there.
// Blocks run one after the other, the threads of a block as threads of the CPU.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cmath>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static

struct Index {
  unsigned x = 0;
};
inline thread_local Index threadIdx;
inline Index blockIdx;
inline Index blockDim;
inline Index gridDim;

namespace emulator {

class Barrier {
 public:
  void start(unsigned threads) { threads_ = threads; }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const unsigned round = round_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round_ != round; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  unsigned threads_ = 0, waiting_ = 0, round_ = 0;
};
inline Barrier barrier;

// kernel<<<blocks, threads>>>(): calls kernel() as each thread of each block.
template <class Kernel>
void launch(unsigned blocks, unsigned threads, Kernel kernel) {
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    barrier.start(threads);
    std::vector<std::thread> running;
    for (unsigned i = 0; i < threads; ++i) {
      running.emplace_back([&, i] {
        threadIdx.x = i;
        kernel();
      });
    }
    for (std::thread& thread : running) thread.join();
  }
}

}  // namespace emulator

inline void __syncthreads() { emulator::barrier.wait(); }
