// Selecting: draws among all open nodes, and descents from the root.
#include <algorithm>
#include <cmath>
#include <limits>

#include "power.h"
#include "tree.h"

namespace bavt {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

}  // namespace

NodeId Tree::select(Policy policy, const SelectArgs& args) {
    switch (policy) {
        case Policy::kPower:
            if (ranking().size() == 0) return kNone;
            return PowerSampler(*ranking_, weights(), args.total / args.remaining).draw(rng_);
        case Policy::kBestFirst:
            return ranking().size() == 0 ? kNone : ranking_->at(0);
        case Policy::kUcb:
            return descend(Ucb(args.exploration, args.total, args.remaining), args.max_depth);
        case Policy::kUct:
            return descend(Uct(args.exploration), args.max_depth);
        case Policy::kPuct:
            return descend(Puct(args.exploration), args.max_depth);
    }
    return kNone;
}

Ranking& Tree::ranking() {
    if (!ranking_) {
        std::vector<Ranking::Item> open;
        for (NodeId node = 0; node < num_nodes_; ++node) {
            if (rankable(node)) open.push_back({weight(node), node});
        }
        ranking_.emplace().build(std::move(open));
    }
    return *ranking_;
}

// ---- One descent -------------------------------------------------------------------------------------------------

template <typename Rule>
NodeId Tree::descend(Rule rule, uint32_t max_depth) {
    path_length_ = 0;
    if (shut(kRoot)) return kNone;
    Place place = place_at(kRoot);
    for (uint32_t depth = 0; step<true>(rule, max_depth, depth, place); ++depth) {
    }
    return place.node;
}

inline Tree::Place Tree::place_at(NodeId node) const { return {node, hot_[node].children, hot_[node].visits}; }

// One level down; false where the descent ends. The highest score among the children that are not shut wins, the first
// on ties; a NaN never wins over a number. What the next step may read is fetched: of all children while their scores are
// compared, or of the chosen one alone where other descents are stepped meanwhile.
template <bool kAlone, typename Rule>
[[gnu::always_inline]] inline bool Tree::step(Rule rule, uint32_t max_depth, uint32_t depth, Place& place) {
    if (depth == path_.size()) path_.resize(2 * path_.size());
    path_[depth] = place.node;
    const uint32_t children = place.children & ~kShut;
    if (children == 0 || depth == max_depth) {
        path_length_ = depth + 1;
        return false;
    }
    const auto score = rule.below(place.visits);
    const NodeId first = children & kIdMask;
    const NodeId parent = place.node;
    double best = kMinusInfinity;
    switch (children >> kIdBits) {
        case 1:
            best = best_of<1, kAlone>(first, score, place);
            break;
        case 2:
            best = best_of<2, kAlone>(first, score, place);
            break;
        case 3:
            best = best_of<3, kAlone>(first, score, place);
            break;
        case 4:
            best = best_of<4, kAlone>(first, score, place);
            break;
        default:;
    }
    if (!(best > kMinusInfinity)) place = place_at(best_of_all(parent, score));
    if (!kAlone) {  // a small block lies in two cache lines at most
        __builtin_prefetch(&hot_[place.children & kIdMask]);
        __builtin_prefetch(&hot_[(place.children & kIdMask) + 2]);
    }
    return true;
}

template <typename Score>
[[gnu::always_inline]] inline double Tree::score_child(NodeId child, double uniform, Score score) const {
    const Hot& hot = hot_[child];
    const ChildStats stats{hot.value_sum, hot.visits, hot.children >> 31};
    if constexpr (Score::kNeedsPrior) {
        const float given = priors_[child];
        const bool is_given = given != 0.0f || std::signbit(given);
        return score(stats, values_[child], is_given ? static_cast<double>(given) : uniform);
    } else {
        return score(stats);
    }
}

// The usual case, one small block, without a branch on scores: which child wins cannot be predicted. Returns the best
// score; where it is NaN or -inf, `place` may be wrong.
template <uint32_t kCount, bool kFetch, typename Score>
[[gnu::always_inline]] inline double Tree::best_of(NodeId first, Score score, Place& place) const {
    place = place_at(first);
    if (kFetch) __builtin_prefetch(&hot_[place.children & kIdMask]);
    double best = score_child(first, 1.0 / kCount, score);
    for (NodeId child = first + 1; child < first + kCount; ++child) {
        const Place other = place_at(child);
        if (kFetch) __builtin_prefetch(&hot_[other.children & kIdMask]);
        const double s = score_child(child, 1.0 / kCount, score);
        const uint32_t wins = 0u - static_cast<uint32_t>(s > best);
        best = s > best ? s : best;
        place.node ^= (place.node ^ other.node) & wins;
        place.children ^= (place.children ^ other.children) & wins;
        place.visits ^= (place.visits ^ other.visits) & wins;
    }
    return best;
}

// Any number of children in any number of blocks, and any scores.
template <typename Score>
NodeId Tree::best_of_all(NodeId node, Score score) const {
    uint32_t total = 0;
    if (Score::kNeedsPrior) for_each_block(node, [&](NodeId child, NodeId end) { total += end - child; });
    double best = kMinusInfinity;
    NodeId chosen = kNone;
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end; ++child) {
            const double s = score_child(child, 1.0 / total, score);
            if (s > best) best = s, chosen = child;
        }
    });
    return chosen != kNone ? chosen : first_open_child(node);  // every score is -inf or NaN
}

NodeId Tree::first_open_child(NodeId node) const {
    NodeId found = kNone;
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end && found == kNone; ++child) {
            if (!shut(child)) found = child;
        }
    });
    return found;
}

// ---- Many descents -----------------------------------------------------------------------------------------------

void Tree::descend_many(Policy policy, Tree* const* trees, size_t count, const SelectArgs& args,
                        const double* remaining, NodeId* results) {
    const auto run = [&](auto rule_of) { descend_in_turn(trees, count, args.max_depth, rule_of, results); };
    if (policy == Policy::kUcb) {
        run([&](size_t i) { return Ucb(args.exploration, args.total, remaining ? remaining[i] : args.remaining); });
    } else if (policy == Policy::kUct) {
        run([&](size_t) { return Uct(args.exploration); });
    } else {
        run([&](size_t) { return Puct(args.exploration); });
    }
}

template <typename RuleOf>
void Tree::descend_in_turn(Tree* const* trees, size_t count, uint32_t max_depth, RuleOf rule_of, NodeId* results) {
    constexpr size_t kLanes = 16;
    struct Lane {
        Tree* tree;
        size_t index;
        decltype(rule_of(0)) rule;
        Place place;
        uint32_t depth;
    };
    size_t next = 0;
    const auto begin_next = [&]() -> std::optional<Lane> {
        while (next < count) {
            const size_t i = next++;
            if (i + 2 * kLanes < count) trees[i + 2 * kLanes]->prefetch();
            if (i + kLanes < count) trees[i + kLanes]->prefetch_root();
            trees[i]->path_length_ = 0;
            results[i] = kNone;
            if (!trees[i]->shut(kRoot)) return Lane{trees[i], i, rule_of(i), trees[i]->place_at(kRoot), 0};
        }
        return std::nullopt;
    };
    std::vector<Lane> lanes;
    while (lanes.size() < kLanes) {
        const auto lane = begin_next();
        if (!lane) break;
        lanes.push_back(*lane);
    }
    while (!lanes.empty()) {
        for (size_t k = 0; k < lanes.size();) {
            Lane& lane = lanes[k];
            if (lane.tree->template step<false>(lane.rule, max_depth, lane.depth, lane.place)) {
                ++lane.depth;
                ++k;
                continue;
            }
            results[lane.index] = lane.place.node;
            if (const auto another = begin_next()) {
                lane = *another;
                ++k;
            } else {
                lane = lanes.back();
                lanes.pop_back();
            }
        }
    }
}

}  // namespace bavt
