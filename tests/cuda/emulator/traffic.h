// Counts the accesses of kernels to global memory as the hardware does: by 32-byte sectors of each warp's request.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

constexpr std::uint64_t sector_bytes = 32;

// A line of a kernel that accesses global memory.
struct Site {
  const char* file;
  int line;
  bool store;
  bool operator<(const Site& other) const {
    if (file != other.file) return file < other.file;
    return line != other.line ? line < other.line : store < other.store;
  }
};

struct SiteTraffic {
  std::uint64_t requests = 0;  // warp instructions
  std::uint64_t accesses = 0, access_bytes = 0;  // of individual threads
  std::uint64_t bytes = 0, sectors = 0;          // of requests; bytes that several lanes access count once
  std::uint64_t min_sectors = 0;               // that the bytes of each request would fill if they were contiguous
};

// A kernel launch.
struct Started {
  std::string name;  // demangled, with parameter types
  unsigned blocks, threads, cluster;
  bool dependent;
  std::uint64_t loaded = 0, stored = 0;  // bytes, as SiteTraffic counts them
};

// Combines the accesses of the threads of a warp into requests. On a GPU the threads execute together, here one after
// another; the n-th accesses of all threads at one place of the program are one request.
class Traffic {
 public:
  bool counting = false;
  std::uint64_t launches = 0;
  std::map<Site, SiteTraffic> sites;
  std::vector<Started> started;  // while counting

  void start() {
    counting = true;
    launches = 0;
    sites.clear();
    started.clear();
  }

  // `place` identifies the instruction, `site` is its source line.
  void count(unsigned warp, unsigned lane, const void* place, const Site& site, const void* address, std::uint32_t bytes) {
    if (warp >= warps_.size()) warps_.resize(warp + 1);
    Place& at = warps_[warp][place];
    at.site = site;
    at.lanes[lane].push_back({reinterpret_cast<std::uint64_t>(address), bytes});
  }

  // Called when the blocks that ran have ended.
  void flush() {
    for (auto& warp : warps_) {
      for (auto& [place, at] : warp) add(at);
      warp.clear();
    }
  }

 private:
  struct Access {
    std::uint64_t address;
    std::uint32_t bytes;
  };
  struct Place {
    Site site = {};
    std::vector<Access> lanes[32];
  };

  void add(const Place& at) {
    SiteTraffic& total = sites[at.site];
    std::size_t longest = 0;
    for (const auto& lane : at.lanes) longest = std::max(longest, lane.size());
    std::vector<Access> request;
    for (std::size_t n = 0; n < longest; ++n) {
      request.clear();
      for (const auto& lane : at.lanes) {
        if (n < lane.size()) request.push_back(lane[n]);
      }
      std::sort(request.begin(), request.end(), [](const Access& a, const Access& b) { return a.address < b.address; });
      std::uint64_t bytes = 0, sectors = 0, seen = 0, next_sector = 0;  // addresses below `seen` are counted
      for (const Access& access : request) {
        const std::uint64_t end = access.address + access.bytes;
        total.access_bytes += access.bytes;
        if (end > seen) bytes += end - std::max(seen, access.address);
        seen = std::max(seen, end);
        const std::uint64_t first = std::max(next_sector, access.address / sector_bytes);
        const std::uint64_t after = (end - 1) / sector_bytes + 1;
        if (after > first) sectors += after - first;
        next_sector = std::max(next_sector, after);
      }
      ++total.requests;
      total.accesses += request.size();
      total.bytes += bytes;
      (at.site.store ? started.back().stored : started.back().loaded) += bytes;
      total.sectors += sectors;
      total.min_sectors += (bytes + sector_bytes - 1) / sector_bytes;
    }
  }

  std::vector<std::map<const void*, Place>> warps_;
};

inline Traffic traffic;

}  // namespace emulator
