// A draw from P(node) proportional to weight(node)^s over a ranking, exact for any s > 0 and any weights, at a cost that
// does not depend on s and hardly on the number of nodes. No overflow: only ratios to the heaviest weight are raised.
//
// Let b(rank) = (weight(rank) / weight(0))^s, which falls with the rank. The ranks are cut into groups that start at 0
// and at powers of 4, and each group is given the mass size * b(first rank), at least what its nodes weigh together:
//
//     [ head: ranks whose b is near 1 ) [ 4^k, 4^(k+1) ) [ 4^(k+1), ... ) ... [ tail, once its mass hardly matters )
//
// A group is drawn by mass and a node of it uniformly, and the node is taken with probability b(node) / b(first), else
// the draw is repeated: rejection sampling (von Neumann 1951). A group's first weight is at most 4 group-lengths above
// its nodes in rank, so the masses exceed the true total by a bounded factor whatever the weights are (Cauchy
// condensation): a handful of tries at worst, between one and two as a rule.
//
// Each test is first made on the bounds that the ranking keeps of a rank's weight: those of its leaf, then those of its key.
// They settle nearly all of them, so that most ranks are passed by without a look at their leaves, and hardly one with a
// look at its node.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "tree/ranking.h"
#include "tree/rng.h"

namespace bavt {

template <typename Weight>
class PowerSampler {
   public:
    PowerSampler(const Ranking& ranking, Weight weight, double exponent)
        : ranking_(ranking),
          weight_(weight),
          exponent_(exponent),
          heaviest_(weight(ranking.at(0))),
          slack_(kRounding + kRounding / exponent) {
        cut_into_groups();
    }

    NodeId draw(CounterRng& rng) const {
        for (;;) {
            double target = rng.uniform() * total_mass_;
            size_t g = 0;
            while (g + 1 < num_groups_ && target >= groups_[g].mass) target -= groups_[g++].mass;
            const Group& group = groups_[g];
            // Rounding can leave a target above the mass of a group, and a tiny bound: the quotient is cut before it is cast.
            const auto last = static_cast<double>(group.size - 1);
            const auto offset = static_cast<size_t>(std::min(target / group.bound, last));
            const Ranking::Entry found = ranking_.find(group.begin + offset);
            __builtin_prefetch(found.key);
            __builtin_prefetch(found.node);
            const double height = rng.uniform() * group.bound;
            if (is_above(found, height, heaviest_ * std::pow(height, 1.0 / exponent_))) return *found.node;
        }
    }

   private:
    static constexpr size_t kFactor = 4;
    static constexpr double kRounding = 1e-12;  // thousands of times what quotients and powers are off by
    static constexpr double kSafe = 1e-290;     // numbers above it are far from where precision ends
    static constexpr size_t kMaxGroups = 16;    // 4^14 > 2 * kMaxNodes

    struct Group {
        size_t begin, size;
        double bound, mass;
    };

    // (weight / heaviest)^s, in [0, 1].
    double relative(double weight) const { return weight == heaviest_ ? 1.0 : std::pow(weight / heaviest_, exponent_); }

    // Whether relative(node) > height, where (weight / heaviest)^s is about that. What the bounds of the leaf say, and then
    // those of the key, is believed where rounding cannot matter.
    bool is_above(const Ranking::Entry& found, double height, double weight) const {
        if (height > kSafe && weight > kSafe) {
            const double clear = weight * (1.0 + slack_), low = weight * (1.0 - slack_);
            if (found.least > clear) return true;
            if (found.most < low) return false;
            if (rank_key::least(*found.key) > clear) return true;
            if (rank_key::most(*found.key) < low) return false;
        }
        return relative(weight_(*found.node)) > height;
    }

    void add(size_t begin, size_t end, double bound) {
        const double mass = static_cast<double>(end - begin) * bound;
        groups_[num_groups_++] = {begin, end - begin, bound, mass};
        total_mass_ += mass;
    }

    void cut_into_groups() {
        const size_t n = ranking_.size();
        size_t begin = head_size(n);
        add(0, begin, 1.0);
        while (begin < n) {
            const double bound = relative(weight_(ranking_.at(begin)));
            if (bound == 0.0) return;
            const bool tail = static_cast<double>(n - begin) * bound <= 0.5 * total_mass_;
            const size_t end = tail ? n : std::min(begin * kFactor, n);
            add(begin, end, bound);
            begin = end;
        }
    }

    // The first power of 4 whose b is below 1/2 (found by bisection), or n.
    size_t head_size(size_t n) const {
        const double below_half = std::nextafter(0.5, 0.0), weight = heaviest_ * std::exp2(-1.0 / exponent_);
        int low = 0, high = 0;
        while ((size_t{1} << (2 * high)) < n) ++high;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (is_above(ranking_.find(size_t{1} << (2 * middle)), below_half, weight)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return std::min(size_t{1} << (2 * low), n);
    }

    const Ranking& ranking_;
    Weight weight_;
    double exponent_;
    double heaviest_;
    double slack_;
    std::array<Group, kMaxGroups> groups_;
    size_t num_groups_ = 0;
    double total_mass_ = 0.0;
};

}  // namespace bavt
