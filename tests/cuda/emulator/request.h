// The protocol between tests and an emulated op: a request on standard input, the reply on standard output.
// tests/cuda/emulated.py implements the other end.
//
// A request consists of lines `value NAME NUMBER`, `text NAME WORD`, `input NAME BYTES SHIFT` followed by the bytes,
// and `output NAME BYTES SHIFT`, and ends with the line `run`. The reply has `output NAME BYTES`, followed by the
// bytes, for each output, then `launches COUNT`. If traffic is counted, it also has `kernel BLOCKS THREADS CLUSTER
// DEPENDENT LOADED STORED NAME` for each launch and `site FILE LINE load|store REQUESTS ACCESSES ACCESS_BYTES BYTES
// SECTORS MIN_SECTORS` for each access to global memory.
//
// Each array has its own allocation, so the address sanitizer knows its bounds. It starts SHIFT bytes after a 256-byte
// boundary. Outputs are initialized with bytes of 0xff, which is NaN.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "machine.h"

namespace emulator {

class Request {
 public:
  bool read() {
    std::string kind, name;
    while (std::cin >> kind) {
      if (kind == "run") return true;
      std::cin >> name;
      if (kind == "value") {
        std::string number;  // read as text, as operator>> does not accept inf and nan
        std::cin >> number;
        values_[name] = number;
      } else if (kind == "text") {
        std::cin >> texts_[name];
      } else if (kind == "input" || kind == "output") {
        Array& array = arrays_[name];
        std::size_t shift = 0;
        std::cin >> array.bytes >> shift;
        std::cin.ignore(1);
        // The allocation ends with the array; only the shift comes before it.
        if (posix_memalign(&array.memory, 256, array.bytes + shift > 0 ? array.bytes + shift : 1) != 0) fail("out of memory");
        array.data = static_cast<char*>(array.memory) + shift;
        std::memset(array.memory, 0xff, array.bytes + shift);
        if (kind == "input") {
          std::cin.read(array.data, static_cast<std::streamsize>(array.bytes));
        } else {
          outputs_.push_back(name);
        }
      } else {
        fail("the request has an unknown line");
      }
    }
    return false;
  }

  std::int64_t integer(const std::string& name) const { return std::strtoll(value(name).c_str(), nullptr, 10); }
  double number(const std::string& name) const { return std::strtod(value(name).c_str(), nullptr); }
  bool has(const std::string& name) const { return arrays_.count(name) != 0; }
  std::string text(const std::string& name) const {
    const auto at = texts_.find(name);
    return at == texts_.end() ? "" : at->second;
  }

  // Returns null if the request has no array with that name.
  template <class T = void>
  T* array(const std::string& name) const {
    const auto at = arrays_.find(name);
    return at == arrays_.end() ? nullptr : reinterpret_cast<T*>(at->second.data);
  }

  void reply() const {
    for (const std::string& name : outputs_) {
      const Array& array = arrays_.at(name);
      std::cout << "output " << name << ' ' << array.bytes << '\n';
      std::cout.write(array.data, static_cast<std::streamsize>(array.bytes));
    }
    std::cout << "launches " << traffic.launches << '\n';
    for (const Started& of : traffic.started) {
      std::cout << "kernel " << of.blocks << ' ' << of.threads << ' ' << of.cluster << ' ' << of.dependent << ' ' << of.loaded << ' '
                << of.stored << ' ' << of.name << '\n';
    }
    for (const auto& [site, of] : traffic.sites) {
      std::cout << "site " << site.file << ' ' << site.line << (site.store ? " store " : " load ") << of.requests << ' '
                << of.accesses << ' ' << of.access_bytes << ' ' << of.bytes << ' ' << of.sectors << ' ' << of.min_sectors << '\n';
    }
  }

  void free_arrays() {
    for (const auto& [name, array] : arrays_) std::free(array.memory);
    arrays_.clear();
  }

 private:
  struct Array {
    void* memory = nullptr;
    char* data = nullptr;
    std::size_t bytes = 0;
  };

  const std::string& value(const std::string& name) const {
    const auto at = values_.find(name);
    if (at != values_.end()) return at->second;
    std::fprintf(stderr, "emulator: the request has no value called %s\n", name.c_str());
    fail("incomplete request");
  }

  std::map<std::string, std::string> values_, texts_;
  std::map<std::string, Array> arrays_;
  std::vector<std::string> outputs_;
};

// Reads one request, sets the schedule, calls run and replies. run returns null or the launcher's error.
inline int answer(const std::function<const char*(Request&)>& run) {
  Request request;
  if (!request.read()) fail("there is no request");
  const std::string schedule = request.text("schedule");
  machine.schedule = schedule == "reverse"       ? Schedule::reverse
                     : schedule == "shuffled"    ? Schedule::shuffled
                     : schedule == "interleaved" ? Schedule::interleaved
                                                 : Schedule::forward;
  if (request.text("count") == "traffic") traffic.start();
  const char* error = run(request);
  if (error != nullptr) fail(error);
  request.reply();
  request.free_arrays();
  return 0;
}

}  // namespace emulator
