#include "tree.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "power.h"

namespace bavt {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr uint8_t kMaxTries = 0xFF;
constexpr uint32_t kFirstCommit = 256;        // nodes: one page of Hot
constexpr uint32_t kKeptNodes = 8192;         // what stays in a reservation for the next tree: 1/4 MB
constexpr uint32_t kLargestCommit = 1 << 16;  // nodes
constexpr uint32_t kHugeFrom = 1 << 18;       // nodes from which on huge pages are asked for: 4 MiB of Hot

template <typename T>
char* place(Column<T>& column, char* at, size_t nodes) {
    column.data = reinterpret_cast<T*>(at);
    return at + Reservation::padded(nodes * sizeof(T));
}

}  // namespace

Tree::Tree(const TreeOptions& options)
    : max_nodes_(options.max_nodes),
      decay_(options.decay),
      rng_(options.seed),
      memory_(reserved_bytes(options.max_nodes)),
      path_(64) {
    layout();
    double power = 1.0;
    for (double& entry : decay_power_) {
        entry = power;
        power *= decay_;
    }
    reset(options.seed, options.root_value);
    committed_ = std::min(memory_.recycled() ? kKeptNodes : kFirstCommit, max_nodes_);
}

// The next tree in this memory finds a few pages in it, and no priors.
Tree::~Tree() {
    forget_priors();
    if (committed_ > kKeptNodes) discard_from(kKeptNodes, committed_);
}

size_t Tree::reserved_bytes(uint32_t max_nodes) {
    const size_t nodes = max_nodes;
    return Reservation::padded(nodes * sizeof(Hot)) + Reservation::padded(nodes * sizeof(double)) +
           2 * Reservation::padded(nodes) + 3 * Reservation::padded(nodes * sizeof(NodeId));
}

void Tree::forget_priors() {
    if (has_priors_) std::memset(priors_.data, 0, num_nodes_ * sizeof(float));
    has_priors_ = false;
}

void Tree::discard_from(uint32_t begin, uint32_t end) {
    const auto give_back = [&](const auto& column) { Reservation::discard(column.at(begin), column.at(end)); };
    give_back(hot_), give_back(values_), give_back(parents_), give_back(tries_), give_back(flags_);
    give_back(next_), give_back(priors_);
}

void Tree::layout() {
    char* at = memory_.data();
    at = place(hot_, at, max_nodes_);
    at = place(values_, at, max_nodes_);
    at = place(parents_, at, max_nodes_);
    at = place(tries_, at, max_nodes_);
    at = place(flags_, at, max_nodes_);
    at = place(next_, at, max_nodes_);
    place(priors_, at, max_nodes_);
}

void Tree::reset(uint64_t seed, double root_value) {
    forget_priors();
    rng_ = CounterRng(seed);
    num_nodes_ = 1;
    path_length_ = 0;
    ranking_.reset();
    write_child(kNone, kRoot, root_value, false);
}

// Pages come in growing steps, one system call for many, and never more than as much again as is in use.
void Tree::commit(uint32_t nodes) {
    const uint32_t from = committed_;
    const uint64_t step = std::clamp(from, kFirstCommit, kLargestCommit);
    committed_ = static_cast<uint32_t>(std::min<uint64_t>(std::max<uint64_t>(nodes, from + step), max_nodes_));
    const auto each = [&](const auto& column) {
        if (from <= kHugeFrom && committed_ > kHugeFrom) {
            Reservation::prefer_huge_pages(column.at(from), column.at(max_nodes_));
        }
        Reservation::populate(column.at(from), column.at(committed_));
    };
    each(hot_), each(values_), each(parents_), each(tries_), each(flags_);
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

NodeId Tree::expand(NodeId node, const double* values, const uint8_t* terminal, const float* priors, uint32_t count) {
    require_expandable(node, count);
    const NodeId first = num_nodes_;
    if (first + count > committed_) commit(first + count);
    bool any_open = false;
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
    if (ranking_) {
        for (NodeId child = first; child < num_nodes_; ++child) {
            if (rankable(child)) ranking_->insert(child, weights());
        }
    }
    return first;
}

void Tree::write_child(NodeId parent, NodeId child, double value, bool terminal) {
    hot_[child] = {0.0, 0, terminal ? kShut : 0};
    values_[child] = value;
    parents_[child] = parent;
    tries_[child] = 0;
    flags_[child] = terminal ? kTerminal : 0;
}

// A prior that was never written reads as +0, "not given"; a prior of zero is stored as -0.
void Tree::write_prior(NodeId node, float prior) {
    priors_[node] = prior == 0.0f ? -0.0f : prior;
    has_priors_ = true;
}

void Tree::append_block(NodeId node, NodeId first, uint32_t count) {
    uint32_t& word = hot_[node].children;
    const uint32_t old_count = (word & ~kShut) >> kIdBits;
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

NodeId Tree::block_end(NodeId first) const {
    const NodeId parent = parents_[first];
    NodeId end = first + 1;
    while (end < num_nodes_ && parents_[end] == parent) ++end;
    return end;
}

template <typename Visit>
void Tree::for_each_block(NodeId node, Visit visit) const {
    const uint32_t word = hot_[node].children & ~kShut;
    const uint32_t count = word >> kIdBits;
    const NodeId newest = word & kIdMask;
    if (count == 0) return;
    if (count != kRing) return visit(newest, newest + count);
    NodeId block = newest;
    do {
        block = next_[block];
        visit(block, block_end(block));
    } while (block != newest);
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

void Tree::refresh_shut(NodeId node) {
    while (node != kNone) {
        const bool now = should_be_shut(node);
        if (now == shut(node)) return;  // nothing changes further up
        hot_[node].children ^= kShut;
        node = parents_[node];
    }
}

void Tree::update_flags(NodeId node, uint8_t flags) {
    const bool before = rankable(node);
    flags_[node] = flags;
    if (!ranking_ || before == rankable(node)) return;
    if (before) {
        ranking_->erase(node, weights());
    } else {
        ranking_->insert(node, weights());
    }
}

void Tree::set_flag(NodeId node, Flag flag, bool on) {
    update_flags(node, static_cast<uint8_t>(on ? flags_[node] | flag : flags_[node] & ~flag));
    refresh_shut(node);
}

void Tree::mark_terminal(NodeId node) {
    require_childless(node);
    set_flag(node, kTerminal, true);
}

void Tree::prune(NodeId node) {
    std::vector<NodeId> below{node};
    while (!below.empty()) {
        const NodeId next = below.back();
        below.pop_back();
        update_flags(next, flags_[next] | kPruned);
        hot_[next].children |= kShut;
        for_each_block(next, [&](NodeId child, NodeId end) {
            for (; child < end; ++child) below.push_back(child);
        });
    }
    refresh_shut(parents_[node]);
}

// ---- Selecting ---------------------------------------------------------------------------------------------------

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
        std::vector<NodeId> open;
        for (NodeId node = 0; node < num_nodes_; ++node) {
            if (rankable(node)) open.push_back(node);
        }
        ranking_.emplace().build(std::move(open), weights());
    }
    return *ranking_;
}

template <typename Score>
NodeId Tree::descend(Score score, uint32_t max_depth) {
    path_length_ = 0;
    if (shut(kRoot)) return kNone;
    NodeId node = kRoot;
    for (uint32_t depth = 0;; ++depth) {
        if (depth == path_.size()) path_.resize(2 * path_.size());
        path_[depth] = node;
        const uint32_t word = hot_[node].children & ~kShut;
        if (word == 0 || depth == max_depth) {
            path_length_ = depth + 1;
            return node;
        }
        score.enter(hot_[node].visits);
        node = best_child(node, word, score);
    }
}

// The highest score among the children that are not shut, the first on ties; a NaN never wins over a number.
template <typename Score>
inline NodeId Tree::best_child(NodeId node, uint32_t word, const Score& score) const {
    const uint32_t count = word >> kIdBits;
    const NodeId newest = word & kIdMask;
    Best best{kMinusInfinity, kNone};
    if (count != kRing) {
        best = scan(newest, newest + count, Score::kNeedsPrior ? 1.0 / count : 0.0, score, best);
    } else {
        best = scan_blocks(node, score);
    }
    return best.node != kNone ? best.node : first_open_child(node);
}

template <typename Score>
Tree::Best Tree::scan_blocks(NodeId node, const Score& score) const {
    uint32_t total = 0;
    if (Score::kNeedsPrior) for_each_block(node, [&](NodeId child, NodeId end) { total += end - child; });
    Best best{kMinusInfinity, kNone};
    for_each_block(node, [&](NodeId child, NodeId end) { best = scan(child, end, 1.0 / total, score, best); });
    return best;
}

// Without branches that depend on scores: which child wins cannot be predicted.
template <typename Score>
inline Tree::Best Tree::scan(NodeId child, NodeId end, double uniform, const Score& score, Best best) const {
    static constexpr double kBarrier[2] = {0.0, kMinusInfinity};
    for (; child < end; ++child) {
        const Hot& hot = hot_[child];
        const ChildStats stats{hot.value_sum, hot.visits};
        const double barrier = kBarrier[hot.children >> 31];
        double s;
        if constexpr (Score::kNeedsPrior) {
            const float given = priors_[child];
            const bool is_given = given != 0.0f || std::signbit(given);
            s = score(stats, barrier, values_[child], is_given ? static_cast<double>(given) : uniform);
        } else {
            s = score(stats, barrier);
        }
        const uint32_t wins = 0u - static_cast<uint32_t>(s > best.score);
        best.score = s > best.score ? s : best.score;
        best.node ^= (best.node ^ child) & wins;
    }
    return best;
}

// Where every score is -inf or NaN.
NodeId Tree::first_open_child(NodeId node) const {
    NodeId found = kNone;
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end && found == kNone; ++child) {
            if (!shut(child)) found = child;
        }
    });
    return found;
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

void Tree::penalize(NodeId node) {
    if (tries_[node] == kMaxTries) return;
    const bool ranked = ranking_ && rankable(node);
    if (ranked) ranking_->erase(node, weights());
    ++tries_[node];
    if (ranked) ranking_->insert(node, weights());
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
    }
    const uint32_t before = num_nodes_;
    num_nodes_ = static_cast<uint32_t>(old_ids.size());
    if (has_priors_) std::memset(priors_.at(num_nodes_), 0, (before - num_nodes_) * sizeof(float));
    discard_from(num_nodes_, committed_);
    committed_ = num_nodes_;
    path_length_ = 0;
    ranking_.reset();
    rebuild_links();
    return old_ids;
}

}  // namespace bavt
