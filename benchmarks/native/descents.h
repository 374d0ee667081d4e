// The floors of a uct simulation: the descents of a search that is over, with every choice known beforehand.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "simulate.h"
#include "tree/tree.h"

namespace bench {

class KnownDescents {
   public:
    KnownDescents(size_t n, const double* values) : tree_(bavt::TreeOptions{}) {
        std::vector<bavt::NodeId> leaves;
        simulate_uct(tree_, n, values, &leaves);
        for (const bavt::NodeId leaf : leaves) {
            const auto begin = static_cast<std::ptrdiff_t>(steps_.size());
            for (bavt::NodeId node = leaf; node != bavt::kNone; node = tree_.parents()[node]) steps_.push_back(node);
            std::reverse(steps_.begin() + begin, steps_.end());
            ends_.push_back(steps_.size());
        }
        records_.resize(tree_.num_nodes());
    }

    // Dependent loads, no scoring: one 16-byte record per node of a descent, as wide as the tree's hot part.
    uint32_t follow() const {
        uint32_t zero = 0;  // what every record holds: it chains each load to the one before, as in a search
        size_t step = 0;
        for (const size_t end : ends_) {
            for (; step < end; ++step) zero = records_[steps_[step] + zero].next;
        }
        return zero;
    }

    // A plain read of as many bytes as the descents score: a block of siblings for every step below the root, but front
    // to back over the tree's hot part, round and round.
    uint64_t read() const {
        const auto* words = reinterpret_cast<const uint64_t*>(tree_.hot());
        const size_t length = size_t{tree_.num_nodes()} * sizeof(bavt::Hot) / sizeof(uint64_t);
        uint64_t sum = 0;
        for (size_t left = bytes_scored() / sizeof(uint64_t); left > 0;) {
            const size_t count = std::min(left, length);
            for (size_t i = 0; i < count; ++i) sum += words[i];
            left -= count;
        }
        return sum;
    }

    size_t bytes_scored() const { return (steps_.size() - ends_.size()) * kBranching * sizeof(bavt::Hot); }

   private:
    struct Record {
        uint64_t padding;
        uint32_t next, end;
    };
    static_assert(sizeof(Record) == sizeof(bavt::Hot));

    bavt::Tree tree_;
    std::vector<Record> records_;
    std::vector<bavt::NodeId> steps_;  // the nodes of all descents, each from the root to its leaf
    std::vector<size_t> ends_;         // where in `steps_` each descent ends
};

}  // namespace bench
