#include "tree/tree.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <stdexcept>
#include <utility>

namespace bavt {
namespace {

constexpr uint8_t kMaxTries = 0xFF;
constexpr size_t kFirstPath = 64;  // depth from which on a descent has to make room for its path

}  // namespace

DecayPowers::DecayPowers(double decay) {
    double product = 1.0;
    for (double& entry : power) {
        entry = product;
        product *= decay;
    }
}

Tree::Tree(const TreeOptions& options)
    : NodeColumns(options.max_nodes, options.compact),
      path_(kFirstPath),
      decay_(options.decay),
      powers_(options.powers ? options.powers : std::make_shared<const DecayPowers>(options.decay)),
      decay_power_(powers_->power),
      rng_(options.seed) {
    reset(options.seed, options.root_value);
}

uint64_t Tree::bytes_to_begin_with(const TreeOptions& options) {
    return columns_to_begin_with(options.max_nodes, options.compact) + sizeof(Tree) + kFirstPath * sizeof(NodeId);
}

void Tree::reset(uint64_t seed, double root_value) {
    forget_priors();
    weights_.clear();
    rng_ = CounterRng(seed);
    num_nodes_ = 1;
    path_length_ = 0;
    ranking_.reset();
    write_child(kNone, kRoot, root_value, false);
}

void Tree::require_expandable(NodeId node, uint64_t count) const {
    if (count > max_nodes_ - num_nodes_) {
        throw CapacityError("max_nodes: " + std::to_string(count) + " more nodes do not fit a tree of " +
                            std::to_string(num_nodes_) + " with max_nodes=" + std::to_string(max_nodes_) +
                            "; make the tree with a larger max_nodes (or max_bytes)");
    }
    if ((flags_[node] & (kTerminal | kPruned)) != 0) {
        throw std::invalid_argument("node: " + std::to_string(node) +
                                    " is terminal or pruned and cannot be expanded; expand what select() returns");
    }
}

void Tree::require_childless(NodeId node) const {
    if (!has_children(node)) return;
    throw std::invalid_argument("node: " + std::to_string(node) +
                                " has children and cannot be terminal; prune() or close() it instead");
}

// ---- Growing -----------------------------------------------------------------------------------------------------

NodeId Tree::expand(NodeId node, const double* values, const uint8_t* terminal, const float* priors, uint32_t count,
                    const double* weights) {
    if (!can_expand(node, count)) require_expandable(node, count);
    const NodeId first = num_nodes_;
    make_room(first + count);
    if (weights != nullptr || has_weights()) add_weights(first, weights == nullptr ? values : weights, count);
    bool any_open = terminal == nullptr;
    for (uint32_t i = 0; i < count; ++i) {
        const bool ends = terminal != nullptr && terminal[i] != 0;
        write_child(node, first + i, values[i], ends);
        any_open |= !ends;
    }
    if (priors != nullptr) {
        for (uint32_t i = 0; i < count; ++i) write_prior(first + i, priors[i]);
    }
    num_nodes_ += count;
    append_block(node, first, count);
    if (any_open == shut(node)) refresh_shut(node);
    if (ranking_) rank_new(first);
    return first;
}

// The first weights that are given stand beside the values of all nodes before them.
void Tree::add_weights(NodeId first, const double* weights, uint32_t count) {
    const size_t size = size_t{first} + count;
    make_room_for_weights(size);
    if (weights_.empty()) weights_.assign(values_.data, values_.data + first);
    weights_.insert(weights_.end(), weights, weights + count);
}

void Tree::make_room_for_weights(size_t size) {
    if (weights_.capacity() < size) weights_.reserve(std::max(size, 2 * weights_.capacity()));
}

void Tree::set_root_weight(double weight) { weights_.assign(1, weight); }

// Where memory runs out the ranking may be half changed. It follows from the nodes, so it is given up and made anew by the
// next draw; what the caller does to the tree goes on.
template <typename Change>
void Tree::change_ranking(Change change) {
    try {
        change();
    } catch (const std::bad_alloc&) {
        ranking_.reset();
    }
}

void Tree::rank_new(NodeId first) {
    change_ranking([&] {
        NodeId above = parents_[first];  // what is backed up next climbs from here
        const auto climb = [&] {
            if (above == kNone) return;
            __builtin_prefetch(&hot_[above], 1);
            above = parents_[above];
            if (above != kNone) __builtin_prefetch(&parents_[above]);
        };
        NodeId batch[Ranking::kBatch];
        size_t count = 0;
        for (NodeId child = first; child < num_nodes_; ++child) {
            if (rankable(child)) batch[count++] = child;
            if (count == Ranking::kBatch || (child + 1 == num_nodes_ && count > 0)) {
                ranking_->insert(batch, std::exchange(count, 0), decayed_weights(), climb);
            }
        }
    });
}

void Tree::prefetch_expand(NodeId node) const {
    const NodeId end = num_nodes_;
    __builtin_prefetch(&hot_[node], 1);
    __builtin_prefetch(&flags_[node], 1);
    __builtin_prefetch(&values_[node]);
    __builtin_prefetch(&parents_[node]);
    if (path_length_ >= 2) __builtin_prefetch(&hot_[path_[path_length_ - 2]]);
    __builtin_prefetch(&hot_[end], 1);
    __builtin_prefetch(&hot_[end + 2], 1);
    __builtin_prefetch(&values_[end], 1);
    __builtin_prefetch(&parents_[end], 1);
    __builtin_prefetch(&tries_[end], 1);
    __builtin_prefetch(&flags_[end], 1);
}

void Tree::prefetch_backup(NodeId node) const {
    __builtin_prefetch(&hot_[node], 1);
    __builtin_prefetch(&flags_[node]);
    __builtin_prefetch(&parents_[node]);
    for (uint32_t i = 0; i < path_length_; ++i) __builtin_prefetch(&hot_[path_[i]], 1);
}

void Tree::write_child(NodeId parent, NodeId child, double value, bool terminal) {
    hot_[child] = {0.0, 0, terminal ? kShut : 0};
    values_[child] = value;
    parents_[child] = parent;
    tries_[child] = 0;
    flags_[child] = terminal ? kTerminal : 0;
}

void Tree::append_block(NodeId node, NodeId first, uint32_t count) {
    uint32_t& word = hot_[node].children;
    const uint32_t old_count = (word & ~kShut) >> kIdBits;
    if (old_count == 0 && count < kRing) {
        word |= (count << kIdBits) | first;
        return;
    }
    const NodeId old = word & kIdMask;
    const bool extends = old_count != 0 && parents_[first - 1] == node;  // the newest block ends right before
    NodeId id = extends ? old : first;
    uint32_t new_count = extends ? old_count + count : count;
    if (old_count == kRing) {
        new_count = kRing;
        if (!extends) {
            next_[first] = next_[old];
            next_[old] = first;
        }
    } else if (old_count != 0 && !extends) {
        new_count = kRing;
        next_[old] = first;
        next_[first] = old;
    } else if (count >= kRing || new_count >= kRing) {
        new_count = kRing;
        next_[id] = id;
    }
    word = (word & kShut) | (new_count << kIdBits) | id;
}

// ---- Which subtrees a descent may enter --------------------------------------------------------------------------

bool Tree::any_open_child(NodeId node) const {
    bool found = false;
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end && !found; ++child) found = !shut(child);
    });
    return found;
}

bool Tree::should_be_shut(NodeId node) const {
    if ((flags_[node] & (kTerminal | kPruned)) != 0) return true;
    return has_children(node) ? !any_open_child(node) : flags_[node] != 0;
}

// Goes up as far as something changes. Most calls end at a look at the parent: an open child keeps an open parent open,
// and nothing is left to shut above a shut one.
void Tree::refresh_shut(NodeId node) {
    while (node != kNone) {
        const bool now = should_be_shut(node);
        if (now == shut(node)) return;
        hot_[node].children ^= kShut;
        node = parent_of(node);
        if (node == kNone || shut(node) == now) return;
    }
}

void Tree::update_flags(NodeId node, uint8_t flags) {
    const bool before = rankable(node);
    flags_[node] = flags;
    if (!ranking_ || before == rankable(node)) return;
    change_ranking([&] {
        before ? ranking_->erase(node, decayed_weights()) : ranking_->insert(&node, 1, decayed_weights(), [] {});
    });
}

void Tree::set_flag(NodeId node, Flag flag, bool on) {
    update_flags(node, static_cast<uint8_t>(on ? flags_[node] | flag : flags_[node] & ~flag));
    refresh_shut(node);
}

void Tree::mark_selected(NodeId node) {
    if (ranking_ || has_children(node)) return set_flag(node, kInFlight, true);
    flags_[node] = kInFlight;  // it was open, so it had no flag
    hot_[node].children = kShut;
    const NodeId parent = parent_of(node);
    if (parent != kNone && !shut(parent)) refresh_shut(parent);
}

void Tree::release(NodeId node) {
    if ((flags_[node] & kInFlight) != 0) set_flag(node, kInFlight, false);
}

NodeId Tree::expand_selected(NodeId node, const double* values, const uint8_t* terminal, const float* priors,
                             uint32_t count) {
    require_expandable(node, count);
    update_flags(node, flags_[node] & ~kInFlight);
    return expand(node, values, terminal, priors, count);
}

void Tree::mark_terminal(NodeId node) {
    require_childless(node);
    set_flag(node, kTerminal, true);
}

void Tree::prune(NodeId node) {
    std::vector<NodeId> below{node}, all;  // all of them first: where memory runs out nothing is half pruned
    while (!below.empty()) {
        const NodeId next = below.back();
        below.pop_back();
        all.push_back(next);
        for_each_block(next, [&](NodeId child, NodeId end) {
            for (; child < end; ++child) below.push_back(child);
        });
    }
    for (const NodeId next : all) {
        update_flags(next, flags_[next] | kPruned);
        hot_[next].children |= kShut;
    }
    refresh_shut(parents_[node]);
}

// ---- Learning ----------------------------------------------------------------------------------------------------

void Tree::backup(NodeId node, double value, Backup mode) {
    const auto add_mean = [&](NodeId at) {
        hot_[at].value_sum += value;
        ++hot_[at].visits;
    };
    const auto add_max = [&](NodeId at) {
        Hot& hot = hot_[at];
        const double best = hot.visits == 0 ? value : std::max(hot.value_sum / hot.visits, value);
        ++hot.visits;
        hot.value_sum = best * hot.visits;
    };
    const auto each = [&](const auto& add) {
        const NodeId leaf = path_length_ > 0 ? path_[path_length_ - 1] : kNone;
        if (leaf != kNone && parents_[node] == leaf) {  // a new child of what was selected: its ancestors are known
            add(node);
            for (uint32_t i = path_length_; i-- > 0;) add(path_[i]);
        } else {
            for (; node != kNone; node = parents_[node]) add(node);
        }
    };
    if (mode == Backup::kMean) {
        each(add_mean);
    } else {
        each(add_max);
    }
}

bool Tree::penalize(NodeId node) {
    if (tries_[node] == kMaxTries) return false;
    set_tries(node, static_cast<uint8_t>(tries_[node] + 1));
    return true;
}

void Tree::unpenalize(NodeId node) {
    if (tries_[node] > 0) set_tries(node, static_cast<uint8_t>(tries_[node] - 1));
}

void Tree::set_tries(NodeId node, uint8_t tries) {
    const bool ranked = ranking_ && rankable(node);
    const double from = ranked ? decayed_weight(node) : 0.0;
    tries_[node] = tries;
    if (ranked) change_ranking([&] { ranking_->move(node, from, decayed_weights()); });
}

void Tree::set_weight(NodeId node, double weight) {
    if (!has_weights()) add_weights(num_nodes_, nullptr, 0);
    const bool was_ranked = ranking_ && rankable(node);
    const double from = was_ranked ? decayed_weight(node) : 0.0;
    const bool stays = was_ranked && weight > 0.0;
    if (was_ranked && !stays) change_ranking([&] { ranking_->erase(node, decayed_weights()); });
    weights_[node] = weight;
    if (!ranking_ || !rankable(node)) return;
    change_ranking([&] {
        stays ? ranking_->move(node, from, decayed_weights()) : ranking_->insert(&node, 1, decayed_weights(), [] {});
    });
}

void Tree::add_visits(NodeId node, int delta) {
    for (; node != kNone; node = parents_[node]) {
        uint32_t& visits = hot_[node].visits;
        if (delta > 0 || visits > 0) visits += static_cast<uint32_t>(delta);
    }
}

// ---- Reading -----------------------------------------------------------------------------------------------------

std::vector<uint32_t> Tree::depths() const {
    std::vector<uint32_t> depths(num_nodes_, 0);
    for (NodeId node = 1; node < num_nodes_; ++node) depths[node] = depths[parents_[node]] + 1;
    return depths;
}

std::vector<NodeId> Tree::best_path() const {
    const std::vector<uint32_t> depth = depths();
    NodeId best = kNone;
    const auto better = [&](NodeId a, NodeId b) {
        const bool a_ends = (flags_[a] & kTerminal) != 0, b_ends = (flags_[b] & kTerminal) != 0;
        if (a_ends != b_ends) return a_ends;
        if (values_[a] != values_[b]) return values_[a] > values_[b];
        return depth[a] > depth[b];
    };
    for (NodeId node = 1; node < num_nodes_; ++node) {
        const bool leaf = !has_children(node) && (flags_[node] & kPruned) == 0;
        if (leaf && (best == kNone || better(node, best))) best = node;
    }
    std::vector<NodeId> path;
    for (; best != kNone && best != kRoot; best = parents_[best]) path.push_back(best);
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

std::unique_ptr<Tree> Tree::clone() const {
    TreeOptions options;
    options.max_nodes = max_nodes_, options.decay = decay_, options.compact = true, options.powers = powers_;
    auto tree = std::make_unique<Tree>(options);
    tree->make_room(num_nodes_);
    tree->copy_columns(*this);
    tree->weights_ = weights_;
    tree->rng_ = rng_;
    return tree;
}

// ---- Keeping a part ----------------------------------------------------------------------------------------------

std::vector<NodeId> Tree::reroot(NodeId node) {
    constexpr NodeId kDropped = kNone;
    std::vector<NodeId> old_ids{node};
    std::vector<NodeId> new_ids(num_nodes_ - node, kDropped);  // of the nodes from the new root on
    new_ids[0] = kRoot;
    for (NodeId old = node + 1; old < num_nodes_; ++old) {
        const NodeId parent = parents_[old];
        if (parent < node || new_ids[parent - node] == kDropped) continue;
        new_ids[old - node] = static_cast<NodeId>(old_ids.size());
        old_ids.push_back(old);
    }
    for (NodeId id = 0; id < old_ids.size(); ++id) {  // new ids are not above the old ones: moving down is safe
        const NodeId old = old_ids[id];
        hot_[id] = hot_[old];
        hot_[id].children = 0;
        values_[id] = values_[old];
        parents_[id] = id == kRoot ? kNone : new_ids[parents_[old] - node];
        tries_[id] = tries_[old];
        flags_[id] = flags_[old];
        if (has_priors_) priors_[id] = priors_[old];
        if (has_weights()) weights_[id] = weights_[old];
    }
    shrink(static_cast<uint32_t>(old_ids.size()));
    if (has_weights()) weights_.resize(old_ids.size());
    path_length_ = 0;
    ranking_.reset();
    rebuild_links();
    return old_ids;
}

}  // namespace bavt
