// Counter-based randomness: draw i of a stream is a pure function of (seed, i), so that any implementation replays it.
//
//     bits(seed, i) = mix(seed + (i + 1) * 0x9E3779B97F4A7C15)        (mod 2^64)
//     uniform       = (bits >> 11) * 2^-53                            in [0, 1)
//
// mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
#pragma once

#include <cstdint>

#include "memory/mix.h"

namespace bavt {

class CounterRng {
   public:
    explicit CounterRng(uint64_t seed, uint64_t drawn = 0) : seed_(seed), drawn_(drawn) {}

    double uniform() {
        ++drawn_;
        return static_cast<double>(mix64(seed_ + drawn_ * 0x9E3779B97F4A7C15ull) >> 11) * 0x1p-53;
    }
    uint64_t seed() const { return seed_; }
    uint64_t drawn() const { return drawn_; }

   private:
    uint64_t seed_;
    uint64_t drawn_;
};

}  // namespace bavt
