// The open nodes of a tree in order of their weight, heaviest first and the oldest first among equals.
//
// A list of short sorted blocks of ids with a Fenwick tree over their sizes: insert, erase and look-up by rank take
// O(log n) plus a shift inside one block. An id costs 4 bytes plus what is free in its block. The ranking does not hold
// weights: the caller gives them with every call, as a function of the id, and must not change the weight of a node
// while it is in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "types.h"

namespace bavt {

class Ranking {
   public:
    size_t size() const { return size_; }

    template <typename Weight>
    void build(std::vector<NodeId> nodes, Weight weight) {
        std::sort(nodes.begin(), nodes.end(), Before<Weight>{weight});
        blocks_.clear();
        for (size_t begin = 0; begin < nodes.size(); begin += kBlockIds / 2) {
            const size_t end = std::min(begin + kBlockIds / 2, nodes.size());
            blocks_.push_back({{nodes.begin() + begin, nodes.begin() + end}, weight(nodes[end - 1]), nodes[end - 1]});
        }
        size_ = nodes.size();
        rebuild_counts();
    }

    template <typename Weight>
    void insert(NodeId node, Weight weight) {
        if (blocks_.empty()) {
            blocks_.push_back({{node}, weight(node), node});
            size_ = 1;
            return rebuild_counts();
        }
        const size_t index = std::min(block_of(node, weight(node)), blocks_.size() - 1);
        Block& block = blocks_[index];
        const auto place = std::lower_bound(block.ids.begin(), block.ids.end(), node, Before<Weight>{weight});
        if (place == block.ids.end()) block.last_weight = weight(node), block.last = node;
        block.ids.insert(place, node);
        ++size_;
        add_to_count(index, 1);
        if (block.ids.size() == kBlockIds) split(index, weight);
    }

    template <typename Weight>
    void erase(NodeId node, Weight weight) {
        const size_t index = block_of(node, weight(node));
        Block& block = blocks_[index];
        const auto place = std::lower_bound(block.ids.begin(), block.ids.end(), node, Before<Weight>{weight});
        const bool was_last = place + 1 == block.ids.end();
        block.ids.erase(place);
        --size_;
        if (block.ids.empty()) {
            blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(index));
            return rebuild_counts();
        }
        if (was_last) block.last = block.ids.back(), block.last_weight = weight(block.last);
        add_to_count(index, -1);
    }

    // The node of a rank from 0 to size() - 1.
    NodeId at(size_t rank) const {
        size_t index = 0;
        for (size_t step = top_step_; step > 0; step /= 2) {
            if (index + step <= blocks_.size() && counts_[index + step] <= rank) {
                index += step;
                rank -= counts_[index];
            }
        }
        return blocks_[index].ids[rank];
    }

   private:
    static constexpr size_t kBlockIds = 512;

    struct Block {
        std::vector<NodeId> ids;
        double last_weight;  // of the last id, so that finding a block reads no other memory
        NodeId last;
    };

    template <typename Weight>
    struct Before {
        Weight weight;
        bool operator()(NodeId a, NodeId b) const {
            const double wa = weight(a), wb = weight(b);
            return wa != wb ? wa > wb : a < b;
        }
    };

    // The first block whose last id is not before `node`.
    size_t block_of(NodeId node, double weight) const {
        const auto found = std::partition_point(blocks_.begin(), blocks_.end(), [&](const Block& block) {
            return block.last_weight != weight ? block.last_weight > weight : block.last < node;
        });
        return static_cast<size_t>(found - blocks_.begin());
    }

    template <typename Weight>
    void split(size_t index, Weight weight) {
        auto& ids = blocks_[index].ids;
        const auto middle = ids.begin() + kBlockIds / 2;
        Block upper{{middle, ids.end()}, blocks_[index].last_weight, blocks_[index].last};
        ids.erase(middle, ids.end());
        blocks_[index].last = ids.back();
        blocks_[index].last_weight = weight(ids.back());
        blocks_.insert(blocks_.begin() + static_cast<std::ptrdiff_t>(index) + 1, std::move(upper));
        rebuild_counts();
    }

    // counts_[i] holds the ids of the blocks (i - lowbit(i), i], counted from 1 (Fenwick 1994).
    void rebuild_counts() {
        counts_.assign(blocks_.size() + 1, 0);
        for (size_t i = 1; i <= blocks_.size(); ++i) {
            counts_[i] += static_cast<uint32_t>(blocks_[i - 1].ids.size());
            const size_t next = i + (i & (~i + 1));
            if (next <= blocks_.size()) counts_[next] += counts_[i];
        }
        top_step_ = 1;
        while (top_step_ * 2 <= blocks_.size()) top_step_ *= 2;
    }

    void add_to_count(size_t index, int delta) {
        for (size_t i = index + 1; i <= blocks_.size(); i += i & (~i + 1)) counts_[i] += static_cast<uint32_t>(delta);
    }

    std::vector<Block> blocks_;
    std::vector<uint32_t> counts_;
    size_t size_ = 0;
    size_t top_step_ = 0;
};

}  // namespace bavt
