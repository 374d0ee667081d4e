#include "tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace bavt {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr uint16_t kMaxDepth = 0xFFFF;
constexpr uint16_t kMaxTries = 0xFFFF;

double log_weight(double value) { return value > 0.0 ? std::log(value) : kMinusInfinity; }

}  // namespace

Tree::Tree(uint64_t seed, uint32_t max_nodes, double root_value, double decay)
    : max_nodes_(max_nodes),
      log_decay_(std::log(decay)),
      rng_(seed),
      hot_(max_nodes),
      links_(max_nodes),
      values_(max_nodes),
      log_weights_(max_nodes),
      priors_(max_nodes),
      tries_(max_nodes) {
    hot_[kRoot] = {0.0, 0, 0, 0, 1};
    links_[kRoot] = {kNone, kNone, kNone, 1};
    values_[kRoot] = root_value;
    log_weights_[kRoot] = log_weight(root_value);
    priors_[kRoot] = 1.0f;
    num_nodes_ = 1;
}

template <typename Visit>
void Tree::for_each_block(NodeId node, Visit visit) const {
    const NodeId last = links_[node].last_block;
    if (last == kNone) return;
    NodeId block = last;
    do {
        block = links_[block].next_block;
        visit(block, block + links_[block].block_size);
    } while (block != last);
}

NodeId Tree::expand(NodeId node, const double* values, const uint8_t* terminal, const float* priors, uint32_t count) {
    if (count > max_nodes_ - num_nodes_) {
        throw CapacityError("max_nodes: " + std::to_string(count) + " more nodes do not fit a tree of " +
                            std::to_string(num_nodes_) + " with max_nodes=" + std::to_string(max_nodes_) +
                            "; make the tree with a larger max_nodes");
    }
    if ((hot_[node].flags & (kTerminal | kPruned)) != 0) {
        throw std::invalid_argument("node: " + std::to_string(node) +
                                    " is terminal or pruned and cannot be expanded; expand what select() returns");
    }
    if (hot_[node].depth == kMaxDepth) throw std::invalid_argument("node: the tree is 65,535 deep already");
    const NodeId first = num_nodes_;
    const auto depth = static_cast<uint16_t>(hot_[node].depth + 1);
    for (uint32_t i = 0; i < count; ++i) {
        const NodeId child = first + i;
        const bool ends = terminal != nullptr && terminal[i] != 0;
        hot_[child] = {0.0, 0, depth, static_cast<uint8_t>(ends ? kTerminal : 0), static_cast<uint8_t>(!ends)};
        links_[child] = {node, kNone, kNone, 0};
        values_[child] = values[i];
        log_weights_[child] = log_weight(values[i]);
        priors_[child] = priors != nullptr ? priors[i] : 1.0f / static_cast<float>(count);
    }
    num_nodes_ += count;
    append_block(node, first, count);
    refresh_open_leaf(node);
    return first;
}

void Tree::append_block(NodeId node, NodeId first, uint32_t count) {
    const NodeId last = links_[node].last_block;
    links_[first].block_size = count;
    links_[first].next_block = last == kNone ? first : links_[last].next_block;
    if (last != kNone) links_[last].next_block = first;
    links_[node].last_block = first;
}

bool Tree::open_leaf_below(NodeId node) const {
    if ((hot_[node].flags & (kTerminal | kPruned)) != 0) return false;
    if (links_[node].last_block == kNone) return hot_[node].flags == 0;
    bool found = false;
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end; ++child) found |= hot_[child].has_open_leaf != 0;
    });
    return found;
}

void Tree::refresh_open_leaf(NodeId node) {
    while (node != kNone) {
        const bool now = open_leaf_below(node);
        if (now == (hot_[node].has_open_leaf != 0)) return;  // nothing changes further up
        hot_[node].has_open_leaf = now;
        node = links_[node].parent;
    }
}

NodeId Tree::select(Policy policy, const SelectArgs& args) {
    switch (policy) {
        case Policy::kPower:
            return draw_by_power(args.remaining, args.total);
        case Policy::kBestFirst:
            return heaviest();
        case Policy::kUcb:
            return descend(Ucb(args.exploration, args.total, args.remaining), args.max_depth);
        case Policy::kUct:
            return descend(Uct{args.exploration}, args.max_depth);
        case Policy::kPuct:
            return descend(Puct{args.exploration}, args.max_depth);
    }
    return kNone;
}

template <typename Score>
NodeId Tree::descend(Score score, uint32_t max_depth) const {
    NodeId node = kRoot;
    if (hot_[node].has_open_leaf == 0) return kNone;
    while (links_[node].last_block != kNone && hot_[node].depth < max_depth) {
        score.enter(hot_[node].visits);
        node = best_child(node, score);
    }
    return node;
}

// The highest score among the children with an open leaf, the first on ties; a NaN never wins over a number.
template <typename Score>
NodeId Tree::best_child(NodeId node, Score& score) const {
    NodeId best = kNone;
    double best_score = kMinusInfinity;
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end; ++child) {
            if (hot_[child].has_open_leaf == 0) continue;
            const double s = score({hot_[child].value_sum, values_[child], priors_[child], hot_[child].visits});
            if (best == kNone || s > best_score) {
                best = child;
                best_score = s;
            }
        }
    });
    return best;
}

// P(node) ∝ V(node)^(total / remaining), with V decayed by its tries, over all open nodes. Weights are taken relative to
// the largest, so that no exponent overflows; with nothing remaining the largest itself is taken.
NodeId Tree::draw_by_power(double remaining, double total) {
    const double uniform = rng_.uniform();
    const NodeId top = heaviest();
    if (top == kNone || remaining <= 0.0) return top;
    const double exponent = total / remaining;
    const double top_weight = log_weights_[top];
    scratch_.resize(num_nodes_);
    double sum = 0.0;
    for (NodeId node = 0; node < num_nodes_; ++node) {
        const bool candidate = hot_[node].flags == 0 && log_weights_[node] > kMinusInfinity;
        if (candidate) sum += std::exp((log_weights_[node] - top_weight) * exponent);
        scratch_[node] = sum;
    }
    const double target = uniform * sum;
    const auto found = std::upper_bound(scratch_.begin(), scratch_.end(), target);
    return found == scratch_.end() ? top : static_cast<NodeId>(found - scratch_.begin());
}

NodeId Tree::heaviest() const {
    NodeId best = kNone;
    double best_weight = kMinusInfinity;
    for (NodeId node = 0; node < num_nodes_; ++node) {
        if (hot_[node].flags == 0 && log_weights_[node] > best_weight) {
            best = node;
            best_weight = log_weights_[node];
        }
    }
    return best;
}

void Tree::backup(NodeId node, double value, Backup mode) {
    for (; node != kNone; node = links_[node].parent) {
        Hot& hot = hot_[node];
        if (mode == Backup::kMean) {
            hot.value_sum += value;
            ++hot.visits;
        } else {
            const double best = hot.visits == 0 ? value : std::max(hot.value_sum / hot.visits, value);
            ++hot.visits;
            hot.value_sum = best * hot.visits;
        }
    }
}

void Tree::penalize(NodeId node) {
    if (tries_[node] == kMaxTries) return;
    ++tries_[node];
    log_weights_[node] = log_weight(values_[node]) + tries_[node] * log_decay_;
}

void Tree::set_flag(NodeId node, Flag flag, bool on) {
    hot_[node].flags = static_cast<uint8_t>(on ? hot_[node].flags | flag : hot_[node].flags & ~flag);
    refresh_open_leaf(node);
}

void Tree::prune(NodeId node) {
    std::vector<NodeId> below{node};
    while (!below.empty()) {
        const NodeId next = below.back();
        below.pop_back();
        hot_[next].flags |= kPruned;
        hot_[next].has_open_leaf = 0;
        for_each_block(next, [&](NodeId child, NodeId end) {
            for (; child < end; ++child) below.push_back(child);
        });
    }
    if (links_[node].parent != kNone) refresh_open_leaf(links_[node].parent);
}

std::vector<NodeId> Tree::best_path() const {
    NodeId best = kNone;
    const auto better = [this](NodeId a, NodeId b) {
        const bool a_ends = (hot_[a].flags & kTerminal) != 0, b_ends = (hot_[b].flags & kTerminal) != 0;
        if (a_ends != b_ends) return a_ends;
        if (values_[a] != values_[b]) return values_[a] > values_[b];
        return hot_[a].depth > hot_[b].depth;
    };
    for (NodeId node = 1; node < num_nodes_; ++node) {
        const bool leaf = links_[node].last_block == kNone && (hot_[node].flags & kPruned) == 0;
        if (leaf && (best == kNone || better(node, best))) best = node;
    }
    std::vector<NodeId> path;
    for (; best != kNone && best != kRoot; best = links_[best].parent) path.push_back(best);
    std::reverse(path.begin(), path.end());
    return path;
}

std::vector<NodeId> Tree::children(NodeId node) const {
    std::vector<NodeId> found;
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end; ++child) found.push_back(child);
    });
    return found;
}

}  // namespace bavt
