// The plain flat-array loop that the tree core is timed against: one struct of arrays in std::vectors, a division, a
// logarithm and a square root per child, children found by first id and count.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace bench {

class FlatTree {
   public:
    FlatTree() { add(0xFFFFFFFFu, 1.0); }

    uint32_t select(double exploration) const {
        uint32_t node = 0;
        while (count[node] != 0) {
            const double log_parent = std::log(static_cast<double>(visits[node]));
            uint32_t best = first[node];
            double best_score = -std::numeric_limits<double>::infinity();
            for (uint32_t child = first[node]; child < first[node] + count[node]; ++child) {
                if (visits[child] == 0) {
                    best = child;
                    break;
                }
                const double score =
                    value_sum[child] / visits[child] + exploration * std::sqrt(log_parent / visits[child]);
                if (score > best_score) {
                    best_score = score;
                    best = child;
                }
            }
            node = best;
        }
        return node;
    }

    uint32_t expand(uint32_t node, const double* values, uint32_t n) {
        first[node] = static_cast<uint32_t>(visits.size());
        count[node] = n;
        for (uint32_t i = 0; i < n; ++i) add(node, values[i]);
        return first[node];
    }

    void backup(uint32_t node, double value) {
        for (; node != 0xFFFFFFFFu; node = parent[node]) {
            value_sum[node] += value;
            ++visits[node];
        }
    }

   private:
    void add(uint32_t above, double v) {
        value_sum.push_back(0.0);
        value.push_back(v);
        visits.push_back(0);
        parent.push_back(above);
        first.push_back(0);
        count.push_back(0);
    }

    std::vector<double> value_sum, value;
    std::vector<uint32_t> visits, parent, first, count;
};

}  // namespace bench
