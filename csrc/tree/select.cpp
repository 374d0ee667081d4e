// Selecting: draws among all open nodes, and descents from the root.
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "tree/power.h"
#include "tree/tree.h"

namespace bavt {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

}  // namespace

NodeId Tree::select(Policy policy, const SelectArgs& args) {
    switch (policy) {
        case Policy::kPower:
            if (ranking().size() == 0) return kNone;
            return drawn(PowerSampler(*ranking_, decayed_weights(), args.total / args.remaining).draw(rng_));
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
            if (rankable(node)) open.push_back({decayed_weight(node), node});
        }
        Ranking made;
        made.build(std::move(open));
        ranking_ = std::move(made);
    }
    return *ranking_;
}

// What was drawn lies anywhere, and is as a rule expanded, backed up and penalized next.
NodeId Tree::drawn(NodeId node) const {
    __builtin_prefetch(&parents_[node]);
    __builtin_prefetch(&flags_[node], 1);
    __builtin_prefetch(&hot_[node], 1);
    __builtin_prefetch(&weights()[node]);
    __builtin_prefetch(&tries_[node], 1);
    return node;
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
[[gnu::always_inline]] inline double Tree::score_child(const Hot& hot, NodeId child, double uniform,
                                                       Score score) const {
    const ChildStats stats{hot.value_sum, hot.visits, (hot.children & kShut) != 0};
    if constexpr (Score::kNeedsPrior) {
        const float given = priors_[child];
        const bool is_given = given != 0.0f || std::signbit(given);
        return score(stats, values_[child], is_given ? static_cast<double>(given) : uniform);
    } else {
        return score(stats);
    }
}

// Takes the other place where its score is above the best one; a NaN is not. Conditional moves: from plain code compilers
// make branches, and masks take a tenth longer for the whole simulation.
[[gnu::always_inline]] inline void Tree::take_if_above(double score, double& best, const Place& other, Place& place) {
#if defined(__x86_64__)
    asm("comisd %[best], %[score]\n\t"
        "cmova %[other_node], %[node]\n\t"
        "cmova %[other_children], %[children]\n\t"
        "cmova %[other_visits], %[visits]"
        : [node] "+r"(place.node), [children] "+r"(place.children), [visits] "+r"(place.visits)
        : [score] "x"(score), [best] "x"(best), [other_node] "r"(other.node), [other_children] "r"(other.children),
          [other_visits] "r"(other.visits)
        : "cc");
    best = _mm_cvtsd_f64(_mm_max_sd(_mm_set_sd(score), _mm_set_sd(best)));
#else
    const uint32_t above = 0u - static_cast<uint32_t>(score > best);
    best = score > best ? score : best;
    place.node ^= (place.node ^ other.node) & above;
    place.children ^= (place.children ^ other.children) & above;
    place.visits ^= (place.visits ^ other.visits) & above;
#endif
}

// The usual case, one small block, without a branch on scores: which child wins cannot be predicted. Returns the best
// score; where it is NaN or -inf, `place` may be wrong.
template <uint32_t kCount, bool kFetch, typename Score>
[[gnu::always_inline]] inline double Tree::best_of(NodeId first, Score score, Place& place) const {
    const Hot* const block = &hot_[first];
    place = {first, block[0].children, block[0].visits};
    if (kFetch) __builtin_prefetch(&hot_[place.children & kIdMask]);
    double best = score_child(block[0], first, 1.0 / kCount, score);
    for (uint32_t i = 1; i < kCount; ++i) {
        const Place other{first + i, block[i].children, block[i].visits};
        if (kFetch) __builtin_prefetch(&hot_[other.children & kIdMask]);
        const double s = score_child(block[i], first + i, 1.0 / kCount, score);
        take_if_above(s, best, other, place);
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
            const double s = score_child(hot_[child], child, 1.0 / total, score);
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
