// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits in which every bit counts.
#pragma once

#include <cstdint>

namespace bavt {

inline uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

}  // namespace bavt
