// A piece of the ranking (ranking.h): the ids of up to 64 nodes, heaviest first, and beside them a key of each weight, so
// that a search reads eight cache lines that follow each other and no node.
//
// A key is a weight cut to 32 bits in a way that keeps the order: 26 bits of its fraction, and 64 powers of two from 2^-44
// on. A tree of a million nodes has few ties of keys. What they leave open the weights themselves decide, and ids
// where these are equal; lighter and heavier weights share the first and the last key, and are right but slower.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "tree/types.h"

namespace bavt {

using RankKey = int32_t;  // signed: what a portable build can compare four at a time

namespace rank_key {

constexpr uint64_t kLightest = uint64_t{1023 - 44} << 52;  // the bits of 2^-44
constexpr int kDropped = 26;                               // bits
constexpr uint32_t kHeaviest = 0xFFFFFFFFu;
constexpr uint32_t kSign = 0x80000000u;

inline RankKey of(double weight) {
    uint64_t bits;
    std::memcpy(&bits, &weight, sizeof(bits));
    const uint64_t above = (bits > kLightest ? bits - kLightest : 0) >> kDropped;
    return static_cast<RankKey>(static_cast<uint32_t>(std::min<uint64_t>(above, kHeaviest)) ^ kSign);
}

inline double weight_at(uint64_t step) {
    const uint64_t bits = kLightest + (step << kDropped);
    double weight;
    std::memcpy(&weight, &bits, sizeof(weight));
    return weight;
}

// What a weight of this key is at least, and at most.
inline double least(RankKey key) {
    const uint32_t step = static_cast<uint32_t>(key) ^ kSign;
    return step == 0 ? 0.0 : weight_at(step);
}
inline double most(RankKey key) {
    const uint32_t step = static_cast<uint32_t>(key) ^ kSign;
    return step == kHeaviest ? std::numeric_limits<double>::infinity() : weight_at(uint64_t{step} + 1);
}

}  // namespace rank_key

struct alignas(64) RankLeaf {
    static constexpr uint32_t kRoom = 64;
    static constexpr RankKey kNoKey = std::numeric_limits<RankKey>::min();  // of unused entries: not above any key

    RankKey keys[kRoom];
    NodeId ids[kRoom];

    void clear() { std::fill_n(keys, kRoom, kNoKey); }

    // How many nodes come before one of weight `own` that is not in the leaf, or is about to leave it. All weights in the
    // leaf are between `most` and `least`.
    template <typename Weight>
    uint32_t place_for(NodeId node, double own, double most, double least, uint32_t size, Weight weight) const {
        const RankKey key = rank_key::of(own);
        const uint32_t first = count_above(key);
        if (first >= size || keys[first] != key) return first;
        const NodeId* begin = ids + first;
        const NodeId* end = begin + 1;
        while (end < ids + size && keys[end - ids] == key) ++end;
        if (most == own && least == own) return static_cast<uint32_t>(std::lower_bound(begin, end, node) - ids);
        const auto before = [&](NodeId other, NodeId) {
            const double its = weight(other);
            return its != own ? its > own : other < node;
        };
        if (before(end[-1], node)) return static_cast<uint32_t>(end - ids);  // a new node among equals
        return static_cast<uint32_t>(std::lower_bound(begin, end, node, before) - ids);
    }

    uint32_t place_of(NodeId node, double own) const {
        uint32_t place = count_above(rank_key::of(own));
        while (ids[place] != node) ++place;
        return place;
    }

    void put(uint32_t place, uint32_t size, NodeId node, double own) {
        std::copy_backward(keys + place, keys + size, keys + size + 1);
        std::copy_backward(ids + place, ids + size, ids + size + 1);
        keys[place] = rank_key::of(own);
        ids[place] = node;
    }

    void take(uint32_t place, uint32_t size) {
        std::copy(keys + place + 1, keys + size, keys + place);
        std::copy(ids + place + 1, ids + size, ids + place);
        keys[size - 1] = kNoKey;
    }

    // Puts `count` entries of another leaf, from `from` on, behind the `size` that are here.
    void append(uint32_t size, const RankLeaf& other, uint32_t from, uint32_t count) {
        std::copy_n(other.keys + from, count, keys + size);
        std::copy_n(other.ids + from, count, ids + size);
    }

    // Moves all entries `by` places back, or forward over the first ones where it is negative.
    void shift(uint32_t size, int by) {
        if (by >= 0) {
            std::copy_backward(keys, keys + size, keys + size + by);
            std::copy_backward(ids, ids + size, ids + size + by);
        } else {
            std::copy(keys - by, keys + size, keys);
            std::copy(ids - by, ids + size, ids);
            cut(static_cast<uint32_t>(static_cast<int>(size) + by));
        }
    }

    // Keeps the first entries.
    void cut(uint32_t size) { std::fill(keys + size, keys + kRoom, kNoKey); }

   private:
    // Of all keys, without a branch: neither the compiler nor the processor has to guess where to stop.
    uint32_t count_above(RankKey key) const {
        int32_t count = 0;
        for (uint32_t i = 0; i < kRoom; ++i) count += keys[i] > key;
        return static_cast<uint32_t>(count);
    }
};
static_assert(sizeof(RankLeaf) == 512, "eight cache lines");

}  // namespace bavt
