// What the fuzz targets share.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <cstdlib>

#include "forge.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace fuzz {

inline forge::Draws draws_of(const uint8_t* data, size_t size) {
    bavt::Checksum sum;
    sum.add(reinterpret_cast<const char*>(data), size);
    return forge::Draws(sum.value());
}

// Counts inputs that were loaded and used; says so at the end, which run.sh reads: a fuzzer that gets past no check is
// of no use.
inline void count(bool loaded) {
    static uint64_t used = 0, all = 0;
    static const bool registered [[maybe_unused]] =
        std::atexit([] { std::fprintf(stderr, "used %" PRIu64 " of %" PRIu64 " inputs\n", used, all); }) == 0;
    ++all;
    used += loaded;
}

// Mutates, and as a rule repairs: what is shorter than `smallest` is filled up with zeros.
template <typename Repair>
size_t mutate(uint8_t* data, size_t size, size_t max_size, unsigned seed, size_t smallest, Repair repair) {
    forge::Draws draws(seed);
    size = LLVMFuzzerMutate(data, size, max_size);
    if (draws.below(16) == 0 || max_size < smallest) return size;
    if (size < smallest) {
        std::memset(data + size, 0, smallest - size);
        size = smallest;
    }
    return repair(data, size, draws);
}

}  // namespace fuzz
