// The emulated GPU. It runs one cluster of blocks after another, with a fiber per CUDA thread, and stops with a message
// if threads wait for each other in a way that would hang a GPU or is undefined.
//
// Shared memory starts as NaN in every block. The schedule determines the order of threads and blocks:
// - forward and reverse: by index; each thread runs until it has to wait
// - shuffled: in random order
// - interleaved: switches to another thread after each access to global memory
#pragma once

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "fiber.h"
#include "traffic.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};

namespace emulator {

enum class Schedule { forward, reverse, shuffled, interleaved };
enum class Waiting { no, at_barrier, in_warp, at_cluster_barrier, done };

constexpr unsigned max_threads = 1024, max_cluster = 16, lanes = 32;
constexpr std::size_t max_shared_bytes = 227 * 1024;
constexpr std::size_t max_tsan_fibers = 6000;

struct Block;

struct Fiber {
  Context context;
  Waiting waiting = Waiting::no;
  Block* block = nullptr;
  unsigned rank = 0;  // index in the block
  uint3 index;
  const char* file = nullptr;  // the place where it waits
  int line = 0;
  bool cluster_arrived = false;
  unsigned cluster_round = 0;  // the round in which it arrived
  bool waited_for_previous_launch = false;
  unsigned lane() const { return rank % lanes; }
  unsigned warp() const { return rank / lanes; }
};

// A collective operation of the lanes of a mask: each lane contributes a value, then all read them.
struct Collective {
  unsigned mask = 0, arrived = 0, round = 0;
  int operation = -1;
  char* order = nullptr;
  std::uint64_t values[2][lanes];
};

struct SharedMemory {
  char* data;
  std::size_t bytes;
};

struct Block {
  unsigned index = 0, rank = 0;  // index in the grid, rank in the cluster
  unsigned threads = 0, alive = 0, arrived = 0, round = 0;
  const char* barrier_file = nullptr;
  int barrier_line = 0;
  int votes[2] = {0, 0};  // of the threads at the barrier, for even and odd rounds
  char* order = nullptr;
  std::vector<Collective> collectives[max_threads / lanes];
  std::map<const void*, SharedMemory> shared;
};

struct Shape {
  unsigned blocks, threads;
  std::size_t shared_bytes = 0;
  unsigned cluster = 1;
  bool dependent = false;  // may start before the previous launch ends
};

struct Machine {
  Schedule schedule = Schedule::forward;
  std::uint64_t random = 88172645463325252u;
  std::function<void()> kernel;
  Shape shape = {0, 0};
  dim3 grid, block;
  std::vector<Fiber> fibers;  // of the running cluster
  std::vector<Block> blocks;
  Fiber* current = nullptr;
  unsigned alive = 0, at_cluster_barrier = 0, cluster_round = 0;
  // True if the running launch lets the next one start; the addresses that it writes; and the addresses that earlier
  // launches of a chain of dependent launches wrote.
  bool starts_dependent_launch = false;
  std::unordered_set<std::uintptr_t> written, written_before;
  char* cluster_order = nullptr;
  char* end_order = nullptr;
  Context host;
  std::vector<void*> ended_fibers;      // of the thread sanitizer
  std::vector<char*> freed_at_the_end;  // of the launch; reusing it earlier would look like races or synchronization of blocks

  EMULATOR_UNWATCHED std::uint64_t next_random() {  // xorshift
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
  }
};

inline Machine machine;

EMULATOR_UNWATCHED inline Fiber& running() { return *machine.current; }

// Returns two addresses by which the thread sanitizer identifies the even and odd rounds of a synchronization.
inline char* new_order() {
#if defined(EMULATOR_TSAN)
  char* order = static_cast<char*>(std::malloc(16));
  machine.freed_at_the_end.push_back(order);
  return order;
#else
  static char unused[2];
  return unused;
#endif
}

// --- Scheduling -------------------------------------------------------------------------------------------------------

EMULATOR_UNWATCHED inline Fiber* next_ready() {
  Machine& m = machine;
  const std::size_t count = m.fibers.size();
  std::size_t from = m.current == nullptr ? (m.schedule == Schedule::reverse ? 0 : count - 1)
                                          : static_cast<std::size_t>(m.current - m.fibers.data());
  if (m.schedule == Schedule::shuffled) from = m.next_random() % count;
  for (std::size_t k = 1; k <= count; ++k) {
    Fiber& fiber = m.fibers[m.schedule == Schedule::reverse ? (from + count - k) % count : (from + k) % count];
    if (fiber.waiting == Waiting::no) return &fiber;
  }
  return nullptr;
}

[[noreturn]] EMULATOR_UNWATCHED inline void deadlock() {
  static const char* const what[] = {"ready", "waits at __syncthreads", "waits in a warp collective", "waits at cluster.sync",
                                     "has exited"};
  std::fprintf(stderr, "emulator: deadlock: no thread can go on\n");
  const std::vector<Fiber>& fibers = machine.fibers;
  for (std::size_t i = 0, end = 0; i < fibers.size(); i = end) {
    const Fiber& fiber = fibers[i];
    while (end < fibers.size() && fibers[end].waiting == fiber.waiting && fibers[end].file == fiber.file &&
           fibers[end].line == fiber.line && fibers[end].block == fiber.block) {
      ++end;
    }
    std::fprintf(stderr, "  block %u, thread %u to %u: %s", fiber.block->index, fiber.rank, fibers[end - 1].rank,
                 what[static_cast<int>(fiber.waiting)]);
    std::fprintf(stderr, fiber.file == nullptr ? "\n" : " at %s:%d\n", fiber.file, fiber.line);
  }
  std::fflush(stderr);
  std::abort();
}

EMULATOR_UNWATCHED inline void run_instead(Fiber* next) {
  Fiber& from = running();
  machine.current = next;
  if (next != &from) switch_context(from.context, next->context);
}

EMULATOR_UNWATCHED inline void wait(Waiting waiting, const char* file, int line) {
  Fiber& fiber = running();
  fiber.waiting = waiting;
  fiber.file = file;
  fiber.line = line;
  Fiber* next = next_ready();
  if (next == nullptr) deadlock();
  run_instead(next);
}

// Switches to another thread.
EMULATOR_UNWATCHED inline void yield() { run_instead(next_ready()); }

// --- Barriers and warp collectives ------------------------------------------------------------------------------------

EMULATOR_UNWATCHED inline void release_block(Block& block) {
  for (Fiber& fiber : machine.fibers) {
    if (fiber.block == &block && fiber.waiting == Waiting::at_barrier) fiber.waiting = Waiting::no;
  }
  block.arrived = 0;
  block.barrier_file = nullptr;
  ++block.round;
  block.votes[block.round % 2] = 0;
}

// Returns the number of threads of the block with a true `vote`.
EMULATOR_UNWATCHED inline int barrier(bool vote, const char* file, int line) {
  Block& block = *running().block;
  const unsigned round = block.round % 2;
  block.votes[round] += vote;
  if (block.barrier_file != nullptr && (block.barrier_file != file || block.barrier_line != line)) {
    std::fprintf(stderr, "emulator: %s:%d and %s:%d\n", block.barrier_file, block.barrier_line, file, line);
    fail("divergent barrier: threads of a block wait at different __syncthreads");
  }
  block.barrier_file = file;
  block.barrier_line = line;
  release(block.order + round);
  if (++block.arrived == block.alive) {
    release_block(block);
  } else {
    wait(Waiting::at_barrier, file, line);
  }
  acquire(block.order + round);
  return block.votes[round];
}

EMULATOR_UNWATCHED inline void release_cluster() {
  for (Fiber& fiber : machine.fibers) {
    if (fiber.waiting == Waiting::at_cluster_barrier) fiber.waiting = Waiting::no;
  }
  machine.at_cluster_barrier = 0;
  ++machine.cluster_round;
}

// Arrives at the cluster's barrier. cluster_wait returns once all threads have arrived.
EMULATOR_UNWATCHED inline void cluster_arrive() {
  Fiber& fiber = running();
  if (fiber.cluster_arrived) fail("a thread arrives at the barrier of its cluster twice without waiting");
  fiber.cluster_arrived = true;
  fiber.cluster_round = machine.cluster_round;
  release(machine.cluster_order + machine.cluster_round % 2);
  if (++machine.at_cluster_barrier == machine.alive) release_cluster();
}

EMULATOR_UNWATCHED inline void cluster_wait(const char* file, int line) {
  Fiber& fiber = running();
  if (!fiber.cluster_arrived) fail("a thread waits at the barrier of its cluster without having arrived");
  fiber.cluster_arrived = false;
  if (fiber.cluster_round == machine.cluster_round) wait(Waiting::at_cluster_barrier, file, line);
  acquire(machine.cluster_order + fiber.cluster_round % 2);
}

EMULATOR_UNWATCHED inline void cluster_barrier(const char* file, int line) {
  cluster_arrive();
  cluster_wait(file, line);
}

// --- Dependent launches -----------------------------------------------------------------------------------------------

// The emulator runs launches one after another. It detects premature reads of a dependent launch by address.
constexpr std::uintptr_t tracked_bytes = 16;

EMULATOR_UNWATCHED inline void start_dependent_launch() { machine.starts_dependent_launch = true; }

EMULATOR_UNWATCHED inline void wait_for_previous_launch() { running().waited_for_previous_launch = true; }

EMULATOR_UNWATCHED inline void check_dependence(const void* address, bool store, const char* file, int line) {
  const Unwatched unwatched;
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(address) / tracked_bytes;
  if (machine.shape.dependent && !running().waited_for_previous_launch &&
      (store || machine.written_before.count(at) != 0)) {
    std::fprintf(stderr, "emulator: %s:%d\n", file, line);
    fail(store ? "a dependent launch writes before it waits for the previous one"
               : "a dependent launch reads what the previous one writes before it waits");
  }
  if (store && machine.starts_dependent_launch) machine.written.insert(at);
}

// Exchanges values between the lanes of `mask`. Returns the values of all lanes, valid until the lane's next
// collective. Only `syncwarp` orders memory.
EMULATOR_UNWATCHED inline const std::uint64_t* collective(unsigned mask, std::uint64_t value, int operation, bool syncwarp,
                                                          const char* file, int line) {
  Fiber& fiber = running();
  Block& block = *fiber.block;
  if ((mask >> fiber.lane() & 1) == 0) fail("warp collective: the calling lane is not in the mask");
  const unsigned present = block.threads - fiber.warp() * lanes;
  if (present < lanes) mask &= (1u << present) - 1;  // the last warp of a block may be incomplete
  std::vector<Collective>& collectives = block.collectives[fiber.warp()];
  Collective* found = nullptr;
  for (Collective& other : collectives) {
    if (other.mask == mask) found = &other;
    if (other.mask != mask && other.arrived != 0 && (other.mask & mask) != 0) {
      fail("warp collective: lanes of one warp use different masks");
    }
  }
  if (found == nullptr) {
    const Unwatched unwatched;
    collectives.reserve(lanes);
    if (collectives.size() == lanes) fail("warp collective: more different masks than the emulator supports");
    collectives.emplace_back();
    found = &collectives.back();
    found->mask = mask;
    found->order = new_order();
  }
  if (found->arrived != 0 && found->operation != operation) {
    fail("warp collective: lanes of one warp execute different operations");
  }
  found->operation = operation;
  const unsigned round = found->round % 2;
  found->values[round][fiber.lane()] = value;
  found->arrived |= 1u << fiber.lane();
  if (syncwarp) release(found->order + round);
  if (found->arrived == mask) {
    found->arrived = 0;
    ++found->round;
    Fiber* first = &fiber - fiber.lane();
    for (unsigned lane = 0; lane < lanes && lane < present; ++lane) {
      if ((mask >> lane & 1) != 0 && first[lane].waiting == Waiting::in_warp) first[lane].waiting = Waiting::no;
    }
  } else {
    wait(Waiting::in_warp, file, line);
  }
  if (syncwarp) acquire(found->order + round);
  return found->values[round];
}

// --- Memory -----------------------------------------------------------------------------------------------------------

// Returns the block's array with the given name: an address that is unique to the array.
EMULATOR_UNWATCHED inline SharedMemory shared_memory(Block& block, const void* name, std::size_t bytes) {
  const Unwatched unwatched;
  const auto at = block.shared.find(name);
  if (at != block.shared.end()) return at->second;
  void* data = nullptr;
  if (posix_memalign(&data, 128, bytes > 0 ? bytes : 1) != 0) fail("out of memory for shared memory");
  std::memset(data, 0xff, bytes);  // NaN in every floating-point type
  return block.shared[name] = {static_cast<char*>(data), bytes};
}

template <class Array>
Array& shared_array(const void* name) {
  return *reinterpret_cast<Array*>(shared_memory(*running().block, name, sizeof(Array)).data);
}

inline char dynamic_shared_memory_name;
template <class T>
T* dynamic_shared_memory() {
  return reinterpret_cast<T*>(
      shared_memory(*running().block, &dynamic_shared_memory_name, machine.shape.shared_bytes).data);
}

// Returns the address in the shared memory of block `rank` that corresponds to `address` in the caller's.
template <class T>
T* shared_memory_of(unsigned rank, T* address) {
  char* data = reinterpret_cast<char*>(const_cast<std::remove_const_t<T>*>(address));
  if (rank >= machine.blocks.size()) fail("map_shared_rank: the cluster has no block with that rank");
  if (machine.blocks[rank].alive == 0) fail("map_shared_rank: the block with that rank has exited");
  for (const auto& [name, memory] : running().block->shared) {
    if (data >= memory.data && data < memory.data + memory.bytes) {
      return reinterpret_cast<T*>(shared_memory(machine.blocks[rank], name, memory.bytes).data + (data - memory.data));
    }
  }
  fail("map_shared_rank: the address is not in shared memory");
}

// Called before each access to global memory.
EMULATOR_UNWATCHED inline void global_access(const void* address, std::size_t bytes, std::size_t alignment, bool store,
                                             const void* place, const char* file, int line) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    std::fprintf(stderr, "emulator: %s:%d\n", file, line);
    fail("misaligned address");
  }
  if (machine.shape.dependent || machine.starts_dependent_launch) check_dependence(address, store, file, line);
  if (traffic.counting) {
    const Fiber& fiber = running();
    const unsigned warp = static_cast<unsigned>(&fiber - machine.fibers.data()) / lanes;
    traffic.count(warp, fiber.lane(), place, {file, line, store}, address, static_cast<std::uint32_t>(bytes));
  }
  if (machine.schedule == Schedule::interleaved) yield();
}

// --- Launch -----------------------------------------------------------------------------------------------------------

[[noreturn]] EMULATOR_UNWATCHED inline void run_thread() {
  arrived();
  machine.kernel();
  Fiber& fiber = running();
  Block& block = *fiber.block;
  release(machine.end_order);
  if (fiber.cluster_arrived) fail("a thread ends without waiting at its cluster's barrier: others may still read");
  fiber.waiting = Waiting::done;
  fiber.file = nullptr;
  --machine.alive;
  --block.alive;
  // Threads that have exited count as arrived, as on a GPU.
  if (block.alive > 0 && block.arrived == block.alive) release_block(block);
  if (machine.alive > 0 && machine.at_cluster_barrier == machine.alive) release_cluster();
  Fiber* next = next_ready();
  if (next == nullptr && machine.alive > 0) deadlock();
  machine.current = next;
  switch_context(fiber.context, next == nullptr ? machine.host : next->context, true);
  std::abort();
}

inline void start_block(Block& block, unsigned rank, unsigned index) {
  const unsigned threads = machine.shape.threads;
  block.order = new_order();
  block.index = index;
  block.rank = rank;
  block.threads = block.alive = threads;
  block.arrived = block.round = 0;
  block.barrier_file = nullptr;
  block.votes[0] = block.votes[1] = 0;
  for (std::vector<Collective>& collectives : block.collectives) collectives.clear();
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = machine.fibers[rank * threads + i];
    fiber.block = &block;
    fiber.rank = i;
    fiber.index = {i, 0, 0};
    fiber.cluster_arrived = fiber.waited_for_previous_launch = false;
    fiber.waiting = Waiting::no;
    fiber.file = nullptr;
#if defined(EMULATOR_TSAN)
    // Replaces the stack, so accesses of the previous block to it are not reported as races.
    munmap(const_cast<void*>(fiber.context.stack), stack_bytes);
    new_stack(const_cast<void*>(fiber.context.stack));
    fiber.context.tsan_fiber = __tsan_create_fiber(0);
#endif
    start_at(fiber.context, run_thread);
  }
}

inline void end_block(Block& block) {
  for (const auto& [name, memory] : block.shared) {
#if defined(EMULATOR_TSAN)
    machine.freed_at_the_end.push_back(memory.data);  // freed now, another block could get it and appear to race
#else
    std::free(memory.data);
#endif
  }
  block.shared.clear();
}

// Destroys the thread sanitizer's ended fibers except for `kept`. A new fiber in the slot of an ended one is taken for
// the same thread, which hides races between the two, so ended fibers are kept as long as the sanitizer has slots.
inline void end_fibers([[maybe_unused]] std::size_t kept) {
#if defined(EMULATOR_TSAN)
  std::vector<void*>& ended = machine.ended_fibers;
  for (Fiber& fiber : machine.fibers) {
    if (fiber.context.tsan_fiber != nullptr) ended.push_back(std::exchange(fiber.context.tsan_fiber, nullptr));
  }
  const std::size_t surplus = ended.size() > kept ? ended.size() - kept : 0;
  for (std::size_t i = 0; i < surplus; ++i) __tsan_destroy_fiber(ended[i]);
  ended.erase(ended.begin(), ended.begin() + static_cast<std::ptrdiff_t>(surplus));
#endif
}

// kernel<<<blocks, threads, shared_bytes>>>(): runs kernel() as each thread of each block.
inline void launch(const Shape& shape, std::function<void()> kernel) {
  Machine& m = machine;
  if (shape.threads == 0 || shape.threads > max_threads || shape.blocks == 0 || shape.blocks > 0x7fffffffu) {
    fail("invalid launch: expected 1 to 1024 threads and 1 to 2^31 - 1 blocks");
  }
  if (shape.cluster == 0 || shape.cluster > max_cluster || shape.blocks % shape.cluster != 0) {
    fail("invalid launch: expected clusters of 1 to 16 blocks and a grid that is a multiple of the cluster");
  }
  if (shape.shared_bytes > max_shared_bytes) fail("invalid launch: more than 227 KiB of dynamic shared memory");
  const Unwatched unwatched;
  if (shape.dependent && !m.starts_dependent_launch) fail("invalid launch: the launch before a dependent launch does not start it");
  ++traffic.launches;
  if (shape.dependent) {
    m.written_before.merge(m.written);
  } else {
    m.written_before.clear();
  }
  m.written.clear();
  m.starts_dependent_launch = false;
  m.shape = shape;
  m.grid = dim3(shape.blocks);
  m.block = dim3(shape.threads);
  m.kernel = std::move(kernel);
  m.host = host_context();
  const std::size_t fibers = static_cast<std::size_t>(shape.threads) * shape.cluster;
  while (m.fibers.size() > fibers) {
    munmap(const_cast<void*>(m.fibers.back().context.stack), stack_bytes);
    m.fibers.pop_back();
  }
  while (m.fibers.size() < fibers) {
    m.fibers.emplace_back();
    m.fibers.back().context.stack = new_stack();
  }
  m.blocks.resize(shape.cluster);
  m.end_order = new_order();
  const unsigned clusters = shape.blocks / shape.cluster;
  const unsigned first = m.schedule == Schedule::shuffled ? static_cast<unsigned>(m.next_random() % clusters) : 0;
  for (unsigned i = 0; i < clusters; ++i) {
    const unsigned cluster = m.schedule == Schedule::reverse ? clusters - 1 - i : (first + i) % clusters;
    for (unsigned rank = 0; rank < shape.cluster; ++rank) {
      start_block(m.blocks[rank], rank, cluster * shape.cluster + rank);
    }
    m.cluster_order = new_order();
    m.alive = static_cast<unsigned>(fibers);
    m.at_cluster_barrier = m.cluster_round = 0;
    m.current = nullptr;
    m.current = next_ready();
    switch_context(m.host, m.current->context);
    m.current = nullptr;
    if (traffic.counting) traffic.flush();
    for (Block& block : m.blocks) end_block(block);
    end_fibers(fibers < max_tsan_fibers ? max_tsan_fibers - fibers : 0);
  }
  acquire(m.end_order);
  end_fibers(0);
  for (char* data : m.freed_at_the_end) std::free(data);
  m.freed_at_the_end.clear();
}

// Returns the name of the kernel that a launcher's closure calls: the first function whose address the closure
// contains.
inline std::string name_of_kernel(const void* closure, std::size_t bytes) {
  for (std::size_t at = 0; at + sizeof(void*) <= bytes; at += sizeof(void*)) {
    void* held = nullptr;
    std::memcpy(&held, static_cast<const char*>(closure) + at, sizeof(held));
    Dl_info found = {};
    if (held == nullptr || dladdr(held, &found) == 0 || found.dli_saddr != held) continue;
    int status = 0;
    char* name = abi::__cxa_demangle(found.dli_sname, nullptr, nullptr, &status);
    const std::string copy = status == 0 ? name : found.dli_sname;
    std::free(name);
    return copy;
  }
  return "unknown";
}

template <class Closure>
void launch(const Shape& shape, Closure closure) {
  if (traffic.counting) {
    traffic.started.push_back({name_of_kernel(&closure, sizeof(closure)), shape.blocks, shape.threads, shape.cluster, shape.dependent});
  }
  launch(shape, std::function<void()>(std::move(closure)));
}

}  // namespace emulator
