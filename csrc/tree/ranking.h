// The open nodes of a tree in order of their weight, heaviest first and the oldest first among equals.
//
// Short sorted blocks of ids, and a directory of them: the weight and id that each block ends with, how many ids it
// holds, and sums of those over spans of 32 blocks in a Fenwick tree (Fenwick 1994). Insert, erase and look-up by rank
// take O(log n) plus a shift inside one block. An id costs 4 bytes plus what is free in its block, a fifth as a rule. The
// ranking does not hold weights: the caller gives them with every call, as a function of the id, and must not change the
// weight of a node while it is in.
//
//     directory   last_weight  [ 0.93   0.88   0.71 ... ]     ends of the blocks: finding one reads no other memory
//                 sizes        [  311    402    256 ... ]     spans of 32 sizes, a cache line
//     blocks      ids          [ 17 4 90 ... ]                in an arena, in huge pages once it is large
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

#include "memory/reservation.h"
#include "tree/types.h"

namespace bavt {

class Ranking {
   public:
    // A rank's node, and what its weight is at most and at least: often enough to know without looking at the node.
    struct Found {
        const NodeId* node;
        double most, least;
    };

    size_t size() const { return size_; }

    struct Item {
        double weight;
        NodeId node;
    };

    void build(std::vector<Item> items) {
        std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
            return a.weight != b.weight ? a.weight > b.weight : a.node < b.node;
        });
        for (size_t begin = 0; begin < items.size(); begin += kRoomy) {
            const size_t count = std::min<size_t>(kRoomy, items.size() - begin);
            NodeId* ids = arena_.take();
            for (size_t i = 0; i < count; ++i) ids[i] = items[begin + i].node;
            add_block(blocks_.size(), ids, count, items[begin + count - 1].weight);
        }
        size_ = items.size();
        sum_spans();
    }

    template <typename Weight>
    void insert(NodeId node, Weight weight) {
        const double own = weight(node);
        if (blocks_.empty()) {
            add_block(0, arena_.take(), 0, own);
            sum_spans();
        }
        const size_t index = std::min(block_of(node, own), blocks_.size() - 1);
        NodeId* ids = blocks_[index];
        const size_t size = sizes_[index];
        const auto place = static_cast<size_t>(std::lower_bound(ids, ids + size, node, Before<Weight>{weight}) - ids);
        std::copy_backward(ids + place, ids + size, ids + size + 1);
        ids[place] = node;
        if (place == size) last_weight_[index] = own, last_[index] = node;
        ++sizes_[index];
        ++size_;
        add_to_span(index, 1);
        if (size + 1 == kBlockIds) make_space(index, weight);
    }

    template <typename Weight>
    void erase(NodeId node, Weight weight) {
        const size_t index = block_of(node, weight(node));
        NodeId* ids = blocks_[index];
        NodeId* end = ids + sizes_[index];
        NodeId* place = std::find(ids, end, node);
        std::copy(place + 1, end, place);
        --sizes_[index];
        --size_;
        add_to_span(index, -1);
        if (sizes_[index] == 0) return drop_block(index);
        if (place + 1 == end) last_[index] = place[-1], last_weight_[index] = weight(place[-1]);
        if (sizes_[index] == kBlockIds / 4) {
            if (merge(index) || index == 0) return;
            merge(index - 1);
        }
    }

    // What is at a rank from 0 to size() - 1.
    NodeId at(size_t rank) const {
        const auto [index, place] = block_of_rank(rank);
        return blocks_[index][place];
    }
    Found find(size_t rank) const {
        const auto [index, place] = block_of_rank(rank);
        return {&blocks_[index][place], index == 0 ? kNoBound : last_weight_[index - 1], last_weight_[index]};
    }

   private:
    static constexpr uint32_t kBlockIds = 512;
    static constexpr uint32_t kRoomy = kBlockIds / 4 * 3;  // ids of a block that can still take some of its neighbour's
    static constexpr size_t kSpan = 32;                    // blocks
    static constexpr double kNoBound = std::numeric_limits<double>::infinity();

    // Blocks of kBlockIds ids, in chunks that double; what is given back is taken first.
    class Arena {
       public:
        NodeId* take() {
            if (free_.empty()) add_chunk();
            NodeId* block = free_.back();
            free_.pop_back();
            return block;
        }
        void give(NodeId* block) { free_.push_back(block); }

       private:
        struct Free {
            void operator()(NodeId* memory) const { std::free(memory); }
        };
        void add_chunk() {
            const size_t blocks = std::max<size_t>(blocks_, 1), bytes = blocks * kBlockIds * sizeof(NodeId);
            const bool huge = bytes >= Reservation::kHugePage;
            void* memory = huge ? std::aligned_alloc(Reservation::kHugePage, bytes) : std::malloc(bytes);
            if (memory == nullptr) throw std::bad_alloc();
            chunks_.emplace_back(static_cast<NodeId*>(memory));
            if (huge) Reservation::prefer_huge_pages(static_cast<char*>(memory), static_cast<char*>(memory) + bytes);
            blocks_ += blocks;
            for (size_t i = blocks; i-- > 0;) free_.push_back(chunks_.back().get() + i * kBlockIds);
        }

        std::vector<std::unique_ptr<NodeId[], Free>> chunks_;
        std::vector<NodeId*> free_;
        size_t blocks_ = 0;
    };

    template <typename Weight>
    struct Before {
        Weight weight;
        bool operator()(NodeId a, NodeId b) const {
            const double wa = weight(a), wb = weight(b);
            return wa != wb ? wa > wb : a < b;
        }
    };

    // The first block whose last id is not before `node`; without a branch on weights, which cannot be predicted.
    size_t block_of(NodeId node, double weight) const {
        size_t first = 0;
        for (size_t left = blocks_.size(); left > 0;) {
            const size_t half = (left + 1) / 2;
            const double last = last_weight_[first + half - 1];
            const bool before = (last > weight) | ((last == weight) & (last_[first + half - 1] < node));
            first += before ? half : 0;
            left = before ? left - half : half - 1;
        }
        return first;
    }

    // Which block holds a rank, and the rank in it.
    std::pair<size_t, size_t> block_of_rank(size_t rank) const {
        if (rank < sizes_[0]) return {0, rank};
        size_t span = 0;
        for (size_t step = top_step_; step > 0; step /= 2) {
            if (span + step < spans_.size() && spans_[span + step] <= rank) {
                span += step;
                rank -= spans_[span];
            }
        }
        size_t index = span * kSpan;
        for (; rank >= sizes_[index]; ++index) rank -= sizes_[index];
        return {index, rank};
    }

    void add_block(size_t index, NodeId* ids, size_t size, double last_weight) {
        const auto at = static_cast<std::ptrdiff_t>(index);
        blocks_.insert(blocks_.begin() + at, ids);
        sizes_.insert(sizes_.begin() + at, static_cast<uint16_t>(size));
        last_weight_.insert(last_weight_.begin() + at, last_weight);
        last_.insert(last_.begin() + at, size > 0 ? ids[size - 1] : kNone);
    }

    // Puts the next block's ids behind this one's, where both together leave room.
    bool merge(size_t index) {
        if (index + 1 >= blocks_.size() || sizes_[index] + sizes_[index + 1] > kRoomy) return false;
        std::copy_n(blocks_[index + 1], sizes_[index + 1], blocks_[index] + sizes_[index]);
        sizes_[index] = static_cast<uint16_t>(sizes_[index] + sizes_[index + 1]);
        last_[index] = last_[index + 1];
        last_weight_[index] = last_weight_[index + 1];
        drop_block(index + 1);
        return true;
    }

    void drop_block(size_t index) {
        const auto at = static_cast<std::ptrdiff_t>(index);
        arena_.give(blocks_[index]);
        blocks_.erase(blocks_.begin() + at);
        sizes_.erase(sizes_.begin() + at);
        last_weight_.erase(last_weight_.begin() + at);
        last_.erase(last_.begin() + at);
        sum_spans();
    }

    // Of a block that is full: a neighbour takes some of it, or it becomes two. So blocks are four fifths full on average.
    template <typename Weight>
    void make_space(size_t index, Weight weight) {
        if (index + 1 < blocks_.size() && sizes_[index + 1] <= kRoomy) {
            balance(index, weight);
        } else if (index > 0 && sizes_[index - 1] <= kRoomy) {
            balance(index - 1, weight);
        } else {
            split(index, weight);
        }
    }

    // Makes a block and the next one equally full.
    template <typename Weight>
    void balance(size_t index, Weight weight) {
        NodeId *left = blocks_[index], *right = blocks_[index + 1];
        const int sizes[2] = {sizes_[index], sizes_[index + 1]};
        const int wanted = (sizes[0] + sizes[1]) / 2, moved = wanted - sizes[0];  // from right to left
        if (moved > 0) {
            std::copy_n(right, moved, left + sizes[0]);
            std::copy(right + moved, right + sizes[1], right);
        } else {
            std::copy_backward(right, right + sizes[1], right + sizes[1] - moved);
            std::copy_n(left + wanted, -moved, right);
        }
        sizes_[index] = static_cast<uint16_t>(wanted);
        sizes_[index + 1] = static_cast<uint16_t>(sizes[1] - moved);
        last_[index] = left[wanted - 1];
        last_weight_[index] = weight(last_[index]);
        add_to_span(index, moved);
        add_to_span(index + 1, -moved);
    }

    template <typename Weight>
    void split(size_t index, Weight weight) {
        constexpr uint32_t kHalf = kBlockIds / 2;
        NodeId* ids = blocks_[index];
        NodeId* upper = arena_.take();
        std::copy_n(ids + kHalf, kHalf, upper);
        add_block(index + 1, upper, kHalf, last_weight_[index]);
        sizes_[index] = kHalf;
        last_[index] = ids[kHalf - 1];
        last_weight_[index] = weight(last_[index]);
        sum_spans();
    }

    // spans_[i] holds the ids of the spans (i - lowbit(i), i], counted from 1.
    void sum_spans() {
        const size_t spans = (sizes_.size() + kSpan - 1) / kSpan;
        spans_.assign(spans + 1, 0);
        for (size_t i = 1; i <= spans; ++i) {
            const auto begin = sizes_.begin() + static_cast<std::ptrdiff_t>((i - 1) * kSpan);
            const auto end = i < spans ? begin + kSpan : sizes_.end();
            spans_[i] += std::accumulate(begin, end, 0u);
            const size_t next = i + (i & (~i + 1));
            if (next <= spans) spans_[next] += spans_[i];
        }
        top_step_ = 1;
        while (top_step_ * 2 <= spans) top_step_ *= 2;
    }

    void add_to_span(size_t index, int delta) {
        for (size_t i = index / kSpan + 1; i < spans_.size(); i += i & (~i + 1)) {
            spans_[i] += static_cast<uint32_t>(delta);
        }
    }

    Arena arena_;
    std::vector<NodeId*> blocks_;
    std::vector<uint16_t> sizes_;
    std::vector<double> last_weight_;
    std::vector<NodeId> last_;
    std::vector<uint32_t> spans_;
    size_t size_ = 0;
    size_t top_step_ = 1;
};

}  // namespace bavt
