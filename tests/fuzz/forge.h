// Snapshots as a forger makes them, for the fuzzers: whatever bytes a mutation left are made into a snapshot that gets
// past the checksum, so that the checks behind it meet them. Which fields are repaired too is drawn anew each time: every
// check must be passed and be failed. The layouts are those of csrc/tree/snapshot.cpp and forest_snapshot.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "memory/checksum.h"
#include "tree/types.h"

namespace forge {

struct TreeHeader {
    char magic[8];
    uint32_t version, num_nodes, max_nodes;
    uint16_t has_priors, has_weights;
    uint64_t seed, drawn;
    double decay;
};

struct ForestHeader {
    char magic[8];
    uint32_t version, num_slots, max_nodes, reserved;
    uint64_t seed, trees_made, turn;
    double decay, root_value;
};

struct Entry {
    uint64_t state, size;
};

inline constexpr uint32_t kTreeVersion = 3, kForestVersion = 2;
inline constexpr size_t kSum = sizeof(uint64_t);
inline constexpr size_t kNode = 30, kPrior = 4, kWeight = 8;
inline constexpr size_t kSmallestTree = sizeof(TreeHeader) + kNode + kPrior + kWeight + kSum;

inline size_t bytes_per_node(const TreeHeader& header) {
    return kNode + (header.has_priors != 0 ? kPrior : 0) + (header.has_weights != 0 ? kWeight : 0);
}

class Draws {
   public:
    explicit Draws(uint64_t seed) : state_(seed) {}
    uint64_t next() { return bavt::mix64(state_ += 0x9E3779B97F4A7C15ull); }
    uint64_t below(uint64_t limit) { return next() % limit; }
    bool usually() { return below(8) != 0; }
    double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

   private:
    uint64_t state_;
};

template <typename T>
T get(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

template <typename T>
void set(uint8_t* at, T value) {
    std::memcpy(at, &value, sizeof value);
}

// Writes the checksum of [begin, end) behind it.
inline void seal(const uint8_t* begin, uint8_t* end) {
    bavt::Checksum sum;
    sum.add(reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin));
    set(end, sum.value());
}

inline void repair_links(uint8_t* parents, uint8_t* flags, uint32_t nodes, Draws& draws) {
    const bool mask = draws.usually(), order = draws.usually(), ends = draws.usually(), pruned = draws.usually();
    const bool near = draws.below(2) == 0;  // blocks of siblings, not only single children
    for (uint32_t i = 0; i < nodes && mask; ++i) flags[i] &= bavt::kAllFlags;
    if (order) set(parents, bavt::kNone);
    for (uint32_t i = 1; i < nodes && order; ++i) {
        const auto parent = get<uint32_t>(parents + 4 * i);
        if (parent >= i)
            set(parents + 4 * i, near ? std::min(get<uint32_t>(parents + 4 * (i - 1)), i - 1) : parent % i);
        const auto above = get<uint32_t>(parents + 4 * i);
        if (ends) flags[above] &= static_cast<uint8_t>(~bavt::kTerminal);
        if (pruned && (flags[above] & bavt::kPruned) != 0) flags[i] |= bavt::kPruned;
    }
}

// Makes a tree of at least kSmallestTree bytes at `data`; returns its size, at most `size`.
inline size_t repair_tree(uint8_t* data, size_t size, Draws& draws) {
    auto header = get<TreeHeader>(data);
    if (draws.usually()) std::memcpy(header.magic, "BAVTTREE", 8), header.version = kTreeVersion;
    if (draws.usually()) header.has_priors &= 1, header.has_weights &= 1;
    const auto nodes = static_cast<uint32_t>((size - sizeof header - kSum) / bytes_per_node(header));
    if (draws.usually()) header.num_nodes = nodes;
    if (draws.usually() && (header.max_nodes < nodes || header.max_nodes > bavt::kMaxNodes)) {
        header.max_nodes = nodes + header.max_nodes % 64;
    }
    if (draws.usually() && !(header.decay > 0.0 && header.decay <= 1.0)) header.decay = 0.85;
    set(data, header);
    uint8_t* at = data + sizeof header;
    const bool sums = draws.usually(), values = draws.usually(), priors = draws.usually(), weights = draws.usually();
    for (uint32_t i = 0; i < nodes; ++i, at += 16) {
        if (sums && std::isnan(get<double>(at))) set(at, 0.5);
    }
    for (uint32_t i = 0; i < nodes; ++i, at += 8) {
        if (values && !std::isfinite(get<double>(at))) set(at, draws.unit());
    }
    uint8_t* const parents = at;
    at += 4 * nodes;
    for (uint32_t i = 0; i < nodes && header.has_priors != 0; ++i, at += 4) {
        const auto prior = get<float>(at);
        if (priors && !(prior >= 0.0f && std::isfinite(prior))) set(at, 0.25f);
    }
    for (uint32_t i = 0; i < nodes && header.has_weights != 0; ++i, at += 8) {
        if (weights && !std::isfinite(get<double>(at))) set(at, draws.unit());
    }
    repair_links(parents, at + nodes, nodes, draws);
    at += 2 * nodes;
    if (draws.usually()) seal(data, at);
    return static_cast<size_t>(at - data) + kSum;
}

// Gives a tree what must be as in its forest.
inline void join(uint8_t* tree, size_t size, const ForestHeader& forest) {
    auto header = get<TreeHeader>(tree);
    header.max_nodes = forest.max_nodes;
    header.decay = forest.decay;
    set(tree, header);
    seal(tree, tree + size - kSum);
}

inline size_t repair_forest(uint8_t* data, size_t size, Draws& draws) {
    constexpr uint64_t kDropped = 2;
    auto header = get<ForestHeader>(data);
    if (draws.usually()) std::memcpy(header.magic, "BAVTFRST", 8), header.version = kForestVersion, header.reserved = 0;
    const size_t fit = (size - sizeof header - kSum) / sizeof(Entry);
    header.num_slots = static_cast<uint32_t>(std::min<size_t>(header.num_slots % 9, fit));
    if (draws.usually()) header.turn %= std::max(header.num_slots, 1u);
    if (draws.usually() && (header.max_nodes < 1 || header.max_nodes > bavt::kMaxNodes)) {
        header.max_nodes = 1 + header.max_nodes % 300;
    }
    if (draws.usually() && !(header.decay > 0.0 && header.decay <= 1.0)) header.decay = 0.5;
    if (draws.usually() && !std::isfinite(header.root_value)) header.root_value = 1.0;
    set(data, header);
    uint8_t* const directory = data + sizeof header;
    uint8_t* const front_end = directory + header.num_slots * sizeof(Entry);
    uint8_t* at = front_end + kSum;
    for (uint32_t slot = 0; slot < header.num_slots; ++slot) {
        auto entry = get<Entry>(directory + slot * sizeof(Entry));
        const auto left = static_cast<size_t>(data + size - at);
        if (draws.usually()) entry.state %= kDropped + 1;
        if (left < kSmallestTree) entry.state = kDropped;
        if (entry.state == kDropped) {
            if (draws.usually()) entry.size = 0;
        } else {
            entry.size = repair_tree(at, std::clamp<size_t>(entry.size, kSmallestTree, left), draws);
            if (draws.usually()) join(at, entry.size, header);
            at += entry.size;
        }
        set(directory + slot * sizeof(Entry), entry);
    }
    if (draws.usually()) seal(data, front_end);
    return static_cast<size_t>(at - data);
}

}  // namespace forge
